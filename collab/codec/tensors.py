"""Tensors as they travel: a spec, a codec, and bytes."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from collab.core.tensor import ITEMSIZE, TensorSpec
from collab.errors import PlanError, TensorError

Array = npt.NDArray[np.generic]


class EncodedTensor(NamedTuple):
    """One tensor in the form in which it travels."""

    spec: TensorSpec
    codec: str
    """Empty means raw: little-endian, row-major."""
    data: memoryview


Payload = tuple[EncodedTensor, ...]
"""Tensors of one edge, in the edge's order."""


class TensorCodec(Protocol):
    """Turns arrays into bytes and back; implementations are stateless."""

    def encode(self, array: Array) -> memoryview:
        """Bytes for an array; of a contiguous array without a copy where possible."""
        ...

    def decode(self, spec: TensorSpec, data: memoryview) -> Array:
        """Array of exactly the spec's shape and dtype; raises `TensorError`.

        Never reserves more memory than the spec's ``nbytes`` and a constant.
        """
        ...


class Raw:
    """Little-endian, row-major elements; exact, no copy."""

    def encode(self, array: Array) -> memoryview:
        """The array's own memory, or that of a contiguous little-endian copy."""
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        return plain.reshape(-1).view(np.uint8).data

    def decode(self, spec: TensorSpec, data: memoryview) -> Array:
        """A view of ``data``."""
        if len(data) != spec.nbytes:
            raise TensorError(f"tensor {spec.name!r}: {len(data)} bytes where {spec.nbytes} were expected")
        return np.frombuffer(data, dtype=spec.dtype).reshape(spec.shape)


CODECS: dict[str, TensorCodec] = {"raw": Raw()}
"""Tensor codecs by the name that plans use."""

EXACT_CODECS = frozenset({"raw"})
"""Codecs that give back what went in, bit by bit."""


def codec(name: str) -> TensorCodec:
    """The codec of that name (empty is raw); raises `PlanError`."""
    try:
        return CODECS[name or "raw"]
    except KeyError:
        raise PlanError(f"codec {name!r} is not known here; use one of {', '.join(CODECS)}") from None


def encode(spec: TensorSpec, array: Array, name: str = "raw") -> EncodedTensor:
    """Encode one array."""
    return EncodedTensor(spec, "" if name == "raw" else name, codec(name).encode(array))


def decode(tensor: EncodedTensor) -> Array:
    """Decode one tensor; raises `TensorError`."""
    return codec(tensor.codec).decode(tensor.spec, tensor.data)


_NATIVE: Final = {name: np.dtype(name) for name in ITEMSIZE}


def check_array(spec: TensorSpec, array: Array) -> Array:
    """Return the array if it is what the spec says, else raise `TensorError` naming what differs."""
    if array.shape == spec.shape and array.dtype == _NATIVE.get(spec.dtype):
        return array
    dtype = array.dtype.name
    if dtype not in ITEMSIZE:
        raise TensorError(f"tensor {spec.name!r}: dtype {dtype} cannot travel; expected {spec.dtype}")
    if not array.dtype.isnative:
        raise TensorError(f"tensor {spec.name!r}: foreign byte order; convert it with .astype({dtype!r})")
    if dtype != spec.dtype:
        raise TensorError(
            f"tensor {spec.name!r}: dtype {dtype}, expected {spec.dtype}; convert it with .astype()"
        )
    if array.ndim != len(spec.shape):
        raise TensorError(
            f"tensor {spec.name!r}: rank {array.ndim} {list(array.shape)}, "
            f"expected rank {len(spec.shape)} {list(spec.shape)}"
        )
    if array.shape != spec.shape:
        raise TensorError(f"tensor {spec.name!r}: shape {list(array.shape)}, expected {list(spec.shape)}")
    return array
