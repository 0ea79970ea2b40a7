"""Where the stages of a pipeline run: times of stages and links over any graph of them.

A request is scheduled as it would run: a stage begins when all that it reads is there and
its node has ended the stages before it in the pipeline's order; moving ``b`` bytes costs
``latency_ms + 8 b / (1000 mbit_s)`` ms, of which the second term keeps the link; within a
node it costs nothing.  Few placements are all tried; of many a beam is kept, and the best
of it is improved by moving stages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise, product
from typing import Final, Literal

from collab.core.ids import REQUESTER, NodeName, StageId
from collab.core.plan import Predicted, PredictedEdge, PredictedStage
from collab.errors import PlanError
from collab.planner.units import Placement, Unit, Way, Wiring, ways

MOST_TRIED: Final = 4_096
"""Placements up to which all are tried."""
BEAM: Final = 24

Goal = Literal["latency", "throughput"]


@dataclass(frozen=True)
class Costs:
    """What stages and links cost."""

    ms: Mapping[StageId, Mapping[NodeName, float]]
    """Of each stage on each node that may run it."""
    links: Mapping[tuple[NodeName, NodeName], tuple[float, float]]
    """Latency in ms and rate in Mbit/s by both ends; the requester is one of them."""
    memory: Mapping[NodeName, int] = field(default_factory=dict)
    """Bytes of each node; where it is not listed there is enough."""
    bytes: Mapping[StageId, int] = field(default_factory=dict)
    """What each stage takes of it."""


@dataclass(frozen=True)
class Schedule:
    """A placement's costs."""

    placement: Placement
    latency_ms: float
    bottleneck_ms: float
    moves: Mapping[Way, tuple[float, float]]
    """Time of each edge, and how long it keeps its link."""


def schedule(wiring: Wiring, costs: Costs, placement: Placement) -> Schedule:
    """One request through a placed pipeline; of replicas the slowest counts."""
    edges = ways(wiring, placement)
    ends: dict[StageId, float] = {REQUESTER: 0.0}
    free: dict[NodeName, float] = {}
    wire: dict[tuple[NodeName, NodeName], float] = {}
    busy: dict[object, float] = {}
    moves: dict[Way, tuple[float, float]] = {}

    def arrive(way: Way) -> float:
        worst, moved = ends[way.source], (0.0, 0.0)
        for source in placement.get(way.source, (NodeName(REQUESTER),)):
            for target in placement.get(way.target, (NodeName(REQUESTER),)):
                lasts, keeps = _move(costs, wiring, way, source, target)
                start = max(ends[way.source], wire.get((source, target), 0.0)) if keeps else ends[way.source]
                wire[source, target] = max(wire.get((source, target), 0.0), start + keeps)
                busy[source, target] = busy.get((source, target), 0.0) + keeps
                if start + lasts >= worst:
                    worst, moved = start + lasts, (lasts, keeps)
        moves[way] = moved
        return worst

    for unit in wiring.units:
        ready = max(arrive(way) for way in edges if way.target == unit.id)
        nodes = placement[unit.id]
        ends[unit.id] = 0.0
        for node in nodes:
            takes = costs.ms[unit.id].get(node, math.inf)
            start = max(ready, free.get(node, 0.0))
            free[node] = start + takes
            busy[node] = busy.get(node, 0.0) + takes / len(nodes)
            ends[unit.id] = max(ends[unit.id], free[node])
    latency = max(arrive(way) for way in edges if way.target == REQUESTER)
    held: dict[NodeName, int] = {}
    for stage, nodes in placement.items():
        for node in nodes:
            held[node] = held.get(node, 0) + costs.bytes.get(stage, 0)
    if any(size > costs.memory.get(node, size) for node, size in held.items()):
        latency = math.inf
    return Schedule(placement, latency, max(busy.values(), default=0.0), moves)


def _move(costs: Costs, wiring: Wiring, way: Way, source: NodeName, target: NodeName) -> tuple[float, float]:
    if source == target:
        return 0.0, 0.0
    if (source, target) not in costs.links:
        return math.inf, math.inf
    latency_ms, mbit_s = costs.links[source, target]
    keeps = 8 * sum(wiring.sizes[name] for name in way.tensors) / (1000 * mbit_s)
    return latency_ms + keeps, keeps


