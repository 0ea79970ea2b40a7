"""Releases on a device: what it runs, what it tries, what it goes back to, through any loss of power."""
