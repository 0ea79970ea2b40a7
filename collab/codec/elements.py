"""How the elements of a tensor are written: as they are, in half precision, or in 8 bits.

Everything is little-endian and row-major.  The lossy forms write floating-point
tensors only, and only those of which every element can be kept within the form's
bound; a caller sends others raw.

Work goes through memory in pieces that stay in the processor's cache, with one
buffer for all of them: numpy's whole-array expressions are two to three times slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from collab.core.tensor import TensorSpec
from collab.errors import TensorError

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]
Bytes = npt.NDArray[np.uint8]

_PIECE: Final = 1 << 16
"""Elements worked on at a time; 256 KiB of float32."""
_LEVELS: Final = 255
"""Steps between the least and the largest of 256 codes."""
_CODE_SLACK: Final = 1e-4
"""Steps that the roundings of the difference, of the step and of its inverse can add, in float32."""
_HALF_MAX: Final = 65504.0
"""Largest finite binary16 number (IEEE 754-2019, table 3.5)."""
_HALF_EPS: Final = 2.0**-11
"""Largest relative error of rounding to a normal binary16 number."""
_HALF_STEP: Final = 2.0**-25
"""Largest error of rounding to a subnormal binary16 number."""


class Written(NamedTuple):
    """A tensor's elements as bytes."""

    data: memoryview
    error_bound: float
    """Largest error, relative to the tensor's largest less its least element; 0 if exact."""


class ElementCodec(Protocol):
    """Writes elements and reads them back; implementations are stateless."""

    def size(self, spec: TensorSpec) -> int | None:
        """Bytes that a tensor takes; None if its dtype is not for this codec."""
        ...

    def encode(self, array: Array) -> Written | None:
        """Bytes of an array whose dtype is for this codec; None if a value cannot be kept."""
        ...

    def decode(self, spec: TensorSpec, data: memoryview) -> Array:
        """Array of the spec's shape and dtype from exactly ``size(spec)`` bytes; raises `TensorError`."""
        ...


class Raw:
    """The elements themselves; exact, no copy."""

    def size(self, spec: TensorSpec) -> int | None:
        """Elements times element size."""
        return spec.nbytes

    def encode(self, array: Array) -> Written:
        """The array's own memory, or that of a contiguous little-endian copy."""
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        return Written(plain.reshape(-1).view(np.uint8).data, 0.0)

    def decode(self, spec: TensorSpec, data: memoryview) -> Array:
        """A view of ``data``."""
        return np.frombuffer(data, dtype=spec.dtype).reshape(spec.shape)


class Half:
    """float32 and float64 as IEEE binary16, rounded half to even."""

    def size(self, spec: TensorSpec) -> int | None:
        """Two bytes an element."""
        return 2 * math.prod(spec.shape) if spec.dtype in ("float32", "float64") else None

    def encode(self, array: Array) -> Written | None:
        """None for NaN, infinities, and what is over 65,504."""
        flat = _flat(array)
        low, high = _extremes(flat)
        largest = max(-low, high)
        if not largest <= _HALF_MAX:
            return None
        out = np.empty(flat.size, "<f2")
        np.copyto(out, flat, casting="unsafe")
        return Written(out.view(np.uint8).data, _ratio(max(largest * _HALF_EPS, _HALF_STEP), high - low))

    def decode(self, spec: TensorSpec, data: memoryview) -> Array:
        """Raises `TensorError` for NaN and infinities, which are never written."""
        halves = np.frombuffer(data, "<f2")
        out = np.empty(halves.size, spec.dtype)
        for piece in _pieces(halves.size):
            np.copyto(out[piece], halves[piece])
            if not (math.isfinite(out[piece].min()) and math.isfinite(out[piece].max())):
                raise TensorError(f"tensor {spec.name!r}: fp16 with an element that is not finite")
        return out.reshape(spec.shape)


class Affine:
    """Floating-point tensors in 8 bits: the least element and a step, then one code an element.

    ``x ≈ low + code · step``, one pair for the tensor or one for every index of the
    last axis.  The pairs are float64 for float64 tensors and float32 else, all lows
    before all steps.  Codes are rounded half to even, so an element is wrong by half a
    step, and the last place of its dtype.
    """

    def __init__(self, per_channel: bool) -> None:
        self._per_channel = per_channel

    def size(self, spec: TensorSpec) -> int | None:
        """One byte an element, and the pairs."""
        if spec.dtype not in ("float16", "float32", "float64"):
            return None
        return math.prod(spec.shape) + 2 * self._channels(spec.shape) * _pair_dtype(spec.dtype).itemsize

    def _channels(self, shape: tuple[int, ...]) -> int:
        return shape[-1] if self._per_channel and shape else 1

    def encode(self, array: Array) -> Written | None:
        """None for NaN, infinities, and a range that the dtype cannot hold."""
        channels = self._channels(array.shape)
        pair = _pair_dtype(array.dtype.name)
        rows = _flat(array).reshape(-1, channels)
        with np.errstate(all="ignore"):
            bounds = _channel_extremes(rows)
            extent = bounds[1].astype(np.float64) - bounds[0].astype(np.float64)
            low, high = (bound.astype(pair) for bound in bounds)
            step = (extent / _LEVELS).astype(pair)
            flat = high == low
            whole = (extent <= np.finfo(pair).max) & np.isfinite(low + step * pair.type(_LEVELS))
            if not (whole & (flat | (step >= np.finfo(pair).tiny))).all():
                return None
            if not _holds(array.dtype, low, high):
                return None
            step[flat] = 0
            scale = np.where(flat, pair.type(0), 1 / np.where(flat, pair.type(1), step)).astype(pair)
        out = np.empty(2 * pair.itemsize * channels + rows.size, np.uint8)
        pairs, codes = _divide(out, pair, channels)
        pairs[0], pairs[1] = low, step
        for a, z, start, factor in _blocks(rows, codes.reshape(-1, channels), low, scale):
            _quantise(a, z, start, factor)
        error = _affine_error(array.dtype, float(step.max()), max(-float(low.min()), float(high.max())))
        return Written(out.data, _ratio(error, float(high.max()) - float(low.min())))

    def decode(self, spec: TensorSpec, data: memoryview) -> Array:
        """Raises `TensorError` for pairs that no encoder writes."""
        channels = self._channels(spec.shape)
        pair = _pair_dtype(spec.dtype)
        (low, step), codes = _divide(np.frombuffer(data, np.uint8), pair, channels)
        with np.errstate(all="ignore"):
            top = low + step * pair.type(_LEVELS)
            if not (np.isfinite(low) & np.isfinite(top) & (step >= 0)).all():
                raise TensorError(f"tensor {spec.name!r}: int8 with a range that is not one")
        out = np.empty(codes.size, spec.dtype)
        with np.errstate(over="ignore"):
            for a, z, start, factor in _blocks(
                codes.reshape(-1, channels), out.reshape(-1, channels), low, step
            ):
                _restore(a, z, start, factor)
        return out.reshape(spec.shape)


