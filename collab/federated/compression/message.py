"""Arrays by name as a header and a body, which say all about themselves and are bounded.

The header lists tensors; the body has the bytes of one after another, all packed as one.
Whoever reads compares what the header claims with a bound before memory is reserved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.codec.packing import PACKERS
from collab.codec.wire import Buffer, frame, unframe
from collab.core.tensor import TensorSpec
from collab.errors import LimitExceeded, ProtocolError, TensorError
from collab.federated.compression import elements, sparse
from collab.federated.compression.settings import Compression
from collab.federated.update import Parameters

MAX_TENSORS: Final = 4096
DEFAULT_MOST_BYTES: Final = 256 << 20
"""Of the arrays of a message, where its reader names no other bound."""

Arrays = dict[str, NDArray[np.floating]]
SAME: Final = "same"
"""The form of a tensor that did not change; it has no bytes."""
XOR: Final = "xor"
"""The form of a tensor whose bits are given as the difference from others."""


class Entry(msgspec.Struct, array_like=True):
    """One tensor of a header."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    form: str
    kept: int = -1
    """Elements that travel; -1: all."""
    width: int = 0
    """Of their positions, as in `sparse`."""

    @property
    def count(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)

    @property
    def sparse(self) -> bool:
        """Whether only some elements travel."""
        return self.kept >= 0

    @property
    def body_bytes(self) -> int:
        """That it takes of the body."""
        if self.form == SAME:
            return 0
        form = "raw" if self.form == XOR else self.form
        if not self.sparse:
            return elements.size(form, self.count, elements.channels_of(self.shape), self.dtype)
        positions = sparse.size(self.width, self.kept, self.count)
        return positions + elements.size(form, self.kept, 1, self.dtype)


class Header(msgspec.Struct):
    """What all messages share; unknown fields are ignored."""

    tensors: list[Entry]
    packed: bool


AnyHeader = TypeVar("AnyHeader", bound=Header)


def written(
    arrays: Parameters, how: Compression, random: np.random.Generator | None
) -> tuple[list[Entry], list[bytes]]:
    """Entries and bytes of arrays; an array that a lossy form cannot hold is written raw."""
    chosen = _largest(arrays, how.top) if how.top is not None else {}
    source = random if how.rounding == "stochastic" else None
    entries, body = [], []
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array).reshape(-1)
        form = how.elements if elements.holds(how.elements, flat) else "raw"
        entry = Entry(name, array.shape, array.dtype.name, form)
        channels = elements.channels_of(array.shape)
        if name in chosen:
            positions = chosen[name]
            entry.form, channels = ("int8" if form == "int8c" else form), 1
            entry.kept = len(positions)
            entry.width, places = sparse.write(positions, flat.size)
            body.append(places)
            flat = flat[positions]
        body.append(elements.write(entry.form, flat, channels, source))
        entries.append(entry)
    return entries, body


def _largest(arrays: Parameters, share: float) -> dict[str, sparse.Positions]:
    """Positions within each array of the largest elements of all of them together."""
    flat = np.concatenate([np.abs(array.reshape(-1)) for array in arrays.values()] or [np.empty(0)])
    positions = sparse.largest(flat, share) if flat.size else np.empty(0, np.int64)
    out, at = {}, 0
    for name, array in arrays.items():
        first, last = np.searchsorted(positions, [at, at + array.size])
        out[name] = positions[first:last] - at
        at += array.size
    return out


def difference(arrays: Parameters, base: Parameters) -> tuple[list[Entry], list[bytes]]:
    """Entries and bytes of arrays of which the reader has others, exactly."""
    entries, body = [], []
    for name, array in arrays.items():
        bits, other = _bits(array), _bits(base[name])
        same = bool((bits == other).all())
        entries.append(Entry(name, array.shape, array.dtype.name, SAME if same else XOR))
        if not same:
            body.append(elements.planes(bits ^ other))
    return entries, body


