"""Large packets are cut as a network card would cut them."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.emulation.segments import HEADER, HEADER_BYTES, large, runs
from tests.unit.emulation.packets import has_right_sums, tcp

A, B = "10.77.0.1", "10.77.0.2"


def test_a_packet_of_one_segment_is_not_large():
    assert large(tcp(A, B, bytes(100))) is None
    assert large(tcp(A, B, bytes(100), segment_bytes=100)) is None
    assert large(tcp(A, B, bytes(101), segment_bytes=100)) is not None


def test_a_broken_packet_is_not_large():
    assert large(tcp(A, B, bytes(300), segment_bytes=100)[:40]) is None


@given(
    data=st.binary(min_size=11, max_size=200),
    segment=st.integers(1, 10),
    cuts=st.sets(st.integers(1, 199)),
    sequence=st.sampled_from([0, 1000, 2**32 - 5]),
)
def test_the_parts_of_a_large_packet_are_the_packet(data, segment, cuts, sequence):
    many = large(tcp(A, B, data, flags=0x99, sequence=sequence, segment_bytes=segment))
    assert many is not None
    count = len(many.sizes)
    assert sum(many.sizes) == len(data) + 40 * count
    bounds = [0, *sorted(cut for cut in cuts if cut < count), count]
    taken = b""
    for start, stop in pairwise(bounds):
        part = many.part(start, stop)
        kind, _, gso = HEADER.unpack_from(part)[1:4]
        packet = part[HEADER_BYTES:]
        assert has_right_sums(packet, partial=True)
        assert struct.unpack_from("!H", packet, 2)[0] == len(packet)
        assert struct.unpack_from("!I", packet, 24)[0] == (sequence + len(taken)) % 2**32
        assert (kind, gso) == ((0, 0) if stop - start == 1 else (1, segment))
        flags = packet[33]
        assert bool(flags & 0x80) == (start == 0)
        assert bool(flags & 0x09) == (stop == count)
        assert flags & 0x10
        taken += packet[40:]
    assert taken == data


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([(1.0,), (2.0,), (3.0,)], [(0, 3, 3.0)]),
        ([(1.0,), (), (3.0,)], [(0, 1, 1.0), (2, 3, 3.0)]),
        ([(1.0,), (12.0,), (13.0,)], [(0, 1, 1.0), (1, 3, 13.0)]),
        ([(5.0,), (2.0,), (6.0,)], [(0, 1, 5.0), (1, 3, 6.0)]),
        ([(1.0,), (2.0, 2.0), (3.0,)], [(0, 1, 1.0), (1, 2, 2.0), (1, 2, 2.0), (2, 3, 3.0)]),
        ([(), ()], []),
    ],
)
def test_segments_travel_on_together_while_they_arrive_in_order_and_close_by(times, expected):
    assert runs(times, 10.0) == expected
