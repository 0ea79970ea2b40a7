"""Smaller and faster variants of a trained Keras model: techniques, recipes, the search for the best.

Recipes, searches and the surgery on channels are pure; TensorFlow is imported in functions only.
"""

from __future__ import annotations
