"""A .tflite file as a graph: read it, see where it can be cut, split it, prove the split exact.

Pure functions of bytes; the only I/O is `read_model`. Running stages is the caller's.
"""

from __future__ import annotations

from collab.graph.cuts import Cut, allowed_cuts, check_cuts, cuts
from collab.graph.graph import Graph, Operator, custom_operators, parse_model, read_model, with_shapes
from collab.graph.reorder import reorder
from collab.graph.sampling import random_inputs, random_splits
from collab.graph.split import StageModel, manifest, split
from collab.graph.verify import VerifyReport, verify

__all__ = [
    "Cut",
    "Graph",
    "Operator",
    "StageModel",
    "VerifyReport",
    "allowed_cuts",
    "check_cuts",
    "custom_operators",
    "cuts",
    "manifest",
    "parse_model",
    "random_inputs",
    "random_splits",
    "read_model",
    "reorder",
    "split",
    "verify",
    "with_shapes",
]
