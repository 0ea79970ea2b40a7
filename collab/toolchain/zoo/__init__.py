"""Architectures by name, untrained or with weights from a user's file; needs TensorFlow when built."""

from __future__ import annotations

from collab.toolchain.zoo.build import build
from collab.toolchain.zoo.table import ZOO, entry

__all__ = ["ZOO", "build", "entry"]
