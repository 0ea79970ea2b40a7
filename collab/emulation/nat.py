"""A NAT in front of one host: addresses in passing packets are changed, and strangers stay outside.  Pure.

Ports stay as they are, since nobody shares the address.  What comes in must answer
something that went out, from the same address and port (address and port-dependent
filtering, RFC 4787 5, as a Linux router masquerades).  ICMP echo passes too; fragments do not.
"""

from __future__ import annotations

import struct
from typing import Final

from collab.emulation.segments import CHECKSUM_AT, HEADER_BYTES, NEEDS_CHECKSUM, TCP, UDP, update_checksum

UDP_IDLE_US: Final = 120e6
"""RFC 4787 REQ-5: two minutes at least."""
TCP_IDLE_US: Final = 7440e6
"""RFC 5382 REQ-5: two hours and four minutes at least."""
MAX_FLOWS: Final = 4096
"""Then the one that was silent for longest is forgotten."""

_ICMP: Final = 1
_SOURCE, _TARGET = 12, 16

Flow = tuple[int, int, bytes, int]
"""Protocol, the host's port, the peer's address and port."""


class Nat:
    """Rewrites packets of one host; ``offset`` bytes stand before their IP header."""

    def __init__(self, inside: bytes, outside: bytes, offset: int = 0) -> None:
        self._inside, self._outside, self._offset = inside, outside, offset
        self._flows: dict[Flow, float] = {}

    def out(self, packet: bytes, now_us: float) -> bytes | None:
        """A packet of the host as others see it; None if it cannot pass."""
        flow = self._flow(packet, _TARGET, 0)
        if flow is None or packet[self._offset + _SOURCE : self._offset + _SOURCE + 4] != self._inside:
            return None
        # Taken out and put back, so that the flows stand in the order of their last packets.
        self._flows.pop(flow, None)
        self._flows[flow] = now_us
        if len(self._flows) > MAX_FLOWS:
            del self._flows[next(iter(self._flows))]
        return self._rewritten(packet, _SOURCE, self._outside)

    def back(self, packet: bytes, now_us: float) -> bytes | None:
        """A packet for the host as it gets it; None if nothing of it asked for that."""
        flow = self._flow(packet, _SOURCE, 1)
        seen = self._flows.get(flow) if flow is not None else None
        if flow is None or seen is None:
            return None
        if now_us - seen > (TCP_IDLE_US if flow[0] == TCP else UDP_IDLE_US):
            del self._flows[flow]
            return None
        return self._rewritten(packet, _TARGET, self._inside)

    def _flow(self, packet: bytes, peer_at: int, own: int) -> Flow | None:
        ip = self._offset
        protocol = packet[ip + 9]
        more_or_offset = struct.unpack_from("!H", packet, ip + 6)[0] & 0x3FFF
        body = ip + 4 * (packet[ip] & 15)
        if more_or_offset or len(packet) < body + 8:
            return None
        peer = packet[ip + peer_at : ip + peer_at + 4]
        if protocol in CHECKSUM_AT:
            ports = struct.unpack_from("!HH", packet, body)
            return protocol, ports[own], peer, ports[1 - own]
        if protocol == _ICMP and packet[body] in (0, 8):
            return protocol, struct.unpack_from("!H", packet, body + 4)[0], peer, 0
        return None

    def _rewritten(self, packet: bytes, at: int, address: bytes) -> bytes:
        ip = self._offset
        made = bytearray(packet)
        old, new = struct.unpack_from("!HH", made, ip + at), struct.unpack("!HH", address)
        made[ip + at : ip + at + 4] = address
        update_checksum(made, ip + 10, old, new, complemented=True)
        sum_at = CHECKSUM_AT.get(packet[ip + 9])
        if sum_at is not None:
            place = ip + 4 * (packet[ip] & 15) + sum_at
            partial = ip == HEADER_BYTES and bool(packet[0] & NEEDS_CHECKSUM)
            unused = packet[ip + 9] == UDP and not partial and made[place : place + 2] == b"\0\0"
            if len(made) >= place + 2 and not unused:
                update_checksum(made, place, old, new, complemented=not partial)
        return bytes(made)
