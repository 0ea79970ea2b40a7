"""Tensors in the bodies of requests and answers: raw bytes of one, or a CBOR map of several.

In CBOR each tensor is a typed array (RFC 8746 2.1, little-endian) under its name; its
shape is the plan's, so only the elements travel, row-major.  ``bool`` and complex
elements have no tag there and travel as plain byte strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from collab.codec.tensors import Array, EncodedTensor, decode, encode
from collab.codec.wire import Buffer
from collab.core.tensor import TensorSpec
from collab.errors import TensorError
from collab.node.coap import cbor

TAGS: Final[Mapping[str, int]] = {
    "uint8": 64,
    "uint16": 69,
    "uint32": 70,
    "uint64": 71,
    "int8": 72,
    "int16": 77,
    "int32": 78,
    "int64": 79,
    "float16": 84,
    "float32": 85,
    "float64": 86,
}
"""Tags of typed arrays by dtype (RFC 8746 2.1, table 1)."""

_ENTRY_BYTES: Final = 32
"""Room for the heads of one entry; a head has 9 bytes at most (RFC 8949 3)."""


def raw_bytes(specs: Sequence[TensorSpec]) -> int | None:
    """Bytes of a raw body; None where there are several tensors, which need CBOR."""
    return specs[0].nbytes if len(specs) == 1 else None


def most_bytes(specs: Sequence[TensorSpec]) -> int:
    """The longest body that these tensors can need."""
    return sum(spec.nbytes + len(spec.name.encode()) + _ENTRY_BYTES for spec in specs) + _ENTRY_BYTES


def from_raw(specs: Sequence[TensorSpec], body: Buffer) -> dict[str, Array]:
    """The one tensor that a raw body is; raises `TensorError`."""
    if len(specs) != 1:
        names = ", ".join(repr(spec.name) for spec in specs)
        raise TensorError(f"the model takes {len(specs)} inputs ({names}); send a CBOR map of them")
    return {specs[0].name: _array(specs[0], body)}


def from_cbor(specs: Sequence[TensorSpec], body: Buffer) -> dict[str, Array]:
    """The tensors of a CBOR map; raises `TensorError`."""
    given = cbor.decode_tensors(body)
    known = {spec.name: spec for spec in specs}
    arrays = {}
    for name, (tag, data) in given.items():
        spec = known.get(name)
        if spec is None:
            raise TensorError(f"input {name[:40]!r}: the model takes {', '.join(map(repr, known))}")
        if tag is not None and tag != TAGS.get(spec.dtype):
            raise TensorError(f"input {name!r}: tag {tag}, but {spec.dtype} has {TAGS.get(spec.dtype)}")
        arrays[name] = _array(spec, data)
    for name, spec in known.items():
        if name not in arrays:
            raise TensorError(f"input {name!r} {spec.dtype}{list(spec.shape)} is missing")
    return arrays


def to_raw(spec: TensorSpec, array: Array) -> bytes:
    """The elements, little-endian and row-major."""
    return bytes(encode(spec, array).data)


def to_cbor(specs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> bytes:
    """A CBOR map of the tensors."""
    return cbor.encode(
        {spec.name: cbor.Tagged(TAGS.get(spec.dtype), encode(spec, arrays[spec.name]).data) for spec in specs}
    )


def _array(spec: TensorSpec, data: Buffer) -> Array:
    if len(data) != spec.nbytes:
        raise TensorError(
            f"input {spec.name!r}: {len(data)} bytes where {spec.dtype}{list(spec.shape)} has {spec.nbytes}"
        )
    return decode(EncodedTensor(spec, "", memoryview(data)))
