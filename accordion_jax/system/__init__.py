"""The machine underneath: files written whole, locks, progress on the screen, how a command fails.

Every room may import this one; it imports none, and no JAX.
"""
