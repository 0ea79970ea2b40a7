"""Elementwise float32 arithmetic: each result is rounded once by IEEE 754, so it is the same anywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import ImageSteps, Scaling

Floats = NDArray[np.float32]


def scaled(x: Floats, scaling: Scaling | None) -> Floats:
    """``(x - shift) / width`` over the last axis."""
    if scaling is None:
        return x
    shift, width = (np.array(numbers, np.float32) for numbers in (scaling.shift, scaling.width))
    made: Floats = np.divide(np.subtract(x, shift), width)
    return made


def pixels_to_floats(pixels: NDArray[np.uint8], steps: ImageSteps) -> Floats:
    """Pixels ``[…, height, width, channels]`` as the model takes them."""
    x = pixels.astype(np.float32)
    if steps.scale != 1.0:
        x /= np.float32(steps.scale)
    x = scaled(x, steps.scaling)
    if steps.layout == "chw":
        x = np.ascontiguousarray(np.moveaxis(x, -1, -3))
    return x
