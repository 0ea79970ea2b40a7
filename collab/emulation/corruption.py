"""A bit turned in a packet's payload, as a broken middlebox does it: the checksum is right again.  Pure."""

from __future__ import annotations

import struct
from typing import Final

from collab.emulation.segments import (
    CHECKSUM_AT,
    HEADER_BYTES,
    NEEDS_CHECKSUM,
    TCP,
    UDP,
    Large,
    update_checksum,
)

_LEAST_HEADER: Final = {TCP: 20, UDP: 8}


def corrupted(packet: bytes, harm: int, offset: int = 0) -> bytes:
    """An IPv4 packet with the bit of its TCP or UDP payload turned that ``harm`` stands for.

    Args:
        packet: returned as it is if it has no such payload, or is a fragment.
        harm: of its `Fate`.
        offset: bytes that stand before its IP header; not 0: a virtio header.
    """
    found = _payload(packet, offset)
    if found is None:
        return packet
    return _turned(packet, offset, found, len(packet), harm)


def corrupted_segment(many: Large, index: int, harm: int) -> Large:
    """The same large packet with a bit turned in one of its segments."""
    start = HEADER_BYTES + many.header_bytes + index * many.segment_bytes
    stop = min(start + many.segment_bytes, len(many.packet))
    packet = _turned(many.packet, HEADER_BYTES, start, stop, harm)
    return Large(packet, many.header_bytes, many.segment_bytes, many.checksum_at)


def _payload(packet: bytes, offset: int) -> int | None:
    """Where it begins; None if there is none."""
    body, protocol = offset + 4 * (packet[offset] & 15), packet[offset + 9]
    least = _LEAST_HEADER.get(protocol)
    (fragment,) = struct.unpack_from("!H", packet, offset + 6)
    if least is None or fragment & 0x3FFF or len(packet) <= body + least:
        return None
    start = body + (max(least, 4 * (packet[body + 12] >> 4)) if protocol == TCP else least)
    return start if start < len(packet) else None


def _turned(packet: bytes, offset: int, start: int, stop: int, harm: int) -> bytes:
    """With one bit of the payload bytes ``[start, stop)`` turned, and the checksum put right."""
    byte, bit = divmod(harm % (8 * (stop - start)), 8)
    made = bytearray(packet)
    made[start + byte] ^= 1 << bit
    body, protocol = offset + 4 * (packet[offset] & 15), packet[offset + 9]
    place = body + CHECKSUM_AT[protocol]
    is_partial = bool(offset) and bool(packet[0] & NEEDS_CHECKSUM)
    # A partial sum has no payload in it yet, and UDP's 0 means that there is no checksum.
    if is_partial or (protocol == UDP and packet[place : place + 2] == b"\0\0"):
        return bytes(made)
    word = start + byte - (start + byte - body) % 2
    old, new = (int.from_bytes(data[word : word + 2].ljust(2, b"\0"), "big") for data in (packet, made))
    update_checksum(made, place, (old,), (new,), complemented=True)
    if protocol == UDP and made[place : place + 2] == b"\0\0":
        made[place : place + 2] = b"\xff\xff"
    return bytes(made)
