"""Measuring keeps to its share of the time, and says what it saw."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from collab.client.measuring import Pace, probe_link, time_codec
from collab.codec.pb import control_pb2 as pb
from collab.core.tensor import TensorSpec
from collab.errors import PeerUnreachable, UsageError

MBIT_S, LATENCY_S = 8.0, 0.25


class Clock:
    """Time that passes when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds


class SlowLink:
    """Answers probes as a link of 8 Mbit/s and 250 ms would, on a clock of its own."""

    def __init__(self, clock: Clock, lost: int = 0) -> None:
        self.clock, self.lost = clock, lost
        self.sizes: list[tuple[int, int]] = []

    async def call(self, verb: str, body: bytes, timeout_s: float) -> memoryview:
        assert verb == "Probe"
        if self.lost:
            self.lost -= 1
            self.clock.now += timeout_s
            raise PeerUnreachable("no answer")
        request = pb.ProbeRequest.FromString(body)
        self.sizes.append((len(request.body), request.reply_bytes))
        handling_us = 1000 if request.timed else 0
        moved = len(request.body) + request.reply_bytes
        self.clock.now += 2 * LATENCY_S + 8 * moved / (1e6 * MBIT_S) + handling_us / 1e6
        return memoryview(pb.ProbeReply(handling_us=handling_us).SerializeToString())


async def probe(link: Any, **more: Any) -> Any:
    return await probe_link(link, clock=link.clock, sizes=(1_000, 1_000_000, 4_000_000), **more)


def test_a_pace_rests_for_what_work_leaves_of_the_share():
    pace = Pace(0.25)
    assert pace.rest_s(1.0) == pytest.approx(3.0)
    assert Pace(1.0).rest_s(5.0) == 0.0
    assert Pace(0).rest_s(5.0) == 0.0, "0 means all of it"


def test_short_rests_are_saved_up():
    pace = Pace(0.5)
    rests = [pace.rest_s(0.0005) for _ in range(8)]
    assert rests.count(0.0) == 6
    assert sum(rests) == pytest.approx(0.004)


@pytest.mark.parametrize("share", [-1, 0.001, 1.5])
def test_a_share_that_cannot_be_kept_is_refused(share: float):
    with pytest.raises(UsageError, match="share"):
        Pace(share)


async def test_probes_go_both_ways_and_leave_out_what_takes_too_long():
    link = SlowLink(Clock())
    found = await probe(link, rounds=1)
    asked = set(link.sizes)
    assert (1_000, 0) in asked
    assert (0, 1_000) in asked
    assert (1_000_000, 0) in asked
    assert (4_000_000, 0) not in asked, "1 MB took 1.5 s already"
    moved = {(s.up_bytes, s.down_bytes): s.ms for s in found.samples}
    assert moved[0, 0] == pytest.approx(500)
    assert moved[1_000_000, 0] == pytest.approx(1500), "handling is no part of the link"
    assert found.lost == 0


async def test_probing_ends_with_its_budget():
    link = SlowLink(Clock())
    await probe(link, rounds=50, budget_ms=15_000)
    assert 15 < link.clock.now < 20


async def test_lost_probes_are_counted_and_a_dead_link_is_given_up():
    found = await probe(SlowLink(Clock(), lost=2), rounds=1)
    assert found.lost == 2
    with pytest.raises(PeerUnreachable):
        await probe(SlowLink(Clock(), lost=3), rounds=1)


async def test_probes_rest_between(monkeypatch: pytest.MonkeyPatch):
    link = SlowLink(Clock())

    async def sleep(seconds: float) -> None:
        link.clock.sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await probe(link, rounds=2, share=0.5)
    assert link.clock.slept == pytest.approx(link.clock.now / 2, rel=0.2)


def test_the_speed_of_a_codec_is_by_raw_bytes_and_keeps_to_the_share():
    clock = Clock()
    steps = iter(range(1, 10_000))

    def ticking() -> float:
        clock.now += 0.001 * (next(steps) > 0)
        return clock.now

    spec = TensorSpec("t", (1000, 250), "float32")
    array = np.random.default_rng(0).normal(size=spec.shape).astype(np.float32)
    speed = time_codec("int8", [(spec, array)], budget_ms=50, share=0.5, clock=ticking, sleep=clock.sleep)
    assert speed.codec == "int8"
    assert speed.encode_mb_s == pytest.approx(1000)
    assert speed.decode_mb_s == pytest.approx(1000)
    assert clock.slept == pytest.approx(0.05, rel=0.2)
