"""Real numbers to the integers of a quantised tensor, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import Quantisation
from collab.runtime.preprocessing.scaling import Floats


def to_integers(x: Floats, quantisation: Quantisation, dtype: str) -> NDArray[Any]:
    """The nearest integer, halves away from zero as LiteRT's QUANTIZE rounds, within the type's range."""
    scaled = x / np.float32(quantisation.scale)
    whole = np.trunc(scaled)
    # What is left after the point is exact, so halves are told apart from what is just below.
    rounded = whole + np.copysign(np.abs(scaled - whole) >= np.float32(0.5), scaled).astype(np.float32)
    rounded = rounded + np.float32(quantisation.zero_point)
    bounds = np.iinfo(dtype)
    made: NDArray[Any] = np.clip(rounded, bounds.min, bounds.max).astype(dtype)
    return made


def to_reals(q: NDArray[Any], quantisation: Quantisation | None) -> Floats:
    """What integers stand for; other tensors as float32."""
    if quantisation is None:
        return q.astype(np.float32)
    made: Floats = (q.astype(np.float32) - np.float32(quantisation.zero_point)) * np.float32(
        quantisation.scale
    )
    return made
