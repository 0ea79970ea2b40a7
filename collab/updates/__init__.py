"""Models as they are given out."""
