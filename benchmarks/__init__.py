"""Measurements against what one would otherwise write; not part of the installed package."""
