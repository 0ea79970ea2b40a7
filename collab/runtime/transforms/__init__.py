"""Transforms in numpy: built-in stages between models, and stages that run their file for every row."""
