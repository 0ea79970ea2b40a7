"""Transforms of numbers: the largest, powers, scales and dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from collab.codec.tensors import Array
from collab.core.transforms import Dequantise, Normalise, Quantise

Floats = npt.NDArray[np.float32]


def saturated(values: Any, dtype: str) -> Array:
    """Values in another dtype: what it cannot hold becomes its nearest end, fractions are cut off.

    Not a number becomes 0 as a whole number.
    """
    target = np.dtype(dtype)
    given = np.asarray(values)
    if target.kind in "iu":
        if given.dtype.kind == "f":
            given = np.nan_to_num(given.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
            return _whole(np.trunc(given), target)
        if given.dtype.kind in "iu":
            ends, own = np.iinfo(target), np.iinfo(given.dtype)
            low, high = max(int(ends.min), int(own.min)), min(int(ends.max), int(own.max))
            whole: Array = np.clip(given, low, high).astype(target)
            return whole
    with np.errstate(over="ignore"):  # what is beyond a smaller float is infinite in it
        if target.kind == "f" and given.dtype.kind == "f" and target.itemsize < given.dtype.itemsize:
            most = np.finfo(target).max
            given = np.clip(given, -most, most)
        made: Array = given.astype(target)
    return made


def _whole(values: npt.NDArray[np.float64], target: np.dtype[Any]) -> Array:
    """Whole numbers from floats; the ends of 64 bits are no floats, so they are set apart."""
    ends = np.iinfo(target)
    low, high = values <= float(ends.min), values >= float(ends.max)
    made = np.where(low | high, 0.0, values).astype(target)
    made[low], made[high] = ends.min, ends.max
    return made


def top_k(values: Array, k: int) -> tuple[Array, npt.NDArray[np.int32]]:
    """The largest along the last axis, largest first; of equal ones the earlier."""
    # Ascending order of the reversed axis, read backwards, keeps equal ones in their order.
    turned = np.argsort(values[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., :k]
    at = values.shape[-1] - 1 - turned
    return np.take_along_axis(values, at, -1), at.astype(np.int32)


def softmax(values: Array) -> Floats:
    """``exp(x - max) / sum``, float32."""
    given = values.astype(np.float32)
    with np.errstate(invalid="ignore"):
        powers = np.exp(given - given.max(axis=-1, keepdims=True))
        made: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return made


def normalise(options: Normalise, values: Array) -> Floats:
    """``scale · x + offset`` in float32."""
    made: Floats = values.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        made *= np.asarray(options.scale, np.float32)
        made += np.asarray(options.offset, np.float32)
    return made


def quantise(options: Quantise, values: Array) -> Array:
    """As TFLite's reference QUANTIZE: ``round(x / scale)`` with halves away from zero, and the zero point."""
    assert options.scale is not None
    with np.errstate(over="ignore", invalid="ignore"):
        steps = values.astype(np.float32) / np.float32(options.scale)
        # Adding a half to the float just below one half would round it up.
        whole = np.trunc(steps)
        whole += np.sign(steps) * (np.abs(steps - whole) >= np.float32(0.5))
        whole[np.isnan(whole)] = 0
        return saturated(whole.astype(np.float64) + options.zero, options.dtype)


def dequantise(options: Dequantise, values: Array) -> Floats:
    """``scale · (x - zero)`` in float32."""
    assert options.scale is not None
    made: Floats = (values.astype(np.int32) - np.int32(options.zero)).astype(np.float32)
    made *= np.float32(options.scale)
    return made
