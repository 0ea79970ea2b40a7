"""Plans of several models: ensembles, whose members a combiner merges, and cascades, small model first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from msgspec.structs import replace

from collab.core.ids import REQUESTER, NodeName, PlanName, StageId
from collab.core.plan import (
    Edge,
    FileName,
    FireAll,
    FireAny,
    FireQuorum,
    Fires,
    Guard,
    ModelRef,
    NodeRef,
    Plan,
    Quarantine,
    StageSpec,
    report_specs,
)
from collab.core.tensor import TensorSpec
from collab.core.validate import flow, validate
from collab.errors import PlanError

Measure = Literal["max", "margin", "entropy"]
MEASURES: Final[tuple[Measure, ...]] = ("max", "margin", "entropy")

ANSWER: Final = StageId("answer")
"""The combiner that makes a plan's answer."""
INPUT: Final = StageId("input")
"""The stage that hands the input on to members, any of which may be lost."""
SMALL: Final = StageId("small")
LARGE: Final = StageId("large")


@dataclass(frozen=True)
class Member:
    """A whole model as one placed stage or a chain of them."""

    model: ModelRef
    stages: tuple[StageSpec, ...]
    boundaries: tuple[tuple[str, ...], ...]
    """What travels over the cut before each stage but the first."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def called(self, name: str, like: Member) -> Member:
        """The member under a name of its own, its ends called as another's, as `matched` says."""
        who = f"{name} ({self.model.path or self.model.sha256[:12]})"
        ends = matched(who, (self.inputs, self.outputs), (like.inputs, like.outputs))
        names = _aliases(ends, self)
        stages = []
        for i, stage in enumerate(self.stages):
            specs = (*stage.inputs, *stage.outputs)
            renamed = {s.name: names[s.name] for s in specs if names.get(s.name, s.name) != s.name}
            stages.append(
                replace(
                    stage,
                    id=StageId(name if len(self.stages) == 1 else f"{name}-{i}"),
                    model=name,
                    inputs=_rename(stage.inputs, names),
                    outputs=_rename(stage.outputs, names),
                    file_names=tuple(FileName(tensor=to, file=of) for of, to in renamed.items()),
                )
            )
        return Member(
            replace(self.model, id=name),
            tuple(stages),
            tuple(tuple(names.get(t, t) for t in boundary) for boundary in self.boundaries),
            like.inputs,
            like.outputs,
        )


@dataclass(frozen=True)
class Merging:
    """How members' answers become one."""

    combine: str
    nodes: tuple[NodeName, ...]
    """Where the combiner runs; several are replicas."""
    weights: tuple[float, ...] = ()
    quorum: int | None = None
    """Members that are enough; None waits for all."""
    wait_ms: float = 0.0
    """How long after the first answer it waits for more than the quorum."""
    quarantine: Quarantine | None = None
    """Whom it leaves out for a while."""


@dataclass(frozen=True)
class Doubt:
    """When a cascade's small model is unsure: a measure of its first output against a threshold."""

    measure: Measure
    threshold: float

    def guards(self, tensor: str) -> tuple[Guard, Guard]:
        """The guards of what is unsure and of what is sure; exactly one lets a value through."""
        below = Guard(tensor=tensor, measure=self.measure, when="below", threshold=self.threshold)
        above = replace(below, when="at_least")
        return (above, below) if self.measure == "entropy" else (below, above)


@dataclass(frozen=True)
class Traffic:
    """Tensor bytes that travel between places for one request, as raw tensors."""

    sure: int
    """Where the small model answers."""
    unsure: int
    """Where the large one is asked."""

    def expected(self, escalated: float) -> float:
        """The mean where a share of the requests is escalated."""
        return self.sure + escalated * (self.unsure - self.sure)


