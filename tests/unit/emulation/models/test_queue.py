"""Tail drop and CoDel."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
import pytest

from collab.emulation.models.delay import ConstantDelay
from collab.emulation.models.direction import Direction, Parts
from collab.emulation.models.queue import Backlog, CoDel
from collab.emulation.models.rate import ConstantRate
from collab.emulation.models.server import Line


def test_a_queue_holds_what_has_not_left_by_packets_and_by_bytes():
    queue = Backlog(packets=2, size_bytes=2_000)
    assert queue.room(0.0, 1_000)
    queue.add(10.0, 1_000)
    assert not queue.room(0.0, 1_001)
    queue.add(20.0, 500)
    assert not queue.room(5.0, 1)
    assert queue.room(10.0, 1_500)
    assert queue.waiting_bytes == 500


def test_codel_leaves_short_waits_and_short_bursts_alone():
    codel = CoDel(5_000, 100_000)
    assert not any(codel.drops(at * 1e3, 4_999, 9_000) for at in range(1_000))
    assert not any(codel.drops(2e6 + at * 1e3, 50_000, 9_000) for at in range(100))


def test_codel_never_drops_what_came_to_an_all_but_empty_queue():
    codel = CoDel(5_000, 100_000)
    assert not any(codel.drops(at * 1e3, 50_000, 1_500) for at in range(1_000))


def test_codel_drops_after_one_interval_and_then_faster_and_faster():
    codel = CoDel(5_000, 100_000)
    dropped = [at for at in range(0, 1_000_000, 100) if codel.drops(at, 20_000, 9_000)]
    # RFC 8289 section 3.3: the k-th comes interval / sqrt(k) after the one before.
    expected = [100_000.0]
    for count in range(1, len(dropped)):
        expected.append(expected[-1] + 100_000 / count**0.5)
    assert dropped == pytest.approx(expected, abs=200)


def sojourns(codel: CoDel | None, seconds: float) -> tuple[list[float], float]:
    """Waits before a 20 Mbit/s link under 4 senders that halve their windows when they lose, and its use."""
    link = Direction(
        Parts(Line(ConstantRate(20.0)), ConstantDelay(0), queue=Backlog(size_bytes=500_000), codel=codel)
    )
    rng = random.Random(1)
    windows, waits, sent = [10.0] * 4, [], 0
    # (time, sender): acknowledgements come 40 ms after arrival, which frees room in the window.
    now = 0.0
    flights: list[deque[tuple[float, bool]]] = [deque() for _ in windows]
    while now < seconds * 1e6:
        now += rng.uniform(100, 200)
        for sender, flight in enumerate(flights):
            while flight and flight[0][0] <= now:
                if flight.popleft()[1]:
                    windows[sender] += 1 / windows[sender]
                else:
                    windows[sender] = max(windows[sender] / 2, 1)
            if len(flight) < windows[sender]:
                fate = link.offer(now, 1_500)
                if fate.times_us:
                    waits.append(fate.times_us[0] - now - 600)
                    sent += 12_000
                arrives = fate.times_us[0] if fate.times_us else now
                flight.append((max(arrives + 40_000, flight[-1][0] if flight else 0), bool(fate.times_us)))
    return waits, sent / now


def test_codel_keeps_the_standing_wait_near_its_target_and_the_link_busy():
    waits, use = sojourns(CoDel(5_000, 100_000), 10)
    later = waits[len(waits) // 3 :]
    assert 1_000 < np.median(later) < 12_000
    assert use > 0.9 * 20
    unmanaged, _ = sojourns(None, 6)
    assert np.median(unmanaged[len(unmanaged) // 3 :]) > 60_000
