"""Clocks, recorded and emulated links, and the replay of a delivery over them."""
