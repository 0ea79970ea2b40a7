"""What messages cost in the Python stack at their ends, and how transports cut them; calibrated constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

from msgspec.structs import replace

from collab.core.codecs import RAW
from collab.core.ids import REQUESTER, EdgeId
from collab.core.plan import Edge, Plan
from collab.core.profile import DeviceProfile, Profile
from collab.core.validate import flow
from collab.emulation.machines import StageTime
from collab.emulation.models.delay import quantiles
from collab.emulation.scenario import Scenario
from collab.emulation.streams import Framing
from collab.errors import PlanError
from collab.planner.evaluate import Evaluator


@dataclass(frozen=True)
class StackCosts:
    """One message from one node to another, beside the network between them."""

    message_us: float
    """Of both ends together: half at each."""
    byte_us: float
    header_bytes: int
    """Envelope, frames and TLS records of a message."""
    idle_us: float = 0.0
    """More of it between processes that have long done nothing; half at each end, too."""

    @staticmethod
    def of(scenario: Scenario) -> StackCosts:
        """As calibrated, or as the scenario says."""
        cluster, given = scenario.cluster, scenario.stack
        base = CALIBRATED[cluster.transport]
        secured = SECURED[cluster.transport] if cluster.secured else NOTHING
        # Who says what a message costs means all of it.
        idle_us = IDLE_US if given.message_us is None else 0.0
        return StackCosts(
            base.message_us + secured.message_us if given.message_us is None else given.message_us,
            base.byte_us + secured.byte_us if given.ns_per_byte is None else given.ns_per_byte / 1000,
            base.header_bytes + secured.header_bytes if given.header_bytes is None else given.header_bytes,
            idle_us if given.idle_us is None else given.idle_us,
        )


NOTHING: Final = StackCosts(0.0, 0.0, 0)

# ``python -m benchmarks.chain``: (c - b) / messages over sizes of 4 kB to 5 MB gives gRPC's line, loopback
# included.  Of the others, what ``python -m benchmarks.transports`` has them differ from gRPC, one way.
CALIBRATED: Final = {
    "grpc": StackCosts(450.0, 0.0013, 300),
    "mqtt": StackCosts(560.0, 0.0023, 330),
    "mqtt-qos0": StackCosts(520.0, 0.0023, 330),
    "coap+tcp": StackCosts(390.0, 0.0008, 300),
    "coap+udp": StackCosts(475.0, 0.0100, 320),
}
IDLE_US: Final = 740.0
# Emulated chains of one to three nodes, 4 kB, with pauses of 0 to 40 ms between requests: by any transport a
# message costs that much more after 40 ms than back to back, two thirds of it after 5 ms.
SECURED: Final = {
    "grpc": StackCosts(10.0, 0.0005, 60),
    "mqtt": StackCosts(50.0, 0.0012, 60),
    "mqtt-qos0": StackCosts(50.0, 0.0012, 60),
    "coap+tcp": StackCosts(30.0, 0.0010, 60),
    "coap+udp": StackCosts(70.0, 0.0006, 60),
}

FRAMING: Final = {
    "grpc": Framing(),
    "mqtt": Framing(),
    "mqtt-qos0": Framing(),
    "coap+tcp": Framing(),
    "coap+udp": Framing(payload_bytes=1024, header_bytes=28 + 18),
}


@dataclass(frozen=True, slots=True)
class EdgeCost:
    """One edge of a plan on the wire."""

    value_bytes: int
    """Of a message with its value."""
    plain_bytes: int
    """Of a message without one."""
    encode_us: float
    """At the requester; a stage's is in its `StageTime`."""
    decode_us: float


def edge_costs(plan: Plan, profile: Profile, stack: StackCosts) -> tuple[EdgeCost, ...]:
    """Sizes of every edge's messages; raises `PlanError` for a codec that the profile does not know there."""
    evaluator = Evaluator(profile)
    on_edge = flow(plan)
    costs = []
    for index, edge in enumerate(plan.edges):
        raw = sum(spec.nbytes for spec in on_edge[EdgeId(index)].values())
        ratio, encode_ms, decode_ms = 1.0, 0.0, 0.0
        if edge.codec != RAW:
            at = _place(plan, edge, evaluator.op_count)
            known = None if at is None else evaluator.codec_at(at, edge.codec)
            if known is None or at is None:
                raise PlanError(
                    f"edges[{index}].codec: the profile does not know {edge.codec!r} there; use raw"
                )
            ratio = known.ratio
            times = evaluator.codec_ms(profile.requester, at, edge.codec)
            encode_ms = times[0] if edge.source == REQUESTER else 0.0
            decode_ms = times[1] if edge.target == REQUESTER else 0.0
        costs.append(
            EdgeCost(
                int(raw / ratio) + stack.header_bytes, stack.header_bytes, encode_ms * 1e3, decode_ms * 1e3
            )
        )
    return tuple(costs)


def stage_times(plan: Plan, profile: Profile, device: DeviceProfile) -> dict[int, StageTime]:
    """What the stages of a plan take on one of its nodes, by stage index."""
    evaluator = Evaluator(replace(profile, devices=(device,), requester=None))
    times: dict[int, StageTime] = {}
    for index, stage in enumerate(plan.stages):
        if device.name not in stage.nodes:
            continue
        compute_ms = device.stage_ms
        if stage.ops is not None:
            known = {device.threads, *(more.threads for more in device.more_threads)}
            threads = stage.threads if stage.threads in known else 0
            compute_ms = evaluator.stage_ms(device, *stage.ops, threads)
        into = [plan.edges[edge] for edge in plan.edges_into(stage.id)]
        out = [plan.edges[edge] for edge in plan.edges_from(stage.id)]
        times[index] = StageTime(
            _coding_us(evaluator, plan, device, into, 1),
            compute_ms * 1e3,
            _coding_us(evaluator, plan, device, out, 0),
        )
    return times


def run_spread(device: DeviceProfile, noise: float | None, chance: Random) -> Callable[[], float] | None:
    """Draws how many times its usual time a run takes: as measured, unless the scenario has a ``noise``."""
    if noise is not None:
        return partial(chance.lognormvariate, 0.0, noise) if noise else None
    if not device.run_quantiles:
        return None
    factor, draw = quantiles(device.run_quantiles), chance.random
    return lambda: factor(1.0 - draw())


def _coding_us(
    evaluator: Evaluator, plan: Plan, device: DeviceProfile, edges: Sequence[Edge], which: int
) -> float:
    """Encoding (0) or decoding (1) of some edges; nothing is coded within one node."""
    total = 0.0
    for edge in edges:
        ends = {edge.source, edge.target} - {REQUESTER}
        inside = len(ends) == 2 and {n for end in ends for n in plan.stage(end).nodes} == {device.name}
        at = _place(plan, edge, evaluator.op_count)
        if edge.codec != RAW and not inside and at is not None:
            total += evaluator.codec_ms(device.name, at, edge.codec)[which] * 1e3
    return total


def _place(plan: Plan, edge: Edge, ops: int) -> int | None:
    """The cut that an edge crosses; None where it crosses none, as behind a combiner."""
    if edge.source == REQUESTER:
        return 0
    stage = plan.stage(edge.source)
    return None if stage.ops is None else min(stage.ops[1], ops)
