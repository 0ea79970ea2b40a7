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
_WIDE: Final = 4096
"""Elements of a row at which numpy's cost for each row no longer matters."""
_FEW: Final = 256
"""Rows whose cost does not matter."""
_ROUNDED: Final = 1 - 2.0**-9
"""Share of a dtype's largest number that leaves room for roundings, of float16, too."""
_LEVELS: Final = 255
"""Steps between the least and the largest of 256 codes."""
_CODE_SLACK: Final = 1e-4
"""Steps that the roundings of the difference, of the step and of its inverse can add, in float32."""
_HALF_MAX: Final = 65504.0
"""Largest finite binary16 number (IEEE 754-2019, table 3.5)."""
_HALF_SIGNLESS: Final = np.uint16(0x7FFF)
_HALF_INFINITY: Final = 0x7C00
"""The least pattern of binary16 that is not finite, without its sign (IEEE 754-2019, section 3.4)."""
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
        bits = halves.view("<u2")
        for piece in _pieces(halves.size):
            if (bits[piece] & _HALF_SIGNLESS).max() >= _HALF_INFINITY:
                raise TensorError(f"tensor {spec.name!r}: fp16 with an element that is not finite")
            np.copyto(out[piece], halves[piece])
        return out.reshape(spec.shape)


class Affine:
    """Floating-point tensors in 8 bits: the least element and a step, then one code an element.

    ``x ≈ low + code · step``.  Both are float64 for float64 tensors and float32 else.
    Codes are rounded half to even, so an element is wrong by half a step, and by
    roundings in the last places of its dtype.
    """

    def size(self, spec: TensorSpec) -> int | None:
        """One byte an element, and the pair."""
        limits = _LIMITS.get(spec.dtype)
        return None if limits is None else math.prod(spec.shape) + 2 * limits.pair.itemsize

    def encode(self, array: Array) -> Written | None:
        """None for NaN, infinities, and a range that the dtype cannot hold."""
        limits, flat = _LIMITS[array.dtype.name], _flat(array)
        low, high = _extremes(flat)
        extent = high - low
        if not (extent <= limits.most_extent and max(-low, high) <= limits.most):
            return None
        kind = limits.pair.type
        step = kind(extent / _LEVELS)
        if extent and step < limits.tiny:
            return None
        scale = kind(1 / step if step else 0)
        out = np.empty(2 * limits.pair.itemsize + flat.size, np.uint8)
        pairs, codes = _divide(out, limits.pair, 1)
        pairs[:, 0] = low, step
        least = pairs[0, 0]
        for piece in _pieces(flat.size):
            _quantise(flat[piece], codes[piece], least, scale)
        return Written(out.data, _ratio(limits.error(float(step), max(-low, high)), extent))

    def decode(self, spec: TensorSpec, data: memoryview) -> Array:
        """Raises `TensorError` for a pair that no encoder writes."""
        limits = _LIMITS[spec.dtype]
        pairs, codes = _divide(np.frombuffer(data, np.uint8), limits.pair, 1)
        low, step = pairs[:, 0].tolist()
        if not (0 <= step * _LEVELS <= limits.largest and _within(low, step, limits.largest)):
            raise TensorError(f"tensor {spec.name!r}: int8 with a range that is not one")
        out = np.empty(codes.size, spec.dtype)
        with np.errstate(over="ignore"):
            for piece in _pieces(codes.size):
                _restore(codes[piece], out[piece], pairs[0, 0], pairs[1, 0])
        return out.reshape(spec.shape)


class ChannelAffine:
    """As `Affine`, with one pair for every index of the last axis: all lows, all steps, then the codes."""

    def size(self, spec: TensorSpec) -> int | None:
        """One byte an element, and the pairs."""
        limits = _LIMITS.get(spec.dtype)
        if limits is None:
            return None
        return math.prod(spec.shape) + 2 * _channels(spec.shape) * limits.pair.itemsize

    def encode(self, array: Array) -> Written | None:
        """None for NaN, infinities, and a range that the dtype cannot hold."""
        channels, limits = _channels(array.shape), _LIMITS[array.dtype.name]
        pair = limits.pair
        rows = _flat(array).reshape(-1, channels)
        with np.errstate(all="ignore"):
            least, most = (bound.astype(np.float64) for bound in _channel_extremes(rows))
            extent = most - least
            largest = max(-float(least.min()), float(most.max()))
            if not (float(extent.max()) <= limits.most_extent and largest <= limits.most):
                return None
            step = (extent / _LEVELS).astype(pair)
            flat = extent == 0
            if not (flat | (step >= limits.tiny)).all():
                return None
            scale = np.where(flat, 0, 1 / step).astype(pair)
        out = np.empty(2 * pair.itemsize * channels + rows.size, np.uint8)
        pairs, codes = _divide(out, pair, channels)
        pairs[0], pairs[1] = least, step
        for a, z, start, factor in _blocks(rows, codes.reshape(-1, channels), pairs[0], scale):
            _quantise(a, z, start, factor)
        error = limits.error(float(step.max()), largest)
        return Written(out.data, _ratio(error, float(most.max()) - float(least.min())))

    def decode(self, spec: TensorSpec, data: memoryview) -> Array:
        """Raises `TensorError` for pairs that no encoder writes."""
        channels, limits = _channels(spec.shape), _LIMITS[spec.dtype]
        (low, step), codes = _divide(np.frombuffer(data, np.uint8), limits.pair, channels)
        with np.errstate(all="ignore"):
            top = low + step * limits.pair.type(_LEVELS)
            if not (np.isfinite(low) & np.isfinite(top) & (step >= 0)).all():
                raise TensorError(f"tensor {spec.name!r}: int8c with a range that is not one")
            out = np.empty(codes.size, spec.dtype)
            whole = out.reshape(-1, channels)
            for a, z, start, factor in _blocks(codes.reshape(-1, channels), whole, low, step):
                _restore(a, z, start, factor)
        return out.reshape(spec.shape)


