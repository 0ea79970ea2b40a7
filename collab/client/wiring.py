"""Where a plan's tokens go: derived once per plan, shared by requesters and nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Final

from collab.core.ids import REQUESTER, EdgeId, NodeName, StageId
from collab.core.plan import Edge, FireAny, FireQuorum, Plan, StageSpec
from collab.core.validate import order

_MAX_TRIED: Final = 512
_SETS: Final = 1024
"""Of nodes that are kept."""

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
    members: frozenset[NodeName]
    """The nodes, to look one up among very many."""


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
    """Whether a stage may still compute when a value has answered the request."""

    @property
    def entry_stage(self) -> StageWiring:
        """The stage at which attempts are admitted."""
        return self.stages[self.entry]

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
            node in stage.members for node, stage in zip(route, self.stages, strict=True)
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
    admits, ordered = index[entry(plan)], tuple(index[name] for name in order(plan))
    return Wiring(
        stages=stages,
        edges=tuple(edges),
        order=ordered,
        entry=admits,
        entry_edges=tuple(out_of[REQUESTER]),
        admission_edge=next(i for i in out_of[REQUESTER] if edges[i].target == admits),
        output_edge=into[REQUESTER][0],
        races=_races(plan, [stages[i] for i in ordered], into[REQUESTER][0]),
    )


def _stage(index: int, spec: StageSpec, into: Sequence[EdgeId], out_of: Sequence[EdgeId]) -> StageWiring:
    need, wait_us = len(into), 0
    if isinstance(spec.fires, FireAny):
        need = 1
    elif isinstance(spec.fires, FireQuorum):
        need, wait_us = spec.fires.k, round(spec.fires.wait_ms * 1000)
    return StageWiring(
        *(index, spec.id, spec.nodes, tuple(into), tuple(out_of), need, wait_us), _members(spec.nodes)
    )


@lru_cache(maxsize=_SETS)
def _members(nodes: tuple[NodeName, ...]) -> frozenset[NodeName]:
    """One set for all that know the same plan."""
    return frozenset(nodes)


def _races(plan: Plan, ordered: Sequence[StageWiring], output: EdgeId) -> bool:
    """Whether, for some outcome of the guards, a stage that fires could be missing and the answer still come.

    Guards of one source that measure the same have one outcome, so a cascade's ways are
    alternatives and do not race.  A plan with too many of them to try is taken to race.
    """
    if all(stage.out_edges and stage.need == len(stage.in_edges) for stage in ordered):
        return False
    measures = {_measure(edge) for edge in plan.edges if edge.guard is not None}
    if len(ordered) << len(measures) > _MAX_TRIED:
        return True
    for outcome in product((False, True), repeat=len(measures)):
        passes = dict(zip(measures, outcome, strict=True))
        fired, answered = _run(plan, ordered, output, passes, None)
        if answered and any(_run(plan, ordered, output, passes, slow)[1] for slow in fired):
            return True
    return False


def _measure(edge: Edge) -> tuple[object, ...]:
    guard = edge.guard
    assert guard is not None
    return edge.source, guard.tensor, guard.measure, guard.threshold


def _run(
    plan: Plan,
    ordered: Sequence[StageWiring],
    output: EdgeId,
    passes: Mapping[tuple[object, ...], bool],
    slow: StageId | None,
) -> tuple[set[StageId], bool]:
    """The stages that fire when one of them never ends, and whether a value comes out."""
    fired: set[StageId] = set()

    def carries(at: EdgeId) -> bool:
        edge = plan.edges[at]
        if edge.source != REQUESTER and (edge.source == slow or edge.source not in fired):
            return False
        return edge.guard is None or passes[_measure(edge)] == (edge.guard.when == "at_least")

    for stage in ordered:
        if sum(map(carries, stage.in_edges)) >= stage.need:
            fired.add(stage.id)
    return fired, carries(output)
