"""CoAP messages as bytes: options, and the datagrams of RFC 7252."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from collab.codec.wire import Buffer
from collab.errors import ProtocolError

# Message types (RFC 7252 3).
CON: Final = 0
NON: Final = 1
ACK: Final = 2
RST: Final = 3

# Codes (RFC 7252 12.1, RFC 7959 6, RFC 8323 5.1): class in the upper three bits.
EMPTY: Final = 0x00
GET: Final = 0x01
POST: Final = 0x02
DELETE: Final = 0x04
CREATED: Final = 0x41
DELETED: Final = 0x42
CHANGED: Final = 0x44
CONTENT: Final = 0x45
CONTINUE: Final = 0x5F
BAD_REQUEST: Final = 0x80
UNAUTHORIZED: Final = 0x81
BAD_OPTION: Final = 0x82
NOT_FOUND: Final = 0x84
METHOD_NOT_ALLOWED: Final = 0x85
INCOMPLETE: Final = 0x88
TOO_LARGE: Final = 0x8D
UNAVAILABLE: Final = 0xA3

# Option numbers (RFC 7252 5.10, 7959 2.1, 9177 4.1, 7967 2, 9175 2.2 and 3.2).
LOCATION_PATH: Final = 8
URI_PATH: Final = 11
CONTENT_FORMAT: Final = 12
URI_QUERY: Final = 15
Q_BLOCK1: Final = 19
BLOCK2: Final = 23
BLOCK1: Final = 27
Q_BLOCK2: Final = 31
SIZE1: Final = 60
ECHO: Final = 252
NO_RESPONSE: Final = 258
REQUEST_TAG: Final = 292

LINK_FORMAT: Final = 40
"""Content-Format of application/link-format (RFC 6690 7.3)."""
MISSING_BLOCKS: Final = 272
"""Content-Format of application/missing-blocks+cbor-seq (RFC 9177 12.3)."""

MAX_TOKEN_BYTES: Final = 8
"""RFC 7252 3: lengths 9 to 15 are message format errors."""
_VERSION: Final = 1
_MAX_OPTIONS: Final = 64
"""More than any of our requests has; RFC 7252 sets no bound of its own."""
_PAYLOAD_MARKER: Final = 0xFF
_EXTENDED: Final = ((13, 1), (269, 2))
"""Base and length of extended option deltas and lengths for nibbles 13 and 14 (RFC 7252 3.1)."""

Option = tuple[int, bytes]
"""Number and value."""


class Message(NamedTuple):
    """One datagram."""

    type: int
    code: int
    mid: int
    token: bytes = b""
    options: tuple[Option, ...] = ()
    payload: bytes = b""

    def option(self, number: int) -> bytes | None:
        """Value of the first option with a number."""
        return find(self.options, number)

    def encode(self) -> bytes:
        """The datagram."""
        return b"".join(
            (
                bytes((_VERSION << 6 | self.type << 4 | len(self.token), self.code)),
                self.mid.to_bytes(2, "big"),
                self.token,
                encode_options(self.options),
                b"\xff" + self.payload if self.payload else b"",
            )
        )


def find(options: Iterable[Option], number: int) -> bytes | None:
    """Value of the first option with a number."""
    return next((value for have, value in options if have == number), None)


def path(options: Iterable[Option]) -> tuple[str, ...]:
    """The Uri-Path; what is no UTF-8 never names anything of ours."""
    return tuple(value.decode("utf-8", "replace") for number, value in options if number == URI_PATH)


def uint(value: int) -> bytes:
    """An unsigned number in as few bytes as it needs (RFC 7252 3.2)."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def read_uint(value: bytes, most: int) -> int:
    """The number that an option holds in up to ``most`` bytes; raises `ProtocolError`."""
    if len(value) > most:
        raise ProtocolError(f"coap: an option's number has {len(value)} bytes, more than {most}")
    return int.from_bytes(value, "big")


def _nibble(value: int) -> tuple[int, bytes]:
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes((value - 13,))
    return 14, (value - 269).to_bytes(2, "big")


def encode_options(options: Iterable[Option], after: int = 0) -> bytes:
    """Options in the order of their numbers, behind one numbered ``after``."""
    out = bytearray()
    for number, value in options:
        delta, more_delta = _nibble(number - after)
        length, more_length = _nibble(len(value))
        out += bytes((delta << 4 | length,)) + more_delta + more_length + value
        after = number
    return bytes(out)


def read_options(data: Buffer, at: int, number: int = 0) -> tuple[list[Option], int]:
    """Options from a position on, behind one numbered ``number``, and where the payload starts.

    Raises `ProtocolError` for anything that RFC 7252 3.1 calls a message format error.
    """
    options: list[Option] = []
    end = len(data)
    while at < end:
        head = data[at]
        at += 1
        if head == _PAYLOAD_MARKER:
            if at == end:
                raise ProtocolError("coap: a payload marker without a payload")
            return options, at
        delta, length = head >> 4, head & 15
        if delta > 12:
            delta, at = _extended(data, at, delta)
        if length > 12:
            length, at = _extended(data, at, length)
        number += delta
        if at + length > end or number > 0xFFFF:
            raise ProtocolError("coap: an option is cut off or has no valid number")
        if len(options) == _MAX_OPTIONS:
            raise ProtocolError(f"coap: more than {_MAX_OPTIONS} options")
        options.append((number, bytes(data[at : at + length])))
        at += length
    return options, end


def _extended(data: Buffer, at: int, nibble: int) -> tuple[int, int]:
    if nibble == 15:
        raise ProtocolError("coap: a reserved option delta or length")
    base, size = _EXTENDED[nibble - 13]
    if at + size > len(data):
        raise ProtocolError("coap: an option is cut off")
    return base + int.from_bytes(data[at : at + size], "big"), at + size


def parse(data: Buffer) -> Message:
    """Read a datagram; raises `ProtocolError` for what is none (RFC 7252 3)."""
    if len(data) < 4 or data[0] >> 6 != _VERSION:
        raise ProtocolError("coap: no version 1 message")
    token_end = 4 + (data[0] & 15)
    if token_end > 4 + MAX_TOKEN_BYTES or token_end > len(data):
        raise ProtocolError("coap: a token is cut off or too long")
    if data[1] == EMPTY and len(data) != 4:
        raise ProtocolError("coap: bytes behind an empty message")
    options, at = read_options(data, token_end)
    return Message(
        data[0] >> 4 & 3,
        data[1],
        int.from_bytes(data[2:4], "big"),
        bytes(data[4:token_end]),
        tuple(options),
        bytes(data[at:]),
    )
