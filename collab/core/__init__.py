"""Frozen types without I/O: what every other layer talks about."""
