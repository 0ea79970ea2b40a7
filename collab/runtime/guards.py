"""Whether a value goes over a guarded edge: how sure a tensor of scores is."""

from __future__ import annotations

import math

import numpy as np

from collab.codec.tensors import Array
from collab.core.plan import Guard


def measure(guard: Guard, scores: Array) -> float:
    """The guard's measure of the first row of ``scores``, shape [..., n], as float.

    NaN if there is no row, or a NaN in it; ``finite`` counts all rows and is never NaN.
    """
    if guard.measure == "finite":
        return float(np.isfinite(scores).mean()) if scores.size else 1.0
    if not scores.size:
        return math.nan
    row = np.asarray(scores, dtype=np.float64).reshape(-1, scores.shape[-1] if scores.ndim else 1)[0]
    if np.isnan(row).any():
        return math.nan
    if guard.measure == "max":
        return float(row.max())
    if guard.measure == "margin":
        top = np.partition(row, -2)[-2:] if row.size > 1 else np.array([0.0, row[0]])
        return float(top[1] - top[0])
    positive = row[row > 0]
    return float(-(positive * np.log(positive)).sum())


def passes(guard: Guard, scores: Array) -> bool:
    """Whether the value goes over the edge; NaN scores never count as sure."""
    value = measure(guard, scores)
    if math.isnan(value):
        # Low entropy is sure, but a high maximum or margin.
        return (guard.when == "below") != (guard.measure == "entropy")
    return value < guard.threshold if guard.when == "below" else value >= guard.threshold
