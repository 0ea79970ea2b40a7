"""What devices can do, and how a ``.tflite`` would do on them; needs no TensorFlow."""

from __future__ import annotations
