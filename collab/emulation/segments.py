"""Segmentation offload: one packet of a TUN device that stands for many on the wire.  Pure.

With a virtio header in front (Linux' ``IFF_VNET_HDR``) the kernel hands over TCP payloads
of up to 64 KiB and leaves it to the device to cut them.  Links count and lose segments, so
their fates are decided one by one; only what survives side by side travels on together.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HEADER: Final = struct.Struct("=BBHHHH")
"""struct virtio_net_hdr: flags, kind, header bytes, segment bytes, begin and offset of the checksum."""
HEADER_BYTES: Final = HEADER.size
NEEDS_CHECKSUM: Final = 1
"""A flag: only the sum of the pseudo header stands in the checksum yet."""
TCP: Final = 6
UDP: Final = 17
CHECKSUM_AT: Final = {TCP: 16, UDP: 6}
"""Where in its header each protocol has the checksum."""
_ALONE: Final = 0
_TCP_V4: Final = 1
_ECN: Final = 0x80
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80


@dataclass(frozen=True)
class Large:
    """A TCP packet that stands for several segments; ``packet`` begins with the virtio header."""

    packet: bytes
    header_bytes: int
    """IP and TCP headers, which every segment has."""
    segment_bytes: int
    """Payload of each but the last."""
    checksum_at: int
    """Where TCP begins, from the begin of IP."""

    @property
    def sizes(self) -> list[int]:
        """Bytes of each segment on the wire, from its IP header on."""
        payload = len(self.packet) - HEADER_BYTES - self.header_bytes
        full, rest = divmod(payload, self.segment_bytes)
        whole = [self.header_bytes + self.segment_bytes] * full
        return [*whole, self.header_bytes + rest] if rest else whole

    def part(self, start: int, stop: int) -> bytes:
        """Segments ``[start, stop)`` as a packet of their own, as if the sender had made it."""
        begin, ip, tcp = HEADER_BYTES + self.header_bytes, HEADER_BYTES, HEADER_BYTES + self.checksum_at
        payload = self.packet[begin + start * self.segment_bytes : begin + stop * self.segment_bytes]
        head = bytearray(self.packet[:begin])
        first, last = start == 0, begin + stop * self.segment_bytes >= len(self.packet)
        if first and last:
            return self.packet
        if stop - start == 1:
            struct.pack_into("=B", head, 1, _ALONE)
            struct.pack_into("=H", head, 4, 0)
        length = self.header_bytes + len(payload)
        old_length, name = struct.unpack_from("!HH", head, ip + 2)
        struct.pack_into("!HH", head, ip + 2, length, (name + start) & 0xFFFF)
        struct.pack_into("!H", head, ip + 10, 0)
        struct.pack_into("!H", head, ip + 10, checksum(head[ip:tcp]))
        (sequence,) = struct.unpack_from("!I", head, tcp + 4)
        struct.pack_into("!I", head, tcp + 4, (sequence + start * self.segment_bytes) & 0xFFFFFFFF)
        head[tcp + 13] &= 0xFF & ~(0 if last else _FIN_PSH) & ~(0 if first else _CWR)
        # What stands in TCP's checksum so far is the sum of its pseudo header, which has the length.
        (partial,) = struct.unpack_from("!H", head, tcp + 16)
        struct.pack_into("!H", head, tcp + 16, replaced_sum(partial, old_length, length))
        return bytes(head) + payload


def large(packet: bytes) -> Large | None:
    """What a packet with a virtio header stands for; None for one packet on the wire."""
    _, kind, _, segment_bytes, start, _ = HEADER.unpack_from(packet)
    if kind & ~_ECN != _TCP_V4 or not segment_bytes:
        return None
    tcp = HEADER_BYTES + start
    if len(packet) < tcp + 20:
        return None
    header_bytes = start + 4 * (packet[tcp + 12] >> 4)
    if len(packet) - HEADER_BYTES - header_bytes <= segment_bytes:
        return None
    return Large(packet, header_bytes, segment_bytes, start)


def runs(times_us: Sequence[tuple[float, ...]], within_us: float) -> list[tuple[int, int, float]]:
    """Segments that can travel on together: ``[start, stop)`` and when they arrive, in µs.

    Neighbours of which each arrives once, none before the one in front of it, and the last
    at most ``within_us`` after the first.  They arrive when the last one does.
    """
    found: list[tuple[int, int, float]] = []
    start, begun, last = -1, 0.0, 0.0
    for index, times in enumerate(times_us):
        if start >= 0 and (len(times) != 1 or not last <= times[0] <= begun + within_us):
            found.append((start, index, last))
            start = -1
        if len(times) == 1:
            if start < 0:
                start, begun = index, times[0]
            last = times[0]
        else:
            found += [(index, index + 1, at) for at in times]
    if start >= 0:
        found.append((start, len(times_us), last))
    return found


def checksum(data: bytes | bytearray) -> int:
    """The Internet checksum of an even number of bytes (RFC 1071)."""
    return 0xFFFF & ~_folded(sum(struct.unpack(f"!{len(data) // 2}H", data)))


def replaced_sum(total: int, old: int, new: int) -> int:
    """A ones' complement sum of which one 16-bit word has changed (RFC 1624)."""
    return _folded(total + (0xFFFF & ~old) + new)


def update_checksum(
    packet: bytearray, place: int, old: tuple[int, ...], new: tuple[int, ...], *, complemented: bool
) -> None:
    """Put a checksum right after words have changed; not complemented while it is a partial sum."""
    (total,) = struct.unpack_from("!H", packet, place)
    total ^= 0xFFFF if complemented else 0
    for before, after in zip(old, new, strict=True):
        total = replaced_sum(total, before, after)
    struct.pack_into("!H", packet, place, total ^ (0xFFFF if complemented else 0))


def _folded(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
