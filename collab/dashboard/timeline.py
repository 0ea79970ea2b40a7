"""When each part of a request is under way: predicted, and by what stages took in the mean.  Pure.

Nobody times the parts of one request on one clock, so measured bars are means: of each stage what
its nodes counted, and between two stages half the measured round trip of their link.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from collab.core.ids import REQUESTER, StageId
from collab.core.plan import Edge, Plan


class Bar(NamedTuple):
    """One part of a request: a stage, or tensors on their way."""

    row: str
    """The stage's nodes, or the two ends of the edge."""
    label: str
    kind: str
    """``stage`` or ``edge``."""
    start_ms: float
    ms: float


def timeline(plan: Plan, stage_ms: Callable[[StageId], float], edge_ms: Callable[[Edge], float]) -> list[Bar]:
    """Bars in the plan's order; a stage begins when the last of its inputs is there."""
    ready: dict[str, float] = {REQUESTER: 0.0}
    bars: list[Bar] = []
    arrived: dict[str, float] = {}

    def move(edge: Edge) -> None:
        start, takes = ready.get(edge.source, 0.0), edge_ms(edge)
        arrived[edge.target] = max(arrived.get(edge.target, 0.0), start + takes)
        bars.append(Bar("between", f"{edge.source} → {edge.target}", "edge", start, takes))

    for edge in plan.edges:
        if edge.source == REQUESTER:
            move(edge)
    for stage in plan.stages:
        begin, takes = arrived.get(stage.id, 0.0), stage_ms(stage.id)
        bars.append(Bar(" + ".join(stage.nodes), stage.id, "stage", begin, takes))
        ready[stage.id] = begin + takes
        for edge in plan.edges:
            if edge.source == stage.id:
                move(edge)
    return bars


def predicted_timeline(plan: Plan) -> list[Bar]:
    """As the plan's file predicts it; empty where that has no prediction by stages."""
    told = plan.predicted
    if told is None or not told.stages:
        return []
    stages = {entry.stage: entry.ms for entry in told.stages}
    edges = {(entry.source, entry.target): entry.ms for entry in told.edges}
    return timeline(
        plan, lambda stage: stages.get(stage, 0.0), lambda edge: edges.get((edge.source, edge.target), 0.0)
    )
