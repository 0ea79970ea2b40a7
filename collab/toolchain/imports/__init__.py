"""Models made elsewhere, as ``.keras`` or ``.tflite``; each compared with its source."""

from __future__ import annotations
