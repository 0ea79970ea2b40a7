"""Reliable streams over links: how long transfers take."""

from __future__ import annotations

import pytest

from collab.emulation.build import build_link
from collab.emulation.clock import Clock
from collab.emulation.paths import Path, Pipe
from collab.emulation.profile import from_mapping
from collab.emulation.streams import Framing, Stream


def transfers(sizes, **direction):
    """When messages arrive that are all sent at once, in ms."""
    both = {"name": "x", "up": direction, "down": direction}
    link = build_link(from_mapping(both), 1)
    clock = Clock()
    usual_us = direction.get("delay_ms", 0) * 1000
    there = Path(clock, [Pipe("up", link.up, usual_us, None)])
    back = Path(clock, [Pipe("down", link.down, usual_us, None)])
    came = []
    stream = Stream(clock, there, back, Framing(), lambda item: came.append((item, clock.now_us / 1000)))
    for number, size in enumerate(sizes):
        stream.send(size, number)
    clock.run()
    assert [item for item, _ in came] == list(range(len(sizes)))
    return [at for _, at in came]


def test_a_small_message_takes_the_delay_and_its_bits():
    assert transfers([1000], delay_ms=10, rate_mbit_s=8) == pytest.approx([10 + 1.052], abs=0.01)


def test_a_large_message_starts_slowly_on_a_long_way():
    # Ten segments, then twice as many each round: 100 segments need four rounds of 100 ms.
    (at,) = transfers([144_800], delay_ms=50)
    assert at == pytest.approx(50 + 3 * 100, abs=1)


def test_a_long_transfer_fills_its_link():
    (at,) = transfers([10_000_000], delay_ms=5, rate_mbit_s=100)
    assert at == pytest.approx(10_000_000 * 8 / 100_000 * 1500 / 1448, rel=0.05)


def test_what_is_lost_holds_up_what_is_behind_it_and_arrives():
    times = transfers([20_000] * 50, delay_ms=20, rate_mbit_s=50, loss=0.02)
    assert times == sorted(times)
    smooth = transfers([20_000] * 50, delay_ms=20, rate_mbit_s=50)
    assert smooth[-1] * 1.2 < times[-1] < smooth[-1] * 10


def test_merged_trains_take_as_long_as_single_packets():
    both = [
        transfers([500_000], delay_ms=5, rate_mbit_s=20, **extra)
        for extra in ({}, {"reorder": 1e-12, "reorder_ms": 1.0})
    ]
    assert both[0] == pytest.approx(both[1], rel=0.02)
