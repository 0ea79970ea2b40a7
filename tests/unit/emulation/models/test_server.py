"""Directions that use a rate alone or in the order of their packets."""

from __future__ import annotations

import pytest

from collab.emulation.models.rate import ConstantRate
from collab.emulation.models.server import FifoCell, Line

BITS = 12_000


def offer(member, now: float):
    return member.serve(now, max(now, member.free_us), BITS)


@pytest.mark.parametrize("server", [Line(ConstantRate(12.0)), FifoCell(ConstantRate(12.0)).member()])
def test_one_direction_alone_has_the_whole_rate(server):
    assert [offer(server, 0.0), offer(server, 0.0), offer(server, 9_000.0)] == [1_000.0, 2_000.0, 10_000.0]
    assert server.free_us == 10_000.0


def test_in_one_queue_who_sends_more_gets_more():
    cell = FifoCell(ConstantRate(12.0))
    one, other = cell.member(), cell.member()
    assert [offer(one, 0.0), offer(other, 0.0), offer(other, 0.0), offer(one, 0.0)] == [
        *(1_000.0, 2_000.0, 3_000.0, 4_000.0)
    ]


def test_a_packet_that_is_held_elsewhere_blocks_nobody_in_the_queue():
    cell = FifoCell(ConstantRate(12.0))
    held, other = cell.member(), cell.member()
    assert held.serve(0.0, 50_000.0, BITS) == 51_000.0
    assert offer(other, 10_000.0) == 11_000.0
    assert held.free_us == 51_000.0
