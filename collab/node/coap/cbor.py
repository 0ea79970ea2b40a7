"""The part of CBOR (RFC 8949) that descriptions and tensors need: definite lengths, no indefinite ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Union

from collab.codec.wire import Buffer
from collab.errors import TensorError

_BYTES, _TEXT, _MAP, _TAG = 2, 3, 5, 6  # major types, RFC 8949 3.1
_HEAD_SIZES: Final = {24: 1, 25: 2, 26: 4, 27: 8}
"""Bytes of the argument that follows a head, by its additional information (RFC 8949 3)."""
MAX_ENTRIES: Final = 256
"""Entries of a map that is read; LiteRT models have fewer inputs."""


class Tagged(NamedTuple):
    """Bytes under a tag (RFC 8949 3.4); without one, ``tag`` is None."""

    tag: int | None
    data: Buffer


Value = Union[None, bool, int, float, str, bytes, Tagged, Sequence["Value"], Mapping[str, "Value"]]


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    information = next(info for info, size in _HEAD_SIZES.items() if argument < 1 << 8 * size)
    return bytes([major << 5 | information]) + argument.to_bytes(_HEAD_SIZES[information], "big")


def encode(value: Value) -> bytes:
    """A value in preferred serialisation; numbers of Python's float go as binary64."""
    parts: list[Buffer] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Value, parts: list[Buffer]) -> None:
    if value is None or isinstance(value, bool):
        parts.append(b"\xf6" if value is None else b"\xf5" if value else b"\xf4")
    elif isinstance(value, int):
        parts.append(_head(0, value) if value >= 0 else _head(1, -1 - value))
    elif isinstance(value, float):
        parts.append(b"\xfb" + struct.pack(">d", value))
    elif isinstance(value, str):
        text = value.encode()
        parts += [_head(_TEXT, len(text)), text]
    elif isinstance(value, bytes):
        parts += [_head(_BYTES, len(value)), value]
    elif isinstance(value, Tagged):
        if value.tag is not None:
            parts.append(_head(_TAG, value.tag))
        parts += [_head(_BYTES, len(value.data)), value.data]
    elif isinstance(value, Mapping):
        parts.append(_head(_MAP, len(value)))
        for key, item in value.items():
            _encode(key, parts)
            _encode(item, parts)
    else:
        parts.append(_head(4, len(value)))
        for item in value:
            _encode(item, parts)


class _Reader:
    """Walks once over untrusted bytes; takes no more memory than they have."""

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise TensorError(f"CBOR: {size} bytes are announced at byte {self._at}, {self.left} are there")
        self._at += size
        return self._data[self._at - size : self._at]

    def head(self) -> tuple[int, int]:
        """Major type and argument."""
        at = self._at
        (first,) = self.take(1)
        major, information = first >> 5, first & 31
        if information < 24:
            return major, information
        size = _HEAD_SIZES.get(information)
        if size is None:
            raise TensorError(f"CBOR: byte {at} begins an indefinite length, which is not taken here")
        return major, int.from_bytes(self.take(size), "big")

    def expect(self, major: int, what: str) -> int:
        at = self._at
        found, argument = self.head()
        if found != major:
            raise TensorError(f"CBOR: byte {at} begins no {what} (major type {found}, expected {major})")
        return argument

    def text(self) -> str:
        data = self.take(self.expect(_TEXT, "text"))
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            raise TensorError("CBOR: a text is not UTF-8") from error

    def tagged(self) -> Tagged:
        at = self._at
        major, argument = self.head()
        if major == _TAG:
            return Tagged(argument, self.take(self.expect(_BYTES, "byte string")))
        if major != _BYTES:
            raise TensorError(f"CBOR: byte {at} begins neither a tag nor a byte string")
        return Tagged(None, self.take(argument))


def decode_tensors(data: Buffer) -> dict[str, Tagged]:
    """A map of texts to byte strings, tagged or not; raises `TensorError` for anything else."""
    reader = _Reader(data)
    count = reader.expect(_MAP, "map")
    if count > MAX_ENTRIES:
        raise TensorError(f"CBOR: a map of {count} entries; at most {MAX_ENTRIES} are taken")
    found: dict[str, Tagged] = {}
    for _ in range(count):
        name = reader.text()
        if name in found:
            raise TensorError(f"CBOR: {name[:40]!r} is there twice")
        found[name] = reader.tagged()
    if reader.left:
        raise TensorError(f"CBOR: {reader.left} bytes behind the map")
    return found
