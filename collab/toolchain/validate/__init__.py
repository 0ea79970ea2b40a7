"""How right a model is, and how it compares with another one on the same examples."""

from __future__ import annotations
