"""A gateway's part of a round: sums that others can be added to, as bytes.

A header in msgpack, then the high and low integers of `FixedSum` by byte planes, packed by
zstd: high bytes are nearly all alike, and pack to almost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.codec.packing import PACKERS
from collab.codec.wire import Buffer, frame, unframe
from collab.core.decoding import prepare
from collab.errors import LimitExceeded, ProtocolError, TensorError
from collab.federated.aggregate.fixed import MAX_WEIGHT, WEIGHT_UNIT, FixedSum, Integers, Shapes

MAX_TERMS: Final = 1 << 24


class _Sum(msgspec.Struct, array_like=True):
    tensors: list[tuple[str, tuple[int, ...]]]
    terms: int
    weight: int


class _Header(msgspec.Struct):
    sums: list[_Sum]
    """Of updates, and of changes of control variates if there are any."""


def encode_partial(sums: Iterable[FixedSum]) -> bytes:
    """Sums as one message; equal sums give equal bytes."""
    sums = list(sums)
    header = _Header([_Sum(list(s.shapes.items()), s.terms, s.weight) for s in sums])
    body = [PACKERS["zstd"].pack(_planes(limb).data) for s in sums for limb in s.limbs()]
    sizes = np.array([len(part) for part in body], "<u8").tobytes()
    return b"".join(frame(msgspec.msgpack.encode(header), [sizes, *body]))


def decode_partial(data: Buffer, shapes: Shapes, controls: bool = False) -> list[FixedSum]:
    """Sums over tensors of these shapes, one or with ``controls`` two.

    Raises `ProtocolError`, `TensorError` or `LimitExceeded`; no memory is reserved for other shapes.
    """
    header_bytes, body = unframe(data)
    try:
        header = msgspec.msgpack.decode(header_bytes, type=_Header)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ProtocolError("partial sum: its header cannot be read") from error
    if len(header.sums) != 1 + controls:
        raise ProtocolError(f"partial sum: {len(header.sums)} sums where {1 + controls} were expected")
    count = 2 * len(header.sums)
    if len(body) < 8 * count:
        raise ProtocolError("partial sum: cut off")
    sizes = np.frombuffer(body[: 8 * count], "<u8").tolist()
    body = body[8 * count :]
    if sum(sizes) != len(body):
        raise ProtocolError(f"partial sum: {len(body)} bytes where {sum(sizes)} were announced")
    elements = sum(math.prod(shape) for shape in shapes.values())
    out = []
    for index, entry in enumerate(header.sums):
        _check(entry, shapes)
        limbs = []
        for size in sizes[2 * index : 2 * index + 2]:
            limbs.append(_limb(PACKERS["zstd"].unpack(body[:size], 8 * elements), elements))
            body = body[size:]
        out.append(FixedSum.from_limbs(shapes, limbs[0], limbs[1], entry.terms, entry.weight))
    return out


def is_partial(data: Buffer) -> bool:
    """Whether a message is a gateway's sum and not an update."""
    try:
        found = msgspec.msgpack.decode(unframe(data)[0])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "sums" in found


def _check(entry: _Sum, shapes: Shapes) -> None:
    if dict(entry.tensors) != dict(shapes) or len(entry.tensors) != len(shapes):
        raise TensorError("partial sum: its tensors are not those of this model")
    if not 1 <= entry.terms <= MAX_TERMS or not 1 <= entry.weight <= MAX_WEIGHT * WEIGHT_UNIT:
        raise LimitExceeded("partial sum: more terms or weight than a round can have")


def _planes(limb: Integers) -> NDArray[np.uint8]:
    """First bytes of all integers, then all second ones, and so on."""
    columns = limb.astype("<i8", copy=False).view(np.uint8).reshape(-1, 8)
    return np.ascontiguousarray(columns.T).reshape(-1)


def _limb(planes: memoryview, elements: int) -> Integers:
    rows = np.frombuffer(planes, np.uint8).reshape(8, elements)
    return np.ascontiguousarray(rows.T).view("<i8").reshape(-1).astype(np.int64, copy=False)


prepare(_Header)
