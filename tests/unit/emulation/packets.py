"""IPv4 packets for tests, and checks of their sums."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from collab.emulation.segments import HEADER, checksum

TCP, UDP, ICMP = 6, 17, 1


def ones_sum(data: bytes) -> int:
    """The folded sum of 16-bit words, padded."""
    data += b"\0" * (len(data) % 2)
    return 0xFFFF ^ checksum(data)


def ip(source: str, target: str, protocol: int, body: bytes, *, name: int = 7, fragment: int = 0) -> bytes:
    """A packet with a right header."""
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), name, fragment, 64, protocol, 0) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def pseudo(source: str, target: str, protocol: int, length: int) -> bytes:
    """What TCP and UDP add to what they sum (RFC 9293 3.1)."""
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    return addresses + struct.pack("!HH", protocol, length)


def udp(source: str, target: str, ports: tuple[int, int], data: bytes = b"", *, summed: bool = True) -> bytes:
    """A datagram."""
    length = 8 + len(data)
    body = struct.pack("!HHHH", *ports, length, 0) + data
    total = 0xFFFF ^ ones_sum(pseudo(source, target, UDP, length) + body) if summed else 0
    return ip(source, target, UDP, body[:6] + struct.pack("!H", total) + body[8:])


def echo(source: str, target: str, kind: int, name: int = 3) -> bytes:
    """An ICMP echo request (8) or reply (0)."""
    return ip(source, target, ICMP, struct.pack("!BBHHH", kind, 0, 0, name, 1))


def tcp(
    source: str,
    target: str,
    data: bytes = b"",
    *,
    flags: int = 0x18,
    sequence: int = 1000,
    segment_bytes: int = 0,
) -> bytes:
    """With a virtio header in front, and only the sum of the pseudo header, as the kernel gives it."""
    partial = ones_sum(pseudo(source, target, TCP, 20 + len(data)))
    body = struct.pack("!HHIIBBHHH", 4000, 5000, sequence, 1, 0x50, flags, 100, partial, 0) + data
    header = HEADER.pack(1, 1 if segment_bytes else 0, 40, segment_bytes, 20, 16)
    return header + ip(source, target, TCP, body)


def has_right_sums(packet: bytes, *, partial: bool = False) -> bool:
    """Whether the IP header sums up, and what is inside; ``partial``: only the pseudo header is summed."""
    head, body = packet[:20], packet[20:]
    source, target = (str(IPv4Address(head[at : at + 4])) for at in (12, 16))
    over = pseudo(source, target, head[9], len(body))
    if partial:
        return ones_sum(head) == 0xFFFF and ones_sum(over) == struct.unpack_from("!H", body, 16)[0]
    return ones_sum(head) == 0xFFFF and ones_sum(over + body) == 0xFFFF