def ensemble(
    name: PlanName,
    members: Sequence[Member],
    merging: Merging,
    nodes: Sequence[NodeRef],
    *,
    transport: str = "grpc",
    credits: int = 64,
) -> Plan:
    """Members that answer the same request, and the combiner that merges them.

    Its answer has the tensors of the first member, and beside them on the last edge the
    reports of `report_specs`; agreement and confidence only where there are classes to
    agree on.  Where a quorum is enough, the input goes to the combiner's node first and
    from there to the members, so that the request lives whichever member is lost, and a
    member that has no finite numbers says so, so that it is not counted as one of them.
    Raises `PlanError`.
    """
    if len(members) < 2:
        raise PlanError(f"members: {len(members)}; an ensemble has 2 at least")
    called = [member.called(f"member-{i}", members[0]) for i, member in enumerate(members)]
    inputs, outputs = members[0].inputs, members[0].outputs
    given = tuple(spec.name for spec in inputs)
    made = tuple(spec.name for spec in outputs)
    fires: Fires = FireAll()
    stages: list[StageSpec] = []
    edges: list[Edge] = []
    source, guard = REQUESTER, None
    if merging.quorum is not None:
        fires = FireQuorum(k=merging.quorum, wait_ms=merging.wait_ms)
        source = INPUT
        guard = Guard(tensor=made[0], measure="finite", when="at_least", threshold=1.0)
        stages.append(
            StageSpec(id=INPUT, nodes=merging.nodes, inputs=inputs, outputs=inputs, combine="first")
        )
        edges.append(Edge(source=REQUESTER, target=INPUT, tensors=given, transport=transport))
    for member in called:
        stages += member.stages
        edges += _edges(source, member, transport)
        edges.append(
            Edge(source=member.stages[-1].id, target=ANSWER, tensors=made, transport=transport, guard=guard)
        )
    reports = _reports(len(members), outputs)
    stages.append(
        StageSpec(
            id=ANSWER,
            nodes=merging.nodes,
            inputs=outputs,
            outputs=(*outputs, *reports),
            combine=merging.combine,
            weights=merging.weights,
            quarantine=merging.quarantine,
            fires=fires,
        )
    )
    told = tuple(spec.name for spec in reports)
    edges.append(Edge(source=ANSWER, target=REQUESTER, tensors=(*made, *told), transport=transport))
    return _plan(name, called, inputs, outputs, stages, edges, nodes, credits)


def cascade(
    name: PlanName,
    small: Member,
    large: Member,
    doubt: Doubt,
    at: Sequence[NodeName],
    nodes: Sequence[NodeRef],
    *,
    transport: str = "grpc",
    credits: int = 64,
) -> Plan:
    """A small model that answers when it is sure, and hands the input on to a large one when it is not.

    ``at`` is where the two ways meet.  The report ``members`` rides with the answer: which
    of the two gave it.  Raises `PlanError`.
    """
    first, second = small.called(SMALL, small), large.called(LARGE, small)
    inputs, outputs = small.inputs, small.outputs
    if not outputs[0].shape or outputs[0].shape[-1] < 2:
        raise PlanError(
            f"{SMALL}: output {outputs[0].name!r} {list(outputs[0].shape)} has no classes along its last "
            "axis; a cascade needs a classifier"
        )
    if doubt.measure == "entropy" and not outputs[0].dtype.startswith("float"):
        raise PlanError(
            f"{SMALL}: output {outputs[0].name!r} is {outputs[0].dtype}; entropy needs probabilities as "
            "floats, so use --measure max or margin"
        )
    made = tuple(spec.name for spec in outputs)
    unsure, sure = doubt.guards(made[0])
    # The input travels along the small chain, for its last stage may have to hand it on.
    carried = tuple(tuple(dict.fromkeys((*b, *(s.name for s in inputs)))) for b in first.boundaries)
    first = Member(first.model, first.stages, carried, inputs, outputs)
    reports = tuple(spec for spec in _reports(2, outputs) if spec.name == "members")
    merge = StageSpec(
        id=ANSWER,
        nodes=tuple(at),
        inputs=outputs,
        outputs=(*outputs, *reports),
        combine="first",
        fires=FireAny(),
    )
    last = first.stages[-1].id
    edges = [
        *_edges(REQUESTER, first, transport),
        *_edges(last, second, transport, unsure),
        Edge(source=last, target=ANSWER, tensors=made, transport=transport, guard=sure),
        Edge(source=second.stages[-1].id, target=ANSWER, tensors=made, transport=transport),
        Edge(
            source=ANSWER,
            target=REQUESTER,
            tensors=(*made, *(s.name for s in reports)),
            transport=transport,
        ),
    ]
    stages = [*first.stages, *second.stages, merge]
    return _plan(name, (first, second), inputs, outputs, stages, edges, nodes, credits)


