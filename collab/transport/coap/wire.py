"""What one end of a link over CoAP/UDP says to the other, as datagrams.

Each direction is a client that posts bodies to a resource of the other end.  That
resource, ``collab/link/NAME``, exists for one connection, and its name is a secret of
the two ends; so is the start of each token.  Whoever cannot see the datagrams can
neither post to the resource nor answer for it.
"""

from __future__ import annotations

import base64
from typing import Final, NamedTuple

from collab.transport.coap.blocks import Block
from collab.transport.coap.message import (
    GET,
    NON,
    POST,
    Q_BLOCK1,
    REQUEST_TAG,
    SIZE1,
    URI_PATH,
    encode_options,
    uint,
)

BLOCK_BYTES: Final = 1024
SZX: Final = 6
MAX_FRAME_BYTES: Final = 256 * 1024
FRAME_COST_BYTES: Final = 512
"""What a frame counts in the window beyond its bytes: small ones cost memory too."""
WINDOW_BYTES: Final = 2 << 20
"""What a receiver holds for a slow reader (with `FRAME_COST_BYTES` a frame)."""
MOST_FRAMES: Final = WINDOW_BYTES // FRAME_COST_BYTES

LIMIT: Final = 65020
"""Option of ours: how far the window reaches, as an unsigned number of bytes since the start.

Elective, safe to forward and no cache key (RFC 7252 5.4.6), from the range for
experiments (RFC 7252 12.2).
"""
LINK_PATH: Final = ("collab", "link")
_LINK: Final = tuple((URI_PATH, part.encode()) for part in LINK_PATH)

RANDOM_BYTES: Final = 8
NAME_BYTES: Final = 11
"""Length of the base64url form of `RANDOM_BYTES` random bytes."""
SECRET_BYTES: Final = 6
"""Random bytes at the start of a token; the other two number the datagram (RFC 7252 5.3.1: at least 4)."""
TOKEN_BYTES: Final = 8
HEAD_BYTES: Final = 4 + TOKEN_BYTES
NUMBERS: Final = 1 << 16

_NON_8: Final = 1 << 6 | NON << 4 | TOKEN_BYTES
REQUEST_HEADS: Final = {code: bytes((_NON_8, code)) for code in range(1, 8)}


def name_of(random: bytes) -> bytes:
    """Name of a connection's resource, made from random bytes."""
    return base64.urlsafe_b64encode(random).rstrip(b"=")


def resource(name: bytes) -> bytes:
    """The encoded Uri-Path of a connection's resource; options behind it follow number 11."""
    return encode_options((*_LINK, (URI_PATH, name)))


RESOURCE_BYTES: Final = len(resource(b"x" * NAME_BYTES))


class Peer(NamedTuple):
    """How to talk to the other end."""

    resource: bytes
    """Encoded path of its resource for this connection."""
    secret: bytes
    """Start of the tokens of our requests to it."""

    def request(self, code: int, number: int, rest: bytes = b"") -> bytes:
        """A request numbered ``number``; ``rest`` are options behind the path and the payload."""
        low = (number & 0xFFFF).to_bytes(2, "big")
        return b"".join((REQUEST_HEADS[code], low, self.secret, low, self.resource, rest))

    def ask(self, number: int, limit: int) -> bytes:
        """A request that only wants an answer, and tells how far our window reaches."""
        return self.request(GET, number, encode_options(((LIMIT, uint(limit)),), URI_PATH))


def answer(code: int, mid: int, token: bytes, rest: bytes = b"") -> bytes:
    """A response in a datagram of its own (RFC 7252 5.2.2)."""
    return b"".join((bytes((_NON_8, code)), (mid & 0xFFFF).to_bytes(2, "big"), token, rest))


class Body:
    """A frame on its way out."""

    __slots__ = ("_behind", "blocks", "cost", "data", "first", "left", "next_block", "number", "places")

    UNSENT: Final = -2
    ARRIVED: Final = -1

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data = memoryview(data)
        self.blocks = max(-(-len(data) // BLOCK_BYTES), 1)
        self.cost = len(data) + FRAME_COST_BYTES
        self.left = self.blocks
        """Blocks that have not arrived, as far as this end knows."""
        self.first = 0
        """All blocks before this one have arrived."""
        self.next_block = 0
        self.places = [self.UNSENT] * self.blocks
        """Number of the datagram that carried a block last, or one of the two states."""
        tag = number.to_bytes(RANDOM_BYTES, "big")
        if self.blocks == 1:
            self._behind = encode_options(((REQUEST_TAG, tag),), URI_PATH) + (b"\xff" if data else b"")
        else:
            sized = ((SIZE1, uint(len(data))), (REQUEST_TAG, tag))
            self._behind = encode_options(sized, Q_BLOCK1) + b"\xff"

    def datagram(self, peer: Peer, number: int, block: int) -> bytes:
        """The request that carries one block (RFC 9177 4.3)."""
        low = (number & 0xFFFF).to_bytes(2, "big")
        head = (REQUEST_HEADS[POST], low, peer.secret, low, peer.resource)
        if self.blocks == 1:
            return b"".join((*head, self._behind, self.data))
        at = block * BLOCK_BYTES
        value = Block(block, block < self.blocks - 1, SZX).encode()
        option = bytes((Q_BLOCK1 - URI_PATH << 4 | len(value),))
        return b"".join((*head, option, value, self._behind, self.data[at : at + BLOCK_BYTES]))
