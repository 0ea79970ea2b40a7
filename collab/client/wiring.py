"""Where a plan's tokens go: derived once per plan, shared by requesters and nodes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from collab.core.ids import REQUESTER, EdgeId, NodeName, StageId
from collab.core.plan import FireAny, FireQuorum, Plan, StageSpec
from collab.core.validate import order

OUTSIDE: Final = -1
"""Stands for the requester where a stage's index is expected."""

Route = tuple[NodeName, ...]
"""The node that runs each stage in one attempt, by stage index."""


def entry(plan: Plan) -> StageId:
    """The stage where attempts are admitted: the first in plan order that the requester feeds."""
    fed = {edge.target for edge in plan.edges if edge.source == REQUESTER}
    return next(stage.id for stage in plan.stages if stage.id in fed)


@dataclass(frozen=True, slots=True)
class StageWiring:
    """One stage as tokens see it."""

    index: int
    id: StageId
    nodes: tuple[NodeName, ...]
    in_edges: tuple[EdgeId, ...]
    out_edges: tuple[EdgeId, ...]
    need: int
    """Values that let it fire; `all` needs every one, `any` needs one."""
    wait_us: int
    """How long after the first value it still waits for more than ``need``."""


@dataclass(frozen=True, slots=True)
class EdgeWiring:
    """One edge as tokens see it: stage indices in place of names."""

    source: int
    target: int
    slot: int
    """Position among the in-edges of its target."""
    via: tuple[NodeName, ...]


@dataclass(frozen=True, slots=True)
class Wiring:
    """A whole plan as tokens see it."""

    stages: tuple[StageWiring, ...]
    edges: tuple[EdgeWiring, ...]
    order: tuple[int, ...]
    """Stage indices, each after those it reads from."""
    entry: int
    entry_edges: tuple[EdgeId, ...]
    """Edges from the requester."""
    admission_edge: EdgeId
    """The one of them that leads to the entry."""
    output_edge: EdgeId
    races: bool
    """Whether stages may still compute when the answer is out."""

    def path(self, edge: EdgeId, requester: NodeName, route: Route) -> tuple[NodeName, ...]:
        """Who holds a token of an edge, from its producer to its consumer.

        One name when a node is both; a relay that is an end anyway is left out.
        """
        wire = self.edges[edge]
        first = requester if wire.source == OUTSIDE else route[wire.source]
        last = requester if wire.target == OUTSIDE else route[wire.target]
        via = wire.via
        if wire.source != OUTSIDE and wire.target != OUTSIDE and first == last:
            return (first,)
        if wire.source != OUTSIDE and first in via:
            via = via[via.index(first) + 1 :]
        if wire.target != OUTSIDE and last in via:
            via = via[: via.index(last)]
        return (first, *via, last)

    def names_all(self, route: Route) -> bool:
        """Whether a route names one of its nodes for every stage."""
        return len(route) == len(self.stages) and all(
            node in stage.nodes for node, stage in zip(route, self.stages, strict=True)
        )

    def survives(self, requester: NodeName, route: Route, lost: Collection[NodeName]) -> bool:
        """Whether an attempt can be answered without some nodes.

        An ensemble can do without a member, a chain without nobody.
        """
        alive = [False] * len(self.stages)

        def carries(edge: EdgeId) -> bool:
            source = self.edges[edge].source
            relays = self.path(edge, requester, route)[1:-1]
            return (source == OUTSIDE or alive[source]) and not any(node in lost for node in relays)

        for index in self.order:
            stage = self.stages[index]
            if route[index] not in lost:
                alive[index] = sum(map(carries, stage.in_edges)) >= stage.need
        return carries(self.output_edge)


def wire(plan: Plan) -> Wiring:
    """Derive a valid plan's wiring."""
    index = {stage.id: i for i, stage in enumerate(plan.stages)} | {REQUESTER: OUTSIDE}
    into: dict[StageId, list[EdgeId]] = {name: [] for name in index}
    out_of: dict[StageId, list[EdgeId]] = {name: [] for name in index}
    edges = []
    for i, edge in enumerate(plan.edges):
        edges.append(EdgeWiring(index[edge.source], index[edge.target], len(into[edge.target]), edge.via))
        into[edge.target].append(EdgeId(i))
        out_of[edge.source].append(EdgeId(i))
    stages = tuple(_stage(i, s, into[s.id], out_of[s.id]) for i, s in enumerate(plan.stages))
    admits = index[entry(plan)]
    return Wiring(
        stages=stages,
        edges=tuple(edges),
        order=tuple(index[name] for name in order(plan)),
        entry=admits,
        entry_edges=tuple(out_of[REQUESTER]),
        admission_edge=next(i for i in out_of[REQUESTER] if edges[i].target == admits),
        output_edge=into[REQUESTER][0],
        races=any(_races(plan, stage) for stage in stages),
    )


def _stage(index: int, spec: StageSpec, into: Sequence[EdgeId], out_of: Sequence[EdgeId]) -> StageWiring:
    need, wait_us = len(into), 0
    if isinstance(spec.fires, FireAny):
        need = 1
    elif isinstance(spec.fires, FireQuorum):
        need, wait_us = spec.fires.k, round(spec.fires.wait_ms * 1000)
    return StageWiring(index, spec.id, spec.nodes, tuple(into), tuple(out_of), need, wait_us)


def _races(plan: Plan, stage: StageWiring) -> bool:
    """Whether members compete for a stage; guarded edges are alternatives, not competitors."""
    return sum(plan.edges[edge].guard is None for edge in stage.in_edges) > stage.need