def traffic(plan: Plan) -> Traffic:
    """What a cascade moves between different places, by which of its models answers."""
    placed: Mapping[StageId, tuple[NodeName, ...]] = {stage.id: stage.nodes for stage in plan.stages}
    models = {stage.id: stage.model for stage in plan.stages if stage.combine is None}
    sure = unsure = 0
    for at, specs in flow(plan).items():
        edge = plan.edges[at]
        ends = placed.get(edge.source), placed.get(edge.target)
        if ends[0] == ends[1] and len(ends[0] or ()) == 1:
            continue
        size = sum(spec.nbytes for spec in specs.values())
        if LARGE in (models.get(edge.source), models.get(edge.target)):
            unsure += size
        elif edge.guard is not None:
            sure += size
        else:
            sure += size
            unsure += size
    return Traffic(sure, unsure)


def _plan(
    name: PlanName,
    members: Sequence[Member],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    stages: Sequence[StageSpec],
    edges: Sequence[Edge],
    nodes: Sequence[NodeRef],
    credits: int,
) -> Plan:
    used = {node for stage in stages for node in stage.nodes}
    return validate(
        Plan(
            name=name,
            models=tuple(member.model for member in members),
            inputs=inputs,
            outputs=outputs,
            stages=tuple(stages),
            edges=tuple(edges),
            nodes=tuple(node for node in nodes if node.name in used),
            credits=credits,
        )
    )


def _edges(source: StageId, member: Member, transport: str, guard: Guard | None = None) -> list[Edge]:
    """Edges from a source into and along a member's chain."""
    ids = [source, *(stage.id for stage in member.stages)]
    tensors = [tuple(spec.name for spec in member.inputs), *member.boundaries]
    return [
        Edge(source=a, target=b, tensors=t, transport=transport, guard=None if i else guard)
        for i, ((a, b), t) in enumerate(zip(pairwise(ids), tensors, strict=True))
    ]


def _reports(members: int, outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The reports that a plan can have: none by a name that is an output's already."""
    classes = bool(outputs[0].shape) and outputs[0].shape[-1] >= 2
    taken = {spec.name for spec in outputs}
    specs = report_specs(members).values()
    return tuple(s for s in specs if s.name not in taken and (classes or s.name == "members"))


def _rename(specs: Sequence[TensorSpec], names: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(names.get(s.name, s.name), s.shape, s.dtype) for s in specs)


Ends = tuple[Sequence[TensorSpec], Sequence[TensorSpec]]
"""A model's inputs and outputs."""


def matched(who: str, own: Ends, like: Ends) -> dict[str, str]:
    """From the names of a model's inputs and outputs to those of another model.

    By name where all names are the same, else by position.  Raises `PlanError` where the
    two differ in number, shapes or dtypes; ``who`` says whose they are.
    """
    names: dict[str, str] = {}
    for what, have, want in zip(("input", "output"), own, like, strict=True):
        if len(have) != len(want):
            raise PlanError(
                f"{who}: has {len(have)} {what}s, the first model {len(want)}; models that answer together "
                "need the same"
            )
        if {spec.name for spec in have} == {spec.name for spec in want}:
            want = [next(s for s in want if s.name == spec.name) for spec in have]
        for spec, other in zip(have, want, strict=True):
            if (spec.shape, spec.dtype) != (other.shape, other.dtype):
                raise PlanError(
                    f"{who}: {what} {spec.name!r} is {spec.dtype}{list(spec.shape)}, the first model's "
                    f"{other.name!r} {other.dtype}{list(other.shape)}; models that answer together need "
                    "equal ones, so convert one"
                )
            names[spec.name] = other.name
    return names


def _aliases(names: Mapping[str, str], member: Member) -> dict[str, str]:
    """Names for all of a member's tensors: those of its ends, and others for what is called as an end."""
    inside = {s.name for stage in member.stages for s in (*stage.inputs, *stage.outputs)}
    inside |= {name for boundary in member.boundaries for name in boundary}
    ends = set(names.values())
    taken, found = inside | ends, dict(names)
    for name in sorted((inside - names.keys()) & ends):
        found[name] = next(f"{name}~{k}" for k in range(len(taken) + 1) if f"{name}~{k}" not in taken)
        taken.add(found[name])
    return found
