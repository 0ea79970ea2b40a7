"""Keras models and ``.tflite`` files in other formats, each compared with its source."""

from __future__ import annotations
