"""Elements of one flat tensor as bytes: raw, fp16, or 8 bits around zero.

Unlike codes of activations (`collab.codec.elements`), codes of changes are symmetric: zero stays
zero, so what did not change packs to nothing.  Bytes of wide elements are written by planes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import TensorError

Flat = NDArray[np.floating]
Bytes = NDArray[np.uint8]

_LEVELS: Final = 127
_HALF_MAX: Final = 65504.0
"""Largest finite binary16 number (IEEE 754-2019, table 3.5)."""
_SCALE_BYTES: Final = 4
_PIECE: Final = 1 << 16
DTYPES: Final = ("float16", "float32", "float64")
FORMS: Final = ("raw", "fp16", "int8", "int8c")


def size(form: str, count: int, channels: int, dtype: str) -> int:
    """Bytes that so many elements take."""
    if form == "raw":
        return count * np.dtype(dtype).itemsize
    if form == "fp16":
        return 2 * count
    return count + _SCALE_BYTES * (channels if form == "int8c" else 1)


def holds(form: str, flat: Flat) -> bool:
    """Whether the form can write these values; raw writes all."""
    if form == "raw" or not flat.size:
        return True
    low, high = float(flat.min()), float(flat.max())
    most = _HALF_MAX if form == "fp16" else float(np.finfo(np.float32).max) / 2
    return -most <= low and high <= most


def write(form: str, flat: Flat, channels: int, random: np.random.Generator | None) -> bytes:
    """The elements in a form that `holds` them; 8 bits are rounded at random if a generator is given."""
    if form == "raw":
        return planes(flat.astype(flat.dtype.newbyteorder("<"), copy=False))
    if form == "fp16":
        return planes(flat.astype("<f2"))
    columns = channels if form == "int8c" else 1
    rows = flat.reshape(-1, columns)
    largest = np.abs(rows).max(axis=0, initial=0.0).astype(np.float64)
    scale = (largest / _LEVELS).astype("<f4")
    # A range below the least float32 step is as good as none.
    inverse = np.divide(1.0, scale, out=np.zeros(columns), where=scale > 0)
    codes = np.empty(rows.shape, np.int8)
    for piece in _pieces(len(rows), columns):
        part = rows[piece] * inverse
        if random is None:
            np.rint(part, out=part)
        else:
            part += random.random(part.shape)
            np.floor(part, out=part)
        np.clip(part, -_LEVELS, _LEVELS, out=part)
        np.copyto(codes[piece], part, casting="unsafe")
    return b"".join((scale.tobytes(), codes.tobytes()))


def read(form: str, data: memoryview, channels: int, dtype: str, name: str) -> Flat:
    """Elements from exactly `size` bytes; raises `TensorError` for what no encoder writes."""
    if form == "raw":
        return from_planes(data, np.dtype(dtype)).view(dtype)
    if form == "fp16":
        halves = from_planes(data, np.dtype(np.float16))
        if not np.isfinite(halves).all():
            raise TensorError(f"tensor {name!r}: fp16 with an element that is not finite")
        return halves.astype(dtype)
    columns = channels if form == "int8c" else 1
    scale = np.frombuffer(data[: _SCALE_BYTES * columns], "<f4")
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise TensorError(f"tensor {name!r}: {form} with a scale that is not one")
    codes = np.frombuffer(data[_SCALE_BYTES * columns :], np.int8).reshape(-1, columns)
    out = np.empty(codes.shape, dtype)
    with np.errstate(over="ignore"):
        for piece in _pieces(len(codes), columns):
            np.multiply(codes[piece], scale, out=out[piece], casting="unsafe", dtype=np.float32)
    return out.reshape(-1)


def planes(array: NDArray[Any]) -> bytes:
    """First bytes of all elements, then all second ones, and so on: exponents beside exponents."""
    columns: Bytes = array.reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize)
    return bytes(np.ascontiguousarray(columns.T).data)


def from_planes(data: memoryview, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Elements that `planes` wrote, in native byte order."""
    if not data:
        return np.empty(0, dtype)
    columns: Bytes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1)
    little: NDArray[Any] = np.ascontiguousarray(columns.T).reshape(-1).view(dtype.newbyteorder("<"))
    return little.astype(dtype, copy=False)


def channels_of(shape: tuple[int, ...]) -> int:
    """Columns that have a scale of their own with ``int8c``: the last axis."""
    return shape[-1] if shape and 0 not in shape else 1


def _pieces(rows: int, columns: int) -> list[slice]:
    step = max(1, _PIECE // columns)
    return [slice(at, min(at + step, rows)) for at in range(0, rows, step)]
