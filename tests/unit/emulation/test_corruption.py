"""A turned bit is in the payload, and checksums do not tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.emulation.corruption import corrupted, corrupted_segment
from collab.emulation.segments import HEADER_BYTES, large
from tests.unit.emulation.packets import TCP, UDP, echo, has_right_sums, ip, ones_sum, pseudo, tcp, udp

A, B = "10.77.0.1", "10.77.0.2"
HARM = st.integers(1, 1 << 32)
DATA = st.binary(min_size=1, max_size=9)


def turned_bits(one: bytes, other: bytes) -> int:
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))


def summed_tcp(data: bytes) -> bytes:
    """Without a virtio header, with a whole checksum."""
    body = tcp(A, B, data)[HEADER_BYTES + 20 :]
    before, behind = body[:16], body[18:]
    total = 0xFFFF ^ ones_sum(pseudo(A, B, TCP, len(body)) + before + b"\0\0" + behind)
    return ip(A, B, TCP, before + total.to_bytes(2, "big") + behind)


@given(DATA, HARM)
def test_a_corrupted_segment_has_one_other_bit_of_payload_and_a_checksum_that_fits(data, harm):
    packet = summed_tcp(data)
    assert has_right_sums(packet)
    harmed = corrupted(packet, harm)
    assert has_right_sums(harmed)
    assert turned_bits(harmed[40:], packet[40:]) == 1
    assert harmed[:36] + harmed[38:40] == packet[:36] + packet[38:40]


@given(DATA, HARM)
def test_a_corrupted_datagram_has_one_other_bit_of_payload_and_a_checksum_that_fits(data, harm):
    packet = udp(A, B, (1, 2), data)
    harmed = corrupted(packet, harm)
    assert has_right_sums(harmed)
    assert harmed[26:28] != b"\0\0"
    assert turned_bits(harmed[28:], packet[28:]) == 1
    assert harmed[:26] == packet[:26]


def test_every_bit_of_the_payload_is_turned_by_some_harm():
    packet = udp(A, B, (1, 2), b"abc")
    assert len({corrupted(packet, harm) for harm in range(1, 1000)}) == 24


def test_a_datagrams_checksum_never_becomes_the_zero_that_means_none():
    free = int.from_bytes(udp(A, B, (1, 3), bytes(2))[26:28], "big")
    packet = udp(A, B, (1, 3), (free - 1).to_bytes(2, "big"))
    assert packet[26:28] == b"\0\1"
    harmed = corrupted(packet, 8)
    assert harmed[26:28] == b"\xff\xff"
    assert has_right_sums(harmed)


def test_a_datagram_without_a_checksum_gets_none():
    packet = udp(A, B, (1, 2), b"data", summed=False)
    harmed = corrupted(packet, 77)
    assert harmed[:28] == packet[:28]
    assert turned_bits(harmed, packet) == 1


def test_a_sum_of_the_pseudo_header_alone_stays_as_it_is():
    packet = tcp(A, B, b"data")
    harmed = corrupted(packet, 77, HEADER_BYTES)
    assert harmed[: HEADER_BYTES + 40] == packet[: HEADER_BYTES + 40]
    assert turned_bits(harmed, packet) == 1


@given(st.integers(0, 4), HARM)
def test_one_segment_of_a_large_packet_is_changed(index, harm):
    many = large(tcp(A, B, bytes(45), segment_bytes=10))
    assert many is not None
    harmed = corrupted_segment(many, index, harm)
    for i in range(5):
        before, after = many.part(i, i + 1), harmed.part(i, i + 1)
        assert has_right_sums(after[HEADER_BYTES:], partial=True)
        assert turned_bits(before, after) == (i == index)


@pytest.mark.parametrize(
    "packet",
    [
        tcp(A, B)[HEADER_BYTES:],
        udp(A, B, (1, 2)),
        echo(A, B, 8),
        ip(A, B, TCP, bytes(40), fragment=0x2000),
        ip(A, B, UDP, bytes(40), fragment=10),
        ip(A, B, TCP, b"abc"),
        ip(A, B, TCP, bytes(12) + b"\xf0" + bytes(20)),
        ip(A, B, UDP, b""),
    ],
    ids=["tcp", "udp", "ping", "first", "later", "short", "all header", "empty"],
)
def test_what_has_no_payload_of_its_own_stays_as_it_is(packet):
    assert corrupted(packet, 12345) is packet
