"""What a device costs, from what it says of stages: noise, slowness, memory, warnings."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from collab.assets import path as asset
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.profiled_device import DeviceCosts, DeviceMeter, Piece
from collab.coordinator.profiled_model import places, splits
from collab.graph import Graph, read_model
from collab.planner.fit import StageTimes

STAGE_MS, HAND_OVER_MS = 0.02, 0.05
OVERHEAD_BYTES = 100_000


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_model(asset("digits.tflite"))


def pieces(graph: Graph) -> list[Piece]:
    between = places(graph)
    found = {pair for at in splits(graph, between, 0) for pair in pairwise((0, *at, graph.op_count))}
    return [Piece(a, b, f"{a}-{b}", 1000 * (b - a)) for a, b in sorted(found | set(pairwise(between)))]


class Device:
    """Answers ``Profile`` as a device would on which operator ``k`` takes ``(k % 5 + 1) / 10`` ms."""

    name = "d"

    def __init__(self, disturb: Callable[[random.Random], tuple[float, float]]) -> None:
        self._disturb, self._rng = disturb, random.Random(0)

    async def profile(self, request: pb.ProfileRequest) -> pb.ProfileReply:
        start, stop = map(int, request.sha256.split("-"))
        ms = (sum(k % 5 + 1 for k in range(start, stop)) / 10 + STAGE_MS) / request.threads
        runs = [self._disturb(self._rng) for _ in range(request.runs)]
        return pb.ProfileReply(
            run_ms=[ms * wall for wall, _ in runs],
            cpu_ms=[ms * cpu for _, cpu in runs],
            memory_bytes=2000 * (stop - start) + OVERHEAD_BYTES,
            hand_over_ms=[HAND_OVER_MS] * request.runs if request.hand_over else [],
        )


async def measure(graph: Graph, disturb: Any, *threads: int) -> tuple[DeviceCosts, list[str], int]:
    warnings: list[str] = []
    steps: list[None] = []
    meter = DeviceMeter(
        Device(disturb),
        graph,
        places(graph),
        pieces(graph),
        rounds=3,
        share=1.0,
        step=lambda: steps.append(None),
        warn=warnings.append,
    )
    return await meter.measure(threads or (1,)), warnings, len(steps)


def right(times: StageTimes, n: int, factor: float = 1.0) -> bool:
    """Whether predictions are within a few percent."""
    for start, stop in ((0, n), (0, n // 2), (n // 3, n)):
        ms = factor * (sum(k % 5 + 1 for k in range(start, stop)) / 10 + STAGE_MS) + HAND_OVER_MS
        if times.predict(start, stop) != pytest.approx(ms, rel=0.04):
            return False
    return True


async def test_a_quiet_device_is_found_as_it_is(graph: Graph):
    costs, warnings, steps = await measure(graph, lambda rng: (1.0, 1.0), 2, 1)
    assert right(costs.times[1], graph.op_count)
    assert right(costs.times[2], graph.op_count, 0.5)
    assert list(costs.times) == [2, 1]
    assert costs.fit_error == pytest.approx(0.0, abs=1e-3)
    assert warnings == []
    assert steps == 2 * 3 * len(pieces(graph))


async def test_waiting_for_a_processor_is_left_out_and_told(graph: Graph):
    costs, warnings, _ = await measure(graph, lambda rng: (rng.choice([1.0, 1.0, 2.0, 6.0]), 1.0))
    assert right(costs.times[1], graph.op_count)
    assert len(warnings) == 1
    assert "its runs stood still for" in warnings[0]


async def test_a_device_that_is_held_back_all_the_time_is_slow(graph: Graph):
    costs, warnings, _ = await measure(graph, lambda rng: (4.0 * rng.choice([1.0, 1.1]), 1.0))
    assert right(costs.times[1], graph.op_count, 4.0)
    assert warnings == []


async def test_times_that_predict_badly_are_told(graph: Graph):
    seen: dict[str, float] = {}

    class Wild(Device):
        async def profile(self, request: pb.ProfileRequest) -> pb.ProfileReply:
            factor = seen.setdefault(request.sha256, self._rng.choice([1.0, 3.0]))
            self._disturb = lambda rng: (factor, factor)
            return await super().profile(request)

    warnings: list[str] = []
    device = Wild(lambda rng: (1.0, 1.0))
    meter = DeviceMeter(
        device, graph, places(graph), pieces(graph), rounds=1, share=1.0, warn=warnings.append
    )
    costs = await meter.measure([1])
    assert (costs.fit_error or 0) > 0.1
    assert any("are over" in text for text in warnings)


async def test_sums_of_memory_bound_every_stage(graph: Graph):
    costs, _, _ = await measure(graph, lambda rng: (1.0, 1.0))
    for piece in pieces(graph):
        bound = sum(costs.op_bytes[piece.start : piece.stop]) + costs.stage_bytes
        assert bound >= 2000 * (piece.stop - piece.start) + OVERHEAD_BYTES


async def test_the_spread_of_runs_around_their_median_is_noted(graph: Graph):
    costs, _, _ = await measure(graph, lambda rng: (rng.choice([1.0, 1.0, 1.0, 1.5]),) * 2)
    spread = dict(costs.run_quantiles)
    assert [spread[share] for share in (0.1, 0.5, 0.9)] == pytest.approx([1.0, 1.0, 1.5])