def _pair_dtype(dtype: str) -> np.dtype[np.floating]:
    return np.dtype("<f8" if dtype == "float64" else "<f4")


def _divide(data: Bytes, pair: np.dtype[np.floating], channels: int) -> tuple[Floats, Bytes]:
    """Pairs as ``[2, channels]``, and the codes behind them."""
    head = 2 * channels * pair.itemsize
    return data[:head].view(pair).reshape(2, channels), data[head:]


def _flat(array: Array) -> Floats:
    plain: Floats = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(-1)
    return plain


def _pieces(count: int, step: int = _PIECE) -> Iterator[slice]:
    return (slice(at, min(at + step, count)) for at in range(0, count, step))


def _extremes(flat: Floats) -> tuple[float, float]:
    """Least and largest; NaN if there is one."""
    with np.errstate(invalid="ignore"):
        both = [(flat[piece].min(), flat[piece].max()) for piece in _pieces(flat.size)]
        lows, highs = np.array(both, np.float64).T
        return float(lows.min()), float(highs.max())


def _channel_extremes(rows: Floats) -> tuple[Floats, Floats]:
    """Least and largest of every column; NaN if there is one."""
    channels = rows.shape[1]
    if channels == 1:
        low, high = _extremes(rows.reshape(-1))
        return np.array([low]), np.array([high])
    many, rest = _widen(rows)
    parts = [part for part in (many, rest) if part.size]
    with np.errstate(invalid="ignore"):
        low = np.stack([part.min(0).reshape(-1, channels).min(0) for part in parts]).min(0)
        high = np.stack([part.max(0).reshape(-1, channels).max(0) for part in parts]).max(0)
    return low, high


def _widen(rows: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """The same memory in wider rows of whole pixels, for numpy is slow at short rows; and what is left."""
    count, channels = rows.shape
    fold = max(1, min(count, 4096 // max(1, channels)))
    cut = count - count % fold
    return rows[:cut].reshape(-1, fold * channels), rows[cut:]


def _blocks(
    source: Array, target: Array, first: Floats, second: Floats
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Cache-sized pieces of two arrays with the pair that belongs to each."""
    channels = source.shape[1]
    if channels == 1:
        flat, out = source.reshape(-1), target.reshape(-1)
        for piece in _pieces(flat.size):
            yield flat[piece], out[piece], first[0], second[0]
        return
    for part, out in zip(_widen(source), _widen(target), strict=True):
        if not part.size:
            continue
        times = part.shape[1] // channels
        wide = np.tile(first, times), np.tile(second, times)
        for piece in _pieces(len(part), max(1, _PIECE // part.shape[1])):
            yield part[piece], out[piece], *wide


def _quantise(values: Array, codes: Array, low: Array, scale: Array) -> None:
    """``rint((x − low) · scale)``."""
    work = np.subtract(values, low, dtype=low.dtype)
    np.multiply(work, scale, out=work)
    np.rint(work, out=work)
    np.copyto(codes, work, casting="unsafe")


def _restore(codes: Array, values: Array, low: Array, step: Array) -> None:
    """``low + code · step``, in the pair's dtype."""
    work = values if values.dtype == low.dtype else np.empty(values.shape, low.dtype)
    np.copyto(work, codes, casting="unsafe")
    np.multiply(work, step, out=work)
    np.add(work, low, out=work)
    if work is not values:
        np.copyto(values, work, casting="unsafe")


def _holds(dtype: np.dtype[Any], low: Floats, high: Floats) -> bool:
    """Whether the largest decoded element cannot round past the dtype's largest number."""
    most = float(np.finfo(dtype).max) * (1 - 2.0**-9)
    return -float(low.min()) <= most and float(high.max()) <= most


def _affine_error(dtype: np.dtype[Any], step: float, largest: float) -> float:
    """Half a step, and what rounding on the way to a code and back adds; 0 for constants."""
    info = np.finfo(dtype)
    own = 2 * float(info.eps) * largest + float(info.smallest_subnormal)
    return step * (0.5 + _CODE_SLACK) + own if step else 0.0


def _ratio(error: float, extent: float) -> float:
    if not error:
        return 0.0
    return error / extent if extent > 0 else math.inf
