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
    rows = values.reshape(-1, values.shape[-1])
    at = np.stack([_top_of(row, k) for row in rows]) if len(rows) else np.zeros((0, k), np.intp)
    places = at.reshape(*values.shape[:-1], k)
    return np.take_along_axis(values, places, -1), places.astype(np.int32)


def _top_of(row: Array, k: int) -> npt.NDArray[np.intp]:
    """Places of the largest of one row."""
    likely = np.arange(len(row))
    if 4 * k < len(row):
        least = np.partition(row, len(row) - k)[len(row) - k]
        found = np.flatnonzero(row >= least)
        likely = found if len(found) >= k else likely  # nothing is as large as what is not a number
    # Ascending order read backwards, of places read backwards, keeps equal ones in their order.
    turned = np.argsort(row[likely][::-1], kind="stable")[::-1][:k]
    return likely[::-1][turned]


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
        # What 24 bits of a float32 cannot count is beyond the ends of 16 bits.
        whole += np.float32(options.zero)
    whole[np.isnan(whole)] = options.zero
    ends = np.iinfo(options.dtype)
    made: Array = np.clip(whole, ends.min, ends.max).astype(options.dtype)
    return made


def dequantise(options: Dequantise, values: Array) -> Floats:
    """``scale · (x - zero)`` in float32."""
    assert options.scale is not None
    made: Floats = (values.astype(np.int32) - np.int32(options.zero)).astype(np.float32)
    made *= np.float32(options.scale)
    return made
