"""Cells that share fairly, through the directions that they serve."""

from __future__ import annotations

import random
from heapq import heappop, heappush
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.emulation.base import WAITING, Fate
from collab.emulation.models.cell import FairCell
from collab.emulation.models.delay import ConstantDelay
from collab.emulation.models.direction import Direction, Parts
from collab.emulation.models.outages import Gate
from collab.emulation.models.queue import Backlog, CoDel
from collab.emulation.models.radio import Radio
from collab.emulation.models.rate import ConstantRate, OpportunityRate, Rate, TracedRate


def joined(cell, **parts) -> Direction:
    return Direction(Parts(cell.member(), ConstantDelay(0.0), **parts))


def windowed(cell, windows: list[int], until: float, sizes=(1_500,)) -> list[float]:
    """Mbit/s of directions that each keep so many packets in flight, acknowledged when they arrive."""
    directions = [joined(cell) for _ in windows]
    bits = [0.0] * len(windows)
    for i, window in enumerate(windows):
        for _ in range(window):
            directions[i].offer(0.0, sizes[i % len(sizes)], i)
    while cell.due_us < until:
        now = cell.due_us
        for i, fate in cell.take(now):
            bits[i] += sizes[i % len(sizes)] * 8
            directions[i].offer(fate.times_us[0], sizes[i % len(sizes)], i)
    return [sent / until for sent in bits]


RATES: dict[str, Rate] = {
    "constant": ConstantRate(40.0),
    "traced": TracedRate([0, 1e5, 2e5], [40, 0, 80], interpolate=False),
    "opportunities": OpportunityRate([1, 1, 1, 1, 3, 4, 4, 4, 4, 4, 4]),
}


@pytest.mark.parametrize("name", RATES)
def test_shares_are_equal_however_much_each_sends(name):
    rate = RATES[name]
    shares = windowed(FairCell(rate), [8, 12, 20, 60], 1.2e6)
    assert shares == pytest.approx([rate.mean_mbit_s / 4] * 4, rel=0.03)


def test_shares_are_equal_in_bits_not_in_packets():
    shares = windowed(FairCell(ConstantRate(40.0)), [20, 20], 5e5, sizes=(1_500, 300))
    assert shares == pytest.approx([20.0, 20.0], rel=0.02)


def test_a_small_sender_does_not_wait_behind_a_large_backlog():
    cell = FairCell(ConstantRate(12.0))
    large, small = joined(cell), joined(cell)
    for _ in range(100):
        assert large.offer(0.0, 1_500, "large") is WAITING
    small.offer(500.0, 1_500, "small")
    (left,) = [fate.times_us[0] for packet, fate in cell.take(1e6) if packet == "small"]
    assert left <= 3_000.0


def test_who_is_left_gets_the_share_of_who_has_gone():
    cell = FairCell(ConstantRate(12.0))
    one, other = joined(cell), joined(cell)
    for i in range(30):
        one.offer(0.0, 1_500, "one")
        if i < 10:
            other.offer(0.0, 1_500, "other")
    left = [fate.times_us[0] for packet, fate in cell.take(1e6) if packet == "one"]
    assert left[9] == pytest.approx(20_000, abs=1_000)
    assert left[-1] == pytest.approx(40_000)
    assert cell.due_us == inf


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.3, 3.0), st.booleans())
def test_it_works_while_there_is_work_and_in_order_however_late_it_is_asked(seed, load, late):
    rng = random.Random(seed)
    cell = FairCell(ConstantRate(10.0))
    directions = [joined(cell) for _ in range(4)]
    settled: list[tuple[Any, Fate]] = []
    now = free = 0.0
    for i in range(200):
        now += rng.expovariate(load / 1_200)
        if not late or i % 20 == 0:
            settled += cell.take(now)
        which = rng.randrange(rng.randrange(1, 5))
        directions[which].offer(now, 1_500, (which, i))
        free = max(free, now) + 1_200
    settled += cell.take(inf)
    times = [fate.times_us[0] for _, fate in settled]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(free)
    for which in range(4):
        order = [i for one, i in (packet for packet, _ in settled) if one == which]
        assert order == sorted(order)
    assert len(settled) == 200


def test_a_member_that_is_held_blocks_nobody():
    cell = FairCell(ConstantRate(12.0))
    asleep = joined(cell, radio=Radio(50_000.0, 1e6))
    shadowed = joined(cell, gate=Gate(iter([(0.0, 30_000.0)]), holds=True))
    other = joined(cell)
    for direction, name in ((asleep, "asleep"), (shadowed, "shadowed"), (other, "other")):
        direction.offer(0.0, 1_500, name)
    found: dict[object, float] = {}
    while cell.due_us < inf:
        found |= {name: fate.times_us[0] for name, fate in cell.take(cell.due_us)}
    assert found == {"other": 1_000.0, "shadowed": 31_000.0, "asleep": 51_000.0}


def test_what_was_held_starts_at_its_time_however_late_the_next_packet_asks():
    cell = FairCell(ConstantRate(12.0))
    shadowed = joined(cell, gate=Gate(iter([(0.0, 30_000.0)]), holds=True))
    shadowed.offer(0.0, 1_500, "held")
    assert cell.due_us == 30_000.0
    joined(cell).offer(50_000.0, 1_500, "later")
    assert [fate.times_us for _, fate in cell.take(60_000.0)] == [(31_000.0,), (51_000.0,)]


def test_each_member_has_its_own_queue_and_its_own_drops():
    cell = FairCell(ConstantRate(12.0))
    short = joined(cell, queue=Backlog(packets=2))
    assert [short.offer(0.0, 1_500, i).drop for i in range(3)] == [None, None, "queue"]
    cell.take(1_000.0)
    assert short.offer(1_000.0, 1_500).drop is None
    dead = joined(cell, gate=Gate(iter([(0.0, 1e9)]), holds=False))
    dead.offer(1_000.0, 1_500, "dead")
    assert [(packet, fate.drop) for packet, fate in cell.take(1e6)][-1] == ("dead", "outage")
    dead.offer(2e6, 1_500, "at once")
    assert cell.due_us < 2e6
    assert [(packet, fate.drop) for packet, fate in cell.take(2e6)] == [("at once", "outage")]


def test_codel_manages_a_member_that_sends_too_much_and_no_other():
    cell = FairCell(ConstantRate(12.0))
    parts = [{"queue": Backlog(), "codel": CoDel(5_000, 100_000)} for _ in range(2)]
    much, little = (joined(cell, **part) for part in parts)
    drops = {"much": 0, "little": 0}
    heap = [(0.0, 0, much, "much", 800.0), (0.0, 1, little, "little", 10_000.0)]
    while heap[0][0] < 3e6:
        now, which, direction, name, gap = heappop(heap)
        for packet, fate in cell.take(now):
            drops[packet] += fate.drop == "aqm"
        direction.offer(now, 1_500, name)
        heappush(heap, (now + gap, which, direction, name, gap))
    assert drops["little"] == 0
    assert drops["much"] > 20
