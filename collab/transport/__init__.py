"""Frames between two ends, over one protocol each, and nothing more."""
