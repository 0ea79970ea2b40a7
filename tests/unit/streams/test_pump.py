"""A stream as a whole, over a source and a sink in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest

from collab.core.streams import LATEST, FramePolicy
from collab.core.tensor import TensorSpec
from collab.errors import InputError, NodeLost, Overloaded, PeerUnreachable
from collab.streams.backoff import FIRST_S, LONGEST_S, pause_s
from collab.streams.feeder import STOP_S
from collab.streams.frames import Frame
from collab.streams.outbox import Outbox
from collab.streams.pump import Stream
from collab.streams.reading import FrameReader
from collab.streams.sinks.memory import MemorySink
from collab.streams.sources.memory import MemorySource
from collab.transport.aio import timeout

SPEC = TensorSpec("x", (1,), "float32")


@dataclass
class Given:
    outputs: Mapping[str, Any]
    via: str = "primary"
    path: tuple[str, ...] = ("a",)
    absent: str | None = None


def frames(count: int, start: int = 0) -> list[Frame]:
    return [Frame(f"frame {i}", i, {"x": np.array([i], np.float32)}) for i in range(start, start + count)]


@dataclass
class Plan:
    """Answers twice the input; may be told to wait or to fail."""

    fail: set[int] = field(default_factory=set)
    busy: int = 0
    gate: asyncio.Event | None = None
    asked: list[int] = field(default_factory=list)
    most: int = 0
    live: int = 0

    async def ask(self, inputs: Mapping[str, Any], deadline_s: float) -> Given:
        number = int(inputs["x"][0])
        if self.busy:
            self.busy -= 1
            raise Overloaded("no credit")
        self.asked.append(number)
        self.live += 1
        self.most = max(self.most, self.live)
        try:
            await (self.gate.wait() if self.gate is not None else asyncio.sleep(0))
        finally:
            self.live -= 1
        if number in self.fail:
            raise NodeLost("node 'a' is lost")
        return Given({"y": inputs["x"] * 2})


def stream(source: MemorySource, plan: Plan, sink: MemorySink, **options: Any) -> Stream:
    return Stream("s", source, FrameReader((SPEC,), None), plan.ask, [Outbox("memory", sink)], **options)


async def until(probe: Callable[[], bool]) -> None:
    while not probe():  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.001)


def told(sink: MemorySink) -> list[dict[str, Any]]:
    return [json.loads(answer) for answer in sink.answers]


async def test_every_frame_is_answered_failed_or_unreadable_and_told_once():
    source = MemorySource([*frames(3), InputError("frame 3: broken"), *frames(2, 3)])
    plan, sink = Plan(fail={1}), MemorySink()
    run = stream(source, plan, sink)
    await run.run()
    assert run.counts.to_json() == {"captured": 6, "answered": 4, "dropped": 0, "failed": 2}
    found = {line["sequence"]: line for line in told(sink)}
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    assert found[0]["outputs"] == {"y": [0.0]}
    assert found[1]["error"] == {"code": NodeLost.code, "message": "node 'a' is lost"}
    assert found[3]["error"]["message"] == "frame 3: broken"
    assert found[5]["outputs"] == {"y": [8.0]}
    assert run.sinks[0].delivered == 6
    assert run.last_error in ("frame 3: broken", "node 'a' is lost")


async def test_no_more_than_wanted_is_taken():
    sink = MemorySink()
    run = stream(MemorySource(frames(50)), Plan(), sink, most=3)
    await run.run()
    assert run.counts.captured == run.counts.answered == 3
    assert [line["sequence"] for line in told(sink)] == [0, 1, 2]


async def test_frames_go_side_by_side_as_allowed():
    plan, sink = Plan(gate=asyncio.Event()), MemorySink()
    run = stream(MemorySource(frames(9)), plan, sink, at_a_time=3)
    task = asyncio.create_task(run.run())
    async with timeout(10):
        await until(lambda: plan.live >= 3)
        plan.gate.set()
        await task
    assert plan.most == 3
    assert run.counts.answered == 9
    assert sorted(line["sequence"] for line in told(sink)) == list(range(9))


async def test_latest_drops_what_newer_frames_push_out():
    plan, sink = Plan(gate=asyncio.Event()), MemorySink()
    run = stream(MemorySource(frames(20), lasts=True), plan, sink)
    assert run.policy == LATEST
    task = asyncio.create_task(run.run())
    async with timeout(10):
        await until(lambda: run.counts.captured >= 20)
        plan.gate.set()
        await task
    assert run.counts.to_json() == {"captured": 20, "answered": 2, "dropped": 18, "failed": 0}
    assert [line["sequence"] for line in told(sink)] == [plan.asked[0], 19]


async def test_a_frame_waits_for_a_credit():
    plan, sink = Plan(busy=3), MemorySink()
    run = stream(MemorySource(frames(2)), plan, sink)
    await run.run()
    assert run.counts.answered == 2


async def test_a_frame_without_a_credit_in_time_fails():
    plan, sink = Plan(busy=1_000_000), MemorySink()
    run = stream(MemorySource(frames(1)), plan, sink, deadline_s=0.12)
    await run.run()
    assert run.counts.to_json() == {"captured": 1, "answered": 0, "dropped": 0, "failed": 1}
    assert told(sink)[0]["error"]["code"] == Overloaded.code


async def test_stopping_finishes_what_is_under_way_and_drops_what_waits():
    plan, sink = Plan(gate=asyncio.Event()), MemorySink()
    run = stream(MemorySource(frames(100)), plan, sink, policy=FramePolicy(4, drops=False))
    task = asyncio.create_task(run.run())
    async with timeout(10):
        await until(lambda: run.waiting >= 4)
        run.stop()
        plan.gate.set()
        await task
    assert run.counts.to_json() == {"captured": 5, "answered": 1, "dropped": 4, "failed": 0}
    assert run.waiting == 0


async def test_a_cancelled_stream_leaves_nothing_and_its_books_are_even():
    plan, sink = Plan(gate=asyncio.Event()), MemorySink()
    run = stream(MemorySource(frames(100)), plan, sink, at_a_time=2)
    task = asyncio.create_task(run.run())
    async with timeout(10):
        await until(lambda: plan.live >= 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    counts = run.counts
    assert counts.captured == counts.answered + counts.dropped + counts.failed
    assert run.waiting == 0


class Flaky(MemorySource):
    """Away some times before it opens, and lost once on the way."""

    def __init__(self, away: int, lost_at: int) -> None:
        super().__init__(frames(6))
        self.opened = 0
        self._away, self._lost_at, self._read = away, lost_at, 0

    def open(self) -> None:
        self.opened += 1
        if self.opened <= self._away:
            raise PeerUnreachable("camera: away")

    def read(self) -> Frame | None:
        self._read += 1
        if self._read == self._lost_at:
            raise PeerUnreachable("camera: unplugged")
        return super().read()


async def test_a_lost_source_is_opened_again():
    source, sink = Flaky(away=0, lost_at=3), MemorySink()
    run = stream(source, Plan(), sink)
    await run.run()
    assert source.opened == 2
    assert run.counts.answered == 6
    assert run.trouble == ""


async def test_a_source_that_is_away_at_first_ends_an_impatient_stream_alone():
    with pytest.raises(PeerUnreachable, match="camera: away"):
        await stream(Flaky(away=1, lost_at=0), Plan(), MemorySink()).run()
    run = stream(Flaky(away=2, lost_at=0), Plan(), MemorySink(), patient=True)
    await run.run()
    assert run.counts.answered == 6


def test_pauses_grow_to_a_bound_and_are_never_alike():
    rng = Random(3)
    for failures in range(1, 200):
        longest = min(LONGEST_S, FIRST_S * 2 ** (failures - 1)) if failures < 20 else LONGEST_S
        assert longest / 2 <= pause_s(failures, rng) <= longest


def is_open(run: Stream) -> bool:
    return run.trouble == ""


class Late(MemorySource):
    """Gives its frame only when it is stopped."""

    def read(self) -> Frame | None:
        self._stopped.wait()
        return frames(1)[0]


async def test_a_frame_that_comes_as_its_source_is_stopped_holds_nothing_up():
    for _ in range(20):
        run = stream(Late([]), Plan(), MemorySink())
        task = asyncio.create_task(run.run())
        await until(partial(is_open, run))
        run.stop()
        async with timeout(STOP_S / 2):
            await task
        assert run.counts.answered == 0


async def test_a_source_that_fails_in_its_own_way_ends_the_stream_with_a_clear_error():
    class Broken(MemorySource):
        def read(self) -> Frame | None:
            raise ZeroDivisionError("of a third party")

    with pytest.raises(InputError, match="the source failed: ZeroDivisionError: of a third party"):
        await stream(Broken([]), Plan(), MemorySink(), patient=True).run()