def sealed(header: Header, body: Iterable[bytes]) -> bytes:
    """Header and body as one message; the body is packed if the header says so."""
    plain = b"".join(body)
    if header.packed and plain:
        plain = bytes(PACKERS["zstd"].pack(memoryview(plain)))
    return b"".join(frame(msgspec.msgpack.encode(header), [plain]))


def opened(
    data: Buffer, kind: type[AnyHeader], most_bytes: int
) -> tuple[AnyHeader, list[tuple[Entry, memoryview]]]:
    """Header and tensors' bytes of a message, all sizes checked.

    Raises `ProtocolError`, `TensorError` or `LimitExceeded`.
    """
    head, body = unframe(data)
    try:
        header = msgspec.msgpack.decode(head, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        what = kind.__struct_config__.tag
        raise ProtocolError(f"{what}: its header cannot be read ({str(error)[:200]})") from error
    if len(header.tensors) > MAX_TENSORS:
        raise LimitExceeded(f"message: {len(header.tensors)} tensors are over {MAX_TENSORS}")
    for entry in header.tensors:
        _check(entry)
    if len({entry.name for entry in header.tensors}) != len(header.tensors):
        raise ProtocolError("message: a tensor comes twice")
    dense = sum(entry.count * np.dtype(entry.dtype).itemsize for entry in header.tensors)
    size = sum(entry.body_bytes for entry in header.tensors)
    # A sparse form may take more than the whole tensor would, and no encoder takes twice as much.
    if dense > most_bytes or size > 2 * most_bytes:
        raise LimitExceeded(f"message: {max(dense, size)} bytes of tensors are over {most_bytes}")
    if header.packed and size:
        body = PACKERS["zstd"].unpack(body, size)
    elif len(body) != size:
        raise ProtocolError(f"message: {len(body)} bytes of tensors where {size} were announced")
    parts = []
    for entry in header.tensors:
        parts.append((entry, body[: entry.body_bytes]))
        body = body[entry.body_bytes :]
    return header, parts


def _check(entry: Entry) -> None:
    TensorSpec(entry.name, entry.shape, entry.dtype).check()
    if entry.dtype not in elements.DTYPES:
        raise TensorError(f"tensor {entry.name!r}: {entry.dtype} is not trained; use float32")
    if entry.form not in (*elements.FORMS, SAME, XOR):
        raise ProtocolError(f"tensor {entry.name!r}: form {entry.form[:40]!r} is not known here")
    if entry.sparse:
        known = entry.width in sparse.WIDTHS and entry.form in ("raw", "fp16", "int8")
        if not known or entry.kept > entry.count:
            raise ProtocolError(f"tensor {entry.name!r}: {entry.kept} elements of {entry.count} travel so?")


def read(parts: Iterable[tuple[Entry, memoryview]]) -> Arrays:
    """Arrays of entries that need no others; raises `TensorError` or `ProtocolError`."""
    return {entry.name: _array(entry, data) for entry, data in parts}


def _array(entry: Entry, data: memoryview) -> NDArray[np.floating]:
    if entry.form in (SAME, XOR):
        raise ProtocolError(f"tensor {entry.name!r}: a difference where none was asked for")
    if not entry.sparse:
        channels = elements.channels_of(entry.shape)
        flat = elements.read(entry.form, data, channels, entry.dtype, entry.name)
        return flat.reshape(entry.shape)
    split = sparse.size(entry.width, entry.kept, entry.count)
    positions = sparse.read(entry.width, data[:split], entry.kept, entry.count, entry.name)
    flat = np.zeros(entry.count, entry.dtype)
    flat[positions] = elements.read(entry.form, data[split:], 1, entry.dtype, entry.name)
    return flat.reshape(entry.shape)


def differing(entry: Entry, data: memoryview, base: NDArray[np.floating]) -> NDArray[np.floating]:
    """The array of an entry that `difference` made."""
    if entry.form == SAME:
        return base
    bits = _bits(base)
    whole: NDArray[np.floating] = (elements.from_planes(data, bits.dtype) ^ bits).view(entry.dtype)
    return whole.reshape(entry.shape)


def _bits(array: NDArray[np.floating]) -> NDArray[Any]:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(f"u{flat.dtype.itemsize}")
