"""Weights as bytes, exactly: their SHA-256 names a model.

A header in msgpack with name, dtype and shape of each tensor, then the elements, little-endian
and in row-major order.  Equal weights in one order have equal bytes.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np

from collab.codec.wire import Buffer, frame, unframe
from collab.errors import LimitExceeded, ProtocolError
from collab.federated.update import Parameters

MAX_TENSORS: Final = 4096
MAX_BYTES: Final = 1 << 30
_DTYPES: Final = {"float32": "<f4", "float16": "<f2", "float64": "<f8"}


class _Tensor(msgspec.Struct, array_like=True, frozen=True):
    name: str
    dtype: str
    shape: tuple[int, ...]


_HEADER: Final = msgspec.msgpack.Decoder(list[_Tensor])


def encode_weights(weights: Parameters) -> bytes:
    """The bytes of weights."""
    header = [_Tensor(name, array.dtype.name, array.shape) for name, array in weights.items()]
    body = (
        np.ascontiguousarray(array, _DTYPES[array.dtype.name]).reshape(-1).view(np.uint8).data
        for array in weights.values()
    )
    return b"".join(frame(msgspec.msgpack.encode(header), tuple(body)))


def decode_weights(data: Buffer) -> Parameters:
    """Weights of bytes, as views that must not be written; raises `ProtocolError` or `LimitExceeded`."""
    if len(data) > MAX_BYTES:
        raise LimitExceeded(f"weights: {len(data)} bytes, over {MAX_BYTES}")
    head, body = unframe(data)
    try:
        header = _HEADER.decode(head)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError("weights: the header cannot be read") from error
    if len(header) > MAX_TENSORS:
        raise LimitExceeded(f"weights: {len(header)} tensors, over {MAX_TENSORS}")
    found: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.floating]]] = {}
    at = 0
    for tensor in header:
        kind = _DTYPES.get(tensor.dtype)
        if kind is None or len(tensor.shape) > 8 or min(tensor.shape, default=0) < 0:
            raise ProtocolError(f"weights: tensor {tensor.name[:80]!r} has no dtype or shape that can be")
        size = math.prod(tensor.shape) * np.dtype(kind).itemsize
        if at + size > len(body) or tensor.name in found:
            raise ProtocolError(f"weights: tensor {tensor.name[:80]!r} is cut off or there twice")
        found[tensor.name] = np.frombuffer(body[at : at + size], kind).reshape(tensor.shape)
        at += size
    if at != len(body):
        raise ProtocolError(f"weights: {len(body) - at} bytes too many")
    return found
