"""Training on prepared data, in folders that a later process goes on with to the same weights."""

from __future__ import annotations
