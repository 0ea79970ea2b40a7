"""Who is behind a NAT is reached by those it has spoken to, and nobody else."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from collab.emulation.nat import MAX_FLOWS, UDP_IDLE_US, Nat
from collab.emulation.segments import HEADER_BYTES
from tests.unit.emulation.packets import echo, has_right_sums, ip, tcp, udp

INSIDE, OUTSIDE, PEER, STRANGER = "10.78.0.1", "10.77.0.1", "10.77.0.2", "10.77.0.3"


def nat(offset: int = 0) -> Nat:
    return Nat(IPv4Address(INSIDE).packed, IPv4Address(OUTSIDE).packed, offset)


@pytest.mark.parametrize("summed", [True, False])
def test_addresses_are_changed_on_both_ways_and_sums_with_them(summed):
    box = nat()
    assert box.out(udp(INSIDE, PEER, (10, 20), b"abc", summed=summed), 0) == udp(
        OUTSIDE, PEER, (10, 20), b"abc", summed=summed
    )
    assert box.back(udp(PEER, OUTSIDE, (20, 10), b"xyz"), 1) == udp(PEER, INSIDE, (20, 10), b"xyz")


def test_a_sum_that_the_kernel_left_to_the_device_stays_one():
    changed = nat(HEADER_BYTES).out(tcp(INSIDE, PEER, bytes(50), segment_bytes=20), 0)
    assert changed == tcp(OUTSIDE, PEER, bytes(50), segment_bytes=20)
    assert has_right_sums(changed[HEADER_BYTES:], partial=True)


def test_pings_pass_from_inside_only():
    box = nat()
    assert box.back(echo(PEER, OUTSIDE, 8, name=4), 0) is None
    assert box.out(echo(INSIDE, PEER, 8), 0) == echo(OUTSIDE, PEER, 8)
    assert box.back(echo(PEER, OUTSIDE, 0), 0) == echo(PEER, INSIDE, 0)


def test_strangers_and_other_ports_stay_outside():
    box = nat()
    assert box.back(udp(PEER, OUTSIDE, (20, 10)), 0) is None
    box.out(udp(INSIDE, PEER, (10, 20)), 0)
    assert box.back(udp(STRANGER, OUTSIDE, (20, 10)), 1) is None
    assert box.back(udp(PEER, OUTSIDE, (21, 10)), 1) is None
    assert box.back(udp(PEER, OUTSIDE, (20, 11)), 1) is None


def test_what_was_silent_for_long_is_forgotten():
    box = nat()
    box.out(udp(INSIDE, PEER, (10, 20)), 0)
    assert box.back(udp(PEER, OUTSIDE, (20, 10)), UDP_IDLE_US) is not None
    assert box.back(udp(PEER, OUTSIDE, (20, 10)), UDP_IDLE_US + 1) is None


def test_of_too_many_flows_the_longest_silent_goes():
    box = nat()
    for port in range(MAX_FLOWS):
        box.out(udp(INSIDE, PEER, (port, 20)), 0)
    box.out(udp(INSIDE, PEER, (0, 20)), 1)
    box.out(udp(INSIDE, PEER, (MAX_FLOWS, 20)), 1)
    assert box.back(udp(PEER, OUTSIDE, (20, 0)), 2) is not None
    assert box.back(udp(PEER, OUTSIDE, (20, 1)), 2) is None


@pytest.mark.parametrize(
    "packet",
    [
        udp(STRANGER, PEER, (10, 20)),
        ip(INSIDE, PEER, 17, bytes(20), fragment=0x2000),
        ip(INSIDE, PEER, 17, b"abc"),
        ip(INSIDE, PEER, 47, bytes(20)),
    ],
)
def test_what_it_cannot_follow_does_not_pass(packet):
    assert nat().out(packet, 0) is None
