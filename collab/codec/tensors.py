"""Tensors as they travel: a spec, a codec, and bytes."""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

import numpy as np

from collab.codec.elements import Affine, ChannelAffine, ElementCodec, Half, Raw
from collab.codec.elements import Array as Array
from collab.codec.packing import PACKERS
from collab.core.codecs import NAMES, RAW, CodecName, parse_codec
from collab.core.tensor import ITEMSIZE, TensorSpec
from collab.errors import PlanError, TensorError


class EncodedTensor(NamedTuple):
    """One tensor in the form in which it travels."""

    spec: TensorSpec
    codec: str
    """Empty means raw: little-endian, row-major."""
    data: memoryview


Payload = tuple[EncodedTensor, ...]
"""Tensors of one edge, in the edge's order."""


class TensorCodec(Protocol):
    """Turns arrays into bytes and back; implementations are safe to use from several threads."""

    def encode(self, spec: TensorSpec, array: Array, most_error: float = math.inf) -> EncodedTensor:
        """The tensor in this codec, or in the nearest exact one.

        Exact is what cannot be kept to ``most_error``: a share of the tensor's largest
        less its least element.  The result says which codec it really is in.
        """
        ...

    def takes(self, spec: TensorSpec) -> bool:
        """Whether such a tensor can travel in this codec, as long as its values can be kept."""
        ...

    def decode(self, spec: TensorSpec, data: memoryview) -> Array:
        """Array of exactly the spec's shape and dtype; raises `TensorError`.

        Never reserves more memory than twice the spec's ``nbytes`` and a constant.
        """
        ...


_RAW: Final = Raw()
_ELEMENTS: Final[dict[str, ElementCodec]] = {
    RAW: _RAW,
    "fp16": Half(),
    "int8": Affine(),
    "int8c": ChannelAffine(),
}


class _Codec:
    """Elements written in one of the ways, packed or not."""

    def __init__(self, name: CodecName) -> None:
        self._name = name
        self._elements = _ELEMENTS[name.base]
        self._packer = PACKERS[name.packer] if name.packer else None

    def _size(self, spec: TensorSpec) -> int | None:
        """Bytes before packing; None where raw is to be sent: another dtype, or nothing to gain."""
        size = self._elements.size(spec)
        return size if self._name.exact or (size is not None and size < spec.nbytes) else None

    def takes(self, spec: TensorSpec) -> bool:
        return self._size(spec) is not None

    def encode(self, spec: TensorSpec, array: Array, most_error: float = math.inf) -> EncodedTensor:
        written = None if self._size(spec) is None else self._elements.encode(array)
        name = self._name
        # An exact zero is within any bound; infinite is the error of what has no extent.
        if written is None or (written.error_bound and not written.error_bound <= most_error):
            written, name = _RAW.encode(array), name.without_loss
        if self._packer is not None:
            packed = self._packer.pack(written.data)
            if len(packed) < len(written.data):
                return EncodedTensor(spec, str(name), packed)
        return EncodedTensor(spec, "" if name.exact else name.base, written.data)

    def decode(self, spec: TensorSpec, data: memoryview) -> Array:
        size = self._size(spec)
        if size is None:
            raise TensorError(
                f"tensor {spec.name!r}: {spec.dtype}{list(spec.shape)} is not sent as {self._name}"
            )
        if self._packer is not None:
            try:
                data = self._packer.unpack(data, size)
            except TensorError as error:
                raise TensorError(f"tensor {spec.name!r}: {error}") from error
        elif len(data) != size:
            raise TensorError(f"tensor {spec.name!r}: {len(data)} bytes where {size} were expected")
        return self._elements.decode(spec, data)


CODECS: dict[str, TensorCodec] = {name: _Codec(parse_codec(name)) for name in NAMES}
"""Tensor codecs by the name that plans use."""

EXACT_CODECS = frozenset(name for name in NAMES if parse_codec(name).exact)
"""Codecs that give back what went in, bit by bit."""


def codec(name: str) -> TensorCodec:
    """The codec of that name (empty is raw, short forms are known); raises `PlanError`."""
    return CODECS[str(parse_codec(name))]


def encode(spec: TensorSpec, array: Array, name: str = RAW, most_error: float = math.inf) -> EncodedTensor:
    """Encode one array; see `TensorCodec.encode`."""
    if name == RAW:
        return EncodedTensor(spec, "", _RAW.encode(array).data)
    return codec(name).encode(spec, array, most_error)


def decode(tensor: EncodedTensor) -> Array:
    """Decode one tensor; raises `TensorError`."""
    try:
        reader = codec(tensor.codec)
    except PlanError as error:
        raise TensorError(f"tensor {tensor.spec.name!r}: {error}") from error
    return reader.decode(tensor.spec, tensor.data)


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
