"""Packets of a session, one to each MQTT message.

Layout (little-endian)::

    0  u8      kind
    1  u8      flags
    2  u16     version of this layout
    4  16 B    session
    20 u64     data, close: its sequence number; sync: the last number sent; ack: what it answers
    28 u64     all up to here have arrived
    36 u64     all up to here have been taken by the reader
    44         data: bytes; connect, accept: terms; refuse, abort: text
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from collab.codec.wire import Buffer, clean_text
from collab.errors import ProtocolError

VERSION: Final = 1
SESSION_BYTES: Final = 16
_HEAD: Final = struct.Struct("<BBH16sQQQ")
HEAD_BYTES: Final = _HEAD.size
_TERMS: Final = struct.Struct("<IIII")
MAX_TEXT: Final = 200

FROM_DIALLER: Final = 1
"""Sent by the end that dialled."""
MORE: Final = 2
"""The frame goes on in the next packet."""
GAP: Final = 4
"""What lies behind ``ack`` is missing: send it again."""
REPLY: Final = 8
"""Answers the sync whose number stands in ``seq``."""
RESUMED: Final = 16
"""Was away from the broker: what is not acknowledged here will not arrive."""


class Kind(IntEnum):
    """Kinds of packets."""

    CONNECT = 1
    ACCEPT = 2
    REFUSE = 3
    DATA = 4
    ACK = 5
    SYNC = 6
    CLOSE = 7
    ABORT = 8


class Packet(NamedTuple):
    """A packet, read."""

    kind: Kind
    flags: int
    session: bytes
    seq: int
    ack: int
    taken: int
    body: memoryview


class Terms(NamedTuple):
    """What one end takes from the other."""

    window_bytes: int
    window_packets: int
    frame_bytes: int
    qos: int

    def pack(self) -> bytes:
        """The body of a connect or an accept."""
        return _TERMS.pack(*self)


def head(kind: Kind, flags: int, session: bytes, seq: int = 0, ack: int = 0, taken: int = 0) -> bytes:
    """The first bytes of a packet."""
    return _HEAD.pack(kind, flags, VERSION, session, seq, ack, taken)


def text(reason: str) -> bytes:
    """The body of a refuse or an abort."""
    return clean_text(reason, MAX_TEXT).encode()


def parse(data: Buffer) -> Packet:
    """Read a packet; raises `ProtocolError`."""
    if len(data) < HEAD_BYTES:
        raise ProtocolError(f"mqtt: a packet of {len(data)} bytes is too short")
    kind, flags, version, session, seq, ack, taken = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ProtocolError(
            f"mqtt: packets of version {version}, this end speaks {VERSION}; upgrade the older"
        )
    if not Kind.CONNECT <= kind <= Kind.ABORT or taken > ack:
        raise ProtocolError("mqtt: a packet's head makes no sense")
    return Packet(Kind(kind), flags, session, seq, ack, taken, memoryview(data)[HEAD_BYTES:])


def parse_terms(body: Buffer) -> Terms:
    """Read the terms of a connect or an accept; raises `ProtocolError`."""
    if len(body) < _TERMS.size:
        raise ProtocolError("mqtt: the terms of a session are cut off")
    terms = Terms(*_TERMS.unpack_from(body))
    if not (terms.window_packets and terms.frame_bytes and terms.window_bytes >= terms.frame_bytes):
        raise ProtocolError("mqtt: the terms of a session leave no room for a frame")
    if terms.qos > 2:
        raise ProtocolError("mqtt: the terms of a session name no quality of service")
    return terms


def parse_text(body: Buffer) -> str:
    """Read the reason in a refuse or an abort."""
    return bytes(body[: 4 * MAX_TEXT]).decode("utf-8", "replace")[:MAX_TEXT]
