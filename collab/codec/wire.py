"""A small header and a raw body in one protobuf-compatible message.

Every message of the wire has the shape ``message M { Header header = 1; bytes
body = 2; }``.  Writing the two fields by hand keeps large bodies out of protobuf:
the bytes are the same (protocol buffers encoding, "length-delimited records"),
the body is never copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Union

from collab.errors import LimitExceeded, ProtocolError

Buffer = Union[bytes, bytearray, memoryview]

_HEADER_TAG: Final = 0x0A  # field 1, wire type 2
_BODY_TAG: Final = 0x12  # field 2, wire type 2
MAX_HEADER_BYTES: Final = 256 * 1024
_MAX_VARINT_BYTES: Final = 10


def varint(value: int) -> bytes:
    """Base-128 encoding of an unsigned number."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(view: Buffer, at: int) -> tuple[int, int]:
    """Number at a position and the position behind it; raises `ProtocolError`."""
    value = shift = 0
    for end in range(at, min(at + _MAX_VARINT_BYTES, len(view))):
        byte = view[end]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, end + 1
        shift += 7
    raise ProtocolError("message: a length is cut off or too long")


def clean_text(text: str, limit: int) -> str:
    """The first ``limit`` characters, without what UTF-8 cannot carry (parts of file names)."""
    return text[:limit].encode("utf-8", "replace").decode()


def frame(header: bytes, body: Sequence[Buffer] = ()) -> list[Buffer]:
    """The buffers of a message, to be written one after another.

    Raises `LimitExceeded` for a header that `unframe` would refuse.
    """
    if len(header) > MAX_HEADER_BYTES:
        raise LimitExceeded(f"message: header of {len(header)} bytes is over {MAX_HEADER_BYTES}")
    head = b"\x0a" + varint(len(header)) + header
    size = sum(len(part) for part in body)
    if not size:
        return [head]
    return [head + b"\x12" + varint(size), *body]


def unframe(message: Buffer) -> tuple[memoryview, memoryview]:
    """Header and body of a message, both as views; raises `ProtocolError` or `LimitExceeded`."""
    view = memoryview(message)
    if not len(view) or view[0] != _HEADER_TAG:
        raise ProtocolError("message: does not start with a header")
    size, at = read_varint(view, 1)
    if size > MAX_HEADER_BYTES:
        raise LimitExceeded(f"message: header of {size} bytes is over {MAX_HEADER_BYTES}")
    if at + size > len(view):
        raise ProtocolError("message: header is cut off")
    header, rest = view[at : at + size], view[at + size :]
    if not len(rest):
        return header, rest
    if rest[0] != _BODY_TAG:
        raise ProtocolError("message: no body behind the header")
    size, at = read_varint(rest, 1)
    if at + size != len(rest):
        raise ProtocolError(f"message: body of {len(rest) - at} bytes where {size} were announced")
    return header, rest[at:]
