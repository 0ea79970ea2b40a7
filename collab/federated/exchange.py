"""The exact forms of weights and arrays: what digests name, and what is kept on disks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.codec.wire import Buffer
from collab.core.decoding import prepare
from collab.errors import IntegrityError
from collab.federated.compression.models import decode_model, encode_model
from collab.federated.compression.settings import Compression
from collab.federated.update import Parameters

_PLAIN: Final = Compression(pack=False)
"""Packed bytes would depend on the packer's release."""
_KINDS: Final = ("<f2", "<f4", "<f8", "<i8")

Arrays = Mapping[str, NDArray[Any]]


def plain_weights(weights: Parameters) -> bytes:
    """Weights as they are; their SHA-256 names a model on server and clients alike."""
    return encode_model(weights, _PLAIN).data


def read_weights(data: Buffer) -> Parameters:
    """The weights again; raises `ProtocolError`, `TensorError` or `LimitExceeded`."""
    return decode_model(data)


class _Array(msgspec.Struct, array_like=True, frozen=True):
    name: str
    kind: str
    shape: tuple[int, ...]
    data: bytes


def pack_arrays(arrays: Arrays) -> bytes:
    """Any arrays, such as a server optimizer's state; equal ones have equal bytes."""
    return msgspec.msgpack.encode(
        [
            _Array(
                name, (kind := array.dtype.newbyteorder("<").str), array.shape, array.astype(kind).tobytes()
            )
            for name, array in arrays.items()
        ]
    )


def unpack_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays again; raises `IntegrityError`."""
    try:
        found = msgspec.msgpack.decode(data, type=list[_Array])
    except msgspec.DecodeError as error:
        raise IntegrityError(f"arrays: cannot be read: {error}") from error
    out = {}
    for one in found:
        size = math.prod(one.shape)
        if one.kind not in _KINDS or size * np.dtype(one.kind).itemsize != len(one.data):
            raise IntegrityError(f"arrays: {one.name[:80]!r} is not what it says")
        out[one.name] = np.frombuffer(one.data, one.kind).reshape(one.shape)
    return out


prepare(_Array)
