"""Values of block options (RFC 7959 2.2, RFC 9177 4.2) and lists of missing blocks (RFC 9177 5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from collab.codec.wire import Buffer
from collab.errors import ProtocolError
from collab.transport.coap.message import read_uint, uint

BERT_SZX: Final = 7
"""Over reliable transports: any number of 1024-byte blocks a message (RFC 8323 6)."""
_MAX_NUMBER: Final = (1 << 20) - 1
_CBOR_UINTS: Final = {24: 1, 25: 2, 26: 4}
"""Additional information of major type 0 and the bytes that follow (RFC 8949 3)."""


class Block(NamedTuple):
    """Value of a Block1, Block2, Q-Block1 or Q-Block2 option."""

    number: int
    more: bool
    szx: int

    @property
    def size_bytes(self) -> int:
        """Block size; of BERT's unit where ``szx`` is 7."""
        return 1 << min(self.szx, 6) + 4

    def encode(self) -> bytes:
        """The option's value, up to 3 bytes."""
        return uint(self.number << 4 | self.more << 3 | self.szx)


def read_block(value: bytes) -> Block:
    """Read an option's value; raises `ProtocolError`."""
    bits = read_uint(value, 3)
    return Block(bits >> 4, bool(bits & 8), bits & 7)


def encode_missing(numbers: Iterable[int]) -> bytes:
    """Missing block numbers, ascending, as a CBOR sequence of unsigned integers."""
    out = bytearray()
    for number in numbers:
        if number < 24:
            out.append(number)
        elif number < 256:
            out += bytes((24, number))
        elif number < 65536:
            out += b"\x19" + number.to_bytes(2, "big")
        else:
            out += b"\x1a" + number.to_bytes(4, "big")
    return bytes(out)


def read_missing(data: Buffer, most: int) -> list[int]:
    """Read up to ``most`` missing block numbers, strictly ascending; raises `ProtocolError`."""
    numbers: list[int] = []
    at, last = 0, -1
    while at < len(data):
        first = data[at]
        size = 0 if first < 24 else _CBOR_UINTS.get(first, -1)
        end = at + 1 + size
        if size < 0 or end > len(data) or len(numbers) == most:
            raise ProtocolError("coap: no list of missing blocks")
        number = int.from_bytes(data[at + 1 : end], "big") if size else first
        if not last < number <= _MAX_NUMBER:
            raise ProtocolError("coap: missing blocks out of order or out of range")
        numbers.append(number)
        at, last = end, number
    return numbers
