"""Applies `collab.core.preprocessing`: the one implementation, for training and for devices."""
