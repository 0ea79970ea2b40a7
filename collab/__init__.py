"""collab: one model, many small devices.

Split a ``.tflite`` model into stages, run them on peer edge nodes, and get the
whole model's answer back.
"""

from __future__ import annotations

__version__ = "0.1.0"