class _Limits:
    """What 8-bit codes can do for a dtype."""

    def __init__(self, dtype: str) -> None:
        own = np.finfo(dtype)
        self.pair: np.dtype[Any] = np.dtype("<f8" if dtype == "float64" else "<f4")
        """Of the least element and the step."""
        pair = np.finfo(self.pair)
        self.largest = float(pair.max)
        """Of the pair's dtype."""
        self.most_extent = self.largest * _ROUNDED
        self.most = float(own.max) * _ROUNDED
        """An element decoded cannot round past the dtype's largest number below this."""
        self.tiny = float(pair.tiny)
        self._rounding = 2 * float(own.eps)
        self._subnormal = float(own.smallest_subnormal)

    def error(self, step: float, largest: float) -> float:
        """Half a step, and what rounding on the way to a code and back adds; 0 for constants."""
        own = self._rounding * largest + self._subnormal
        return step * (0.5 + _CODE_SLACK) + own if step else 0.0


_LIMITS: Final = {dtype: _Limits(dtype) for dtype in ("float16", "float32", "float64")}


def _channels(shape: tuple[int, ...]) -> int:
    return shape[-1] if shape else 1


def _within(low: float, step: float, largest: float) -> bool:
    return abs(low) <= largest and abs(low + step * _LEVELS) <= largest


def _divide(data: Bytes, pair: np.dtype[Any], channels: int) -> tuple[Floats, Bytes]:
    """Pairs as ``[2, channels]``, and the codes behind them."""
    head = 2 * channels * pair.itemsize
    return data[:head].view(pair).reshape(2, channels), data[head:]


def _flat(array: Array) -> Floats:
    plain: Floats = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(-1)
    return plain


def _pieces(count: int, step: int = _PIECE) -> Iterator[slice]:
    return (slice(at, min(at + step, count)) for at in range(0, count, step))


def _extremes(flat: Floats) -> tuple[float, float]:
    """Least and largest of some elements; both NaN if there is one."""
    low, high = math.inf, -math.inf
    with np.errstate(invalid="ignore"):
        for piece in _pieces(flat.size):
            part = flat[piece]
            least, most = float(part.min()), float(part.max())
            if math.isnan(least):
                return least, least
            low, high = min(low, least), max(high, most)
    return low, high


def _channel_extremes(rows: Floats) -> tuple[Floats, Floats]:
    """Least and largest of every column; NaN if there is one."""
    channels = rows.shape[1]
    parts = [part for part in _widen(rows) if part.size]
    low = np.stack([part.min(0).reshape(-1, channels).min(0) for part in parts]).min(0)
    high = np.stack([part.max(0).reshape(-1, channels).max(0) for part in parts]).max(0)
    return low, high


def _widen(rows: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.generic], ...]:
    """The same memory in wider rows, for numpy is slow at many short ones; and what is left."""
    count, channels = rows.shape
    fold = max(1, min(count, _WIDE // max(1, channels)))
    if fold == 1 or count <= _FEW:
        return (rows,)
    cut = count - count % fold
    return rows[:cut].reshape(-1, fold * channels), rows[cut:]


def _blocks(
    source: Array, target: Array, first: Floats, second: Floats
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Cache-sized pieces of two arrays with the pairs that belong to each."""
    for part, out in zip(_widen(source), _widen(target), strict=True):
        if not part.size:
            continue
        wide = _repeated(first, part.shape[1]), _repeated(second, part.shape[1])
        for piece in _pieces(len(part), max(1, _PIECE // part.shape[1])):
            yield part[piece], out[piece], *wide


def _repeated(row: Floats, length: int) -> Floats:
    if row.size == length:
        return row
    out = np.empty((length // row.size, row.size), row.dtype)
    out[:] = row
    return out.reshape(-1)


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


def _ratio(error: float, extent: float) -> float:
    if not error:
        return 0.0
    return error / extent if extent > 0 else math.inf
