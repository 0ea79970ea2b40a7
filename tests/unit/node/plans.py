"""Plans for tests of tokens: every stage is a combiner, so that any shape is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from collab.core.plan import Edge, FireAll, FireAny, FireQuorum, Guard, NodeRef, Plan, StageSpec
from collab.core.tensor import TensorSpec
from collab.core.validate import validate

IN = "@requester"
GUARD = Guard(tensor="t", measure="max", when="at_least", threshold=0.5)
"""`edge` makes it measure what the edge's source makes."""
UNSURE = replace(GUARD, when="below")


def tensor(name: str) -> TensorSpec:
    return TensorSpec(name, (1,), "float32")


def stage(name: Any, *nodes: Any, fires: Any = FireAll()) -> StageSpec:
    made = (tensor(f"t-{name}"),)
    return StageSpec(id=name, nodes=nodes, inputs=(), outputs=made, combine="mean", fires=fires)


def edge(source: Any, target: Any, *via: Any, guard: Guard | None = None) -> Edge:
    tensors = ("x",) if source == IN else (f"t-{source}",)
    if guard is not None:
        guard = replace(guard, tensor=tensors[0])
    return Edge(source=source, target=target, tensors=tensors, via=via, guard=guard)


def plan(stages: Sequence[StageSpec], edges: Sequence[Edge], name: Any = "p", **more: Any) -> Plan:
    """A valid plan; its nodes are those that its stages and edges name."""
    output = next(e for e in edges if e.target == IN)
    nodes = dict.fromkeys(n for s in stages for n in s.nodes)
    nodes.update(dict.fromkeys(n for e in edges for n in e.via))
    return validate(
        Plan(
            name=name,
            models=(),
            inputs=(tensor("x"),),
            outputs=tuple(tensor(t) for t in output.tensors),
            stages=tuple(stages),
            edges=tuple(edges),
            nodes=tuple(NodeRef(name=n) for n in nodes),
            **more,
        )
    )


def chain(*nodes: str | tuple[str, ...], **more: Any) -> Plan:
    """Stages ``s0``, ``s1``, ... one after another; a tuple of nodes is a replicated stage."""
    stages = [stage(f"s{i}", *([n] if isinstance(n, str) else n)) for i, n in enumerate(nodes)]
    names = [IN, *(s.id for s in stages), IN]
    return plan(stages, [edge(a, b) for a, b in pairwise(names)], **more)


def diamond(fires: Any = FireAll(), last: str = "d", **more: Any) -> Plan:
    """``a`` feeds ``b`` and ``c``, which meet in the combiner on ``last``; edges 0 to 5 in that order."""
    stages = [stage("a", "a"), stage("b", "b"), stage("c", "c"), stage("d", last, fires=fires)]
    edges = [edge(IN, "a"), edge("a", "b"), edge("a", "c"), edge("b", "d"), edge("c", "d"), edge("d", IN)]
    return plan(stages, edges, **more)


def ensemble(fires: Any = FireAny(), **more: Any) -> Plan:
    """The requester feeds ``a``, ``b`` and ``c``; the combiner is on ``d``; edges 0 to 2, 3 to 5, 6."""
    members = [stage(n, n) for n in "abc"]
    edges = [edge(IN, n) for n in "abc"] + [edge(n, "d") for n in "abc"] + [edge("d", IN)]
    return plan([*members, stage("d", "d", fires=fires)], edges, **more)


NODES = ("n0", "n1", "n2", "n3", "n4")


@st.composite
def firing(draw: Any, edges: int) -> Any:
    kind = draw(st.sampled_from(["all", "all", "any", "quorum"]))
    if kind == "all":
        return FireAll()
    if kind == "any":
        return FireAny()
    return FireQuorum(k=draw(st.integers(1, edges)), wait_ms=draw(st.sampled_from([0.0, 3.0, 40.0])))


@st.composite
def plans(draw: Any, name: str = "p", replicas: int = 2, credits: int = 64) -> Plan:
    """Any shape of up to five stages on up to five nodes, with guards and relays here and there."""
    count = draw(st.integers(1, 5))
    names = [f"s{i}" for i in range(count)]
    nodes = NODES[: draw(st.integers(1, len(NODES)))]
    stages, edges = [], []
    for i, own in enumerate(names):
        sources = draw(st.sets(st.sampled_from([IN, *names[:i]]), min_size=1, max_size=3))
        if i == count - 1 and i:
            sources |= {names[i - 1]}
        placed = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=replicas, unique=True))
        stages.append(stage(own, *placed, fires=draw(firing(len(sources)))))
        edges += [(source, own) for source in sorted(sources)]
    edges.append((names[-1], IN))
    made = []
    for source, target in draw(st.permutations(edges)):
        via = draw(st.lists(st.sampled_from(nodes), max_size=2, unique=True)) if draw(st.booleans()) else []
        guard = draw(st.sampled_from([None, None, None, None, GUARD, UNSURE])) if source != IN else None
        made.append(edge(source, target, *via, guard=guard))
    return plan(draw(st.permutations(stages)), made, name, credits=credits)