def place(
    wiring: Wiring, costs: Costs, nodes: Sequence[NodeName], fixed: Placement, goal: Goal = "latency"
) -> Schedule:
    """The best placement of what is not fixed; raises `PlanError` where there is none."""
    loose = [unit for unit in wiring.units if unit.id not in fixed]
    if len(nodes) ** len(loose) <= MOST_TRIED:
        tried = (
            {**fixed, **{unit.id: (node,) for unit, node in zip(loose, chosen, strict=True)}}
            for chosen in product(nodes, repeat=len(loose))
        )
        best = _best((schedule(wiring, costs, one) for one in tried), goal)
    else:
        alone = [{**fixed, **{unit.id: (node,) for unit in loose}} for node in nodes]
        single = _best((schedule(wiring, costs, one) for one in alone), goal)
        starts = [*_beam(wiring, costs, nodes, fixed, loose)[:4], single.placement]
        near, pairs = list(pairwise(loose)), list(combinations(loose, 2))
        best = _best((_improved(wiring, costs, nodes, loose, near, one, goal) for one in starts), goal)
        if len(pairs) * len(nodes) ** 2 <= MOST_TRIED:
            best = _improved(wiring, costs, nodes, loose, pairs, best.placement, goal)
    if not math.isfinite(best.latency_ms):
        raise PlanError(
            "no placement is possible: a link is missing, or the nodes' memory is too small; add a node, or "
            "place steps by --assign"
        )
    return best


def _key(goal: Goal, one: Schedule) -> tuple[float, ...]:
    # Equal costs go to fewer nodes and fewer edges between them.
    spread = len({node for nodes in one.placement.values() for node in nodes})
    costs = (one.latency_ms, one.bottleneck_ms)
    return (*(costs if goal == "latency" else costs[::-1]), spread, len(one.moves))


def _best(found: Iterable[Schedule], goal: Goal) -> Schedule:
    return min(found, key=lambda one: _key(goal, one) if math.isfinite(one.latency_ms) else (math.inf,) * 4)


def _beam(
    wiring: Wiring, costs: Costs, nodes: Sequence[NodeName], fixed: Placement, loose: Sequence[Unit]
) -> list[Placement]:
    """Placements of the first stages that end soonest, extended stage by stage, best first."""
    kept: list[Placement] = [dict(fixed)]
    for count, unit in enumerate(wiring.units, start=1):
        if unit.id in fixed:
            continue
        part = _until(wiring, count)
        wider: list[Placement] = [{**one, unit.id: (node,)} for one in kept for node in nodes]
        wider.sort(key=lambda one: _key("latency", schedule(part, costs, one)))
        kept = wider[:BEAM]
    return kept


def _until(wiring: Wiring, count: int) -> Wiring:
    """The first stages as a pipeline of their own, whose answer costs nothing."""
    units = wiring.units[:count]
    if count == len(wiring.units):
        return wiring
    read = {name for unit in wiring.units[count:] for name in unit.reads} | set(wiring.outputs)
    return Wiring(units, wiring.sizes, wiring.inputs, tuple(n for n in units[-1].makes if n in read))


def _improved(
    wiring: Wiring,
    costs: Costs,
    nodes: Sequence[NodeName],
    loose: Sequence[Unit],
    pairs: Sequence[tuple[Unit, Unit]],
    start: Placement,
    goal: Goal,
) -> Schedule:
    """Stages are moved alone and in pairs as long as that helps."""
    best = schedule(wiring, costs, start)
    while True:
        tries: list[Placement] = [{**best.placement, unit.id: (node,)} for unit in loose for node in nodes]
        tries += [
            {**best.placement, one.id: (here,), other.id: (there,)}
            for one, other in pairs
            for here, there in product(nodes, repeat=2)
        ]
        found = _best((schedule(wiring, costs, one) for one in tries), goal)
        if _key(goal, found) >= _key(goal, best):
            return best
        best = found


def predicted(wiring: Wiring, costs: Costs, found: Schedule, basis: str) -> Predicted:
    """What a plan keeps of it."""
    return Predicted(
        latency_ms=found.latency_ms,
        bottleneck_ms=found.bottleneck_ms,
        stages=tuple(
            PredictedStage(
                stage=unit.id,
                nodes=found.placement[unit.id],
                ms=max(costs.ms[unit.id][node] for node in found.placement[unit.id]),
            )
            for unit in wiring.units
        ),
        edges=tuple(
            PredictedEdge(source=way.source, target=way.target, ms=ms, occupied_ms=keeps)
            for way, (ms, keeps) in found.moves.items()
        ),
        basis=basis,
    )
