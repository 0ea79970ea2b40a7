"""Plans over the fashion models, and what their combiners make of answers, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from benchmarks import fashion
from collab.codec.tensors import Array
from collab.coordinator.ensembles import member
from collab.coordinator.planning import open_model
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan, Quarantine
from collab.graph import Graph
from collab.planner.chain import Assignment
from collab.planner.ensemble import ANSWER, Doubt, Member, Merging, cascade, ensemble
from collab.runtime.combiners import Merge

NODES = ("a", "b", "c", "d")
LAST = NodeName("d")
"""The combiner's node."""
NOWHERE = tuple(NodeRef(name=NodeName(node)) for node in NODES)
"""The nodes of plans that are not deployed."""


@cache
def opened(name: str) -> Graph:
    """A committed model."""
    return open_model(fashion.model(name))


def _member(name: str, node: str) -> Member:
    return member(fashion.model(name), opened(name), (), Assignment(((NodeName(node),),)))


def combining(
    names: Sequence[str],
    combine: str,
    weights: Sequence[float] = (),
    quarantine: Quarantine | None = None,
    quorum: int | None = None,
    wait_ms: float = 0.0,
    plan: str = "many",
    nodes: Sequence[NodeRef] = NOWHERE,
    credits: int = 64,
) -> Plan:
    """Members on nodes of their own, as many as there are, and the combiner on the last node."""
    members = [_member(name, NODES[i % len(NODES)]) for i, name in enumerate(names)]
    merging = Merging(combine, (LAST,), tuple(weights), quorum, wait_ms, quarantine)
    return ensemble(PlanName(plan), members, merging, nodes, credits=credits)


def cascading(doubt: Doubt, nodes: Sequence[NodeRef]) -> Plan:
    """The small model on one node, the large one on another."""
    small, large = _member(fashion.SMALL, "a"), _member(fashion.LARGE, "b")
    return cascade(PlanName("cascade"), small, large, doubt, (NodeName("a"),), nodes)


def merged(plan: Plan, scores: Sequence[Array]) -> tuple[Array, Array]:
    """Answers and the report of members to one image after another, as the combiner's node makes them."""
    merge = Merge(plan, plan.stage(ANSWER))
    name = plan.outputs[0].name
    made = [merge([{name: answer} for answer in answers]) for answers in zip(*scores, strict=True)]
    return np.stack([one[name] for one in made]), np.stack([one["members"] for one in made])
