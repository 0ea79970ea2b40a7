"""A plan: stages placed on nodes, joined by edges that carry tensors.

Plans are frozen, travel as JSON and are kept by people as YAML; the JSON Schema
beside this package is generated from these classes.  A chain, a skip, a branch,
an ensemble and a cascade are all the same thing: stages, edges, firing rules and
guards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, Union

import msgspec

from collab.core.decoding import prepare
from collab.core.frozen import Frozen as Frozen
from collab.core.ids import REQUESTER, Digest, EdgeId, NodeName, PlanName, StageId
from collab.core.streams import StreamSpec
from collab.core.tensor import TensorSpec
from collab.core.transforms import Transform

PLAN_VERSION = 1


class FireAll(Frozen, frozen=True, tag="all", tag_field="rule", kw_only=True):
    """A stage fires when every in-edge carries a value."""


class FireAny(Frozen, frozen=True, tag="any", tag_field="rule", kw_only=True):
    """A stage fires on the first value."""


class FireQuorum(Frozen, frozen=True, tag="quorum", tag_field="rule", kw_only=True):
    """A stage fires with ``k`` values at least, ``wait_ms`` after the first at most.

    It fires as soon as every edge is settled; when ``wait_ms`` has passed since the
    first value it fires as soon as ``k`` values are in.
    """

    k: int
    wait_ms: float = 0.0


Fires = Union[FireAll, FireAny, FireQuorum]


class Guard(Frozen, frozen=True, kw_only=True):
    """Carry a value over an edge only if a measure of a tensor passes a threshold.

    ``measure`` is taken over the last axis of the first row of ``tensor``:
    ``max`` (largest element), ``margin`` (largest less second largest) or
    ``entropy`` (natural logarithm, of the elements as probabilities).  ``finite`` is
    the share of the whole tensor's elements that are finite.
    """

    tensor: str
    measure: Literal["max", "margin", "entropy", "finite"]
    when: Literal["below", "at_least"]
    threshold: float


class StatePair(Frozen, frozen=True, kw_only=True):
    """An output that is the same stage's input at the conversation's next step."""

    output: str
    input: str


class FileName(Frozen, frozen=True, kw_only=True):
    """What a stage's own file calls a tensor that has another name in the plan."""

    tensor: str
    file: str


class Quarantine(Frozen, frozen=True, kw_only=True):
    """A combiner leaves a member out that disagrees with the majority more often than it used to."""

    least: tuple[int, ...]
    """Of each in-edge, in the plan's order: in how many of the last ``window`` requests it has to agree."""
    window: int = 50


MIN_JUDGED = 3
"""Members among whom agreement can tell who is wrong: two that differ are both as likely."""


def most_out(members: int) -> int:
    """How many of an ensemble's members may be in quarantine at a time: always fewer than half."""
    return (members - 1) // 2


class StageSpec(Frozen, frozen=True, kw_only=True):
    """Operators ``[start, stop)`` of a model, a combiner or a transform, on one node or replicas."""

    id: StageId
    nodes: tuple[NodeName, ...]
    inputs: tuple[TensorSpec, ...]
    """What the stage reads, in interpreter order; with ``each`` a count of the rows may follow."""
    outputs: tuple[TensorSpec, ...]
    """What the stage makes, in interpreter order."""
    model: str = "model"
    ops: tuple[int, int] | None = None
    sha256: Digest | None = None
    """Digest of the stage's ``.tflite``; None for combiners and transforms."""
    bytes: int = 0
    combine: str | None = None
    """Name of the combiner that this stage is, instead of operators."""
    weights: tuple[float, ...] = ()
    """How much each in-edge of a combiner counts, in the plan's order of edges; empty is all the same."""
    quarantine: Quarantine | None = None
    """Whom a combiner leaves out for a while; None is nobody."""
    file_names: tuple[FileName, ...] = ()
    """Tensors that the stage's file calls otherwise, where members of an ensemble have names of their own."""
    transform: Transform | None = None
    """What this stage is, instead of operators, if it is built in."""
    each: bool = False
    """Whether the file is run once for every row of the leading axis of what the stage reads; rows past
    the count are not run, and are zeros in what it makes."""
    fires: Fires = FireAll()
    threads: int = 1
    backend: str = "litert"
    state: tuple[StatePair, ...] = ()

    def in_file(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Specs of the stage's tensors by the names in its file."""
        names = {entry.tensor: entry.file for entry in self.file_names}
        return tuple(TensorSpec(names.get(s.name, s.name), s.shape, s.dtype) for s in specs)


def report_specs(members: int) -> dict[str, TensorSpec]:
    """What a combiner over so many in-edges can tell beside its answer, by tensor name.

    ``members``: 1 for each that took part, 0 for one that did not come, -1 for one that
    gave numbers that are not finite, -2 for one in quarantine.  ``agreement``: the share of
    the answer's rows in which a member's largest score is the answer's.  ``confidence``: the
    probability that members give the answer's class, in the mean.
    """
    specs = (
        TensorSpec("members", (members,), "int32"),
        TensorSpec("agreement", (members,), "float32"),
        TensorSpec("confidence", (), "float32"),
    )
    return {spec.name: spec for spec in specs}


class Edge(Frozen, frozen=True, kw_only=True):
    """Tensors that go from one stage to another, or from and to the requester."""

    source: StageId
    target: StageId
    tensors: tuple[str, ...]
    transport: str = "grpc"
    codec: str = "raw"
    """``raw``, ``fp16``, ``int8`` or ``int8c``, with ``+lz4`` or ``+zstd`` behind it."""
    via: tuple[NodeName, ...] = ()
    """Nodes that hand the tokens of this edge on, where the ends cannot meet."""
    guard: Guard | None = None


class NodeRef(Frozen, frozen=True, kw_only=True):
    """A node's identity and where it was last reached."""

    name: NodeName
    endpoints: tuple[str, ...] = ()


class ReleaseRef(Frozen, frozen=True, kw_only=True):
    """A signed release, as nodes say which one they run."""

    family: str
    version: int
    sha256: Digest
    """Of the release's file."""

    def __str__(self) -> str:
        return f"{self.family}:{self.version}"


class ModelRef(Frozen, frozen=True, kw_only=True):
    """The whole model that stages were taken from."""

    id: str = "model"
    sha256: Digest
    ops: int
    """Operators counted without foldable ones."""
    path: str | None = None
    signature: str | None = None
    origin: Digest | None = None
    """The model that the plan was first made with, where another of the same operators, with other
    weights, has taken its place: who follows the plan goes along."""
    reference: Digest | None = None
    """Blob that says what its inputs and answers are like on the data that it was made with."""
    release: ReleaseRef | None = None
    """The release that it came in; None where it came in none."""

    @property
    def lineage(self) -> Digest:
        """The same for all models that take each other's place."""
        return self.origin or self.sha256


class Tolerance(Frozen, frozen=True, kw_only=True):
    """How far answers may be from the whole model's across runtime classes or lossy codecs."""

    atol: float = 1e-4
    rtol: float = 1e-3


class PredictedStage(Frozen, frozen=True, kw_only=True):
    """What a stage was predicted to take: decoding, computing and encoding on its slowest replica."""

    stage: StageId
    nodes: tuple[NodeName, ...]
    ms: float


class PredictedEdge(Frozen, frozen=True, kw_only=True):
    """What an edge was predicted to take."""

    source: StageId
    target: StageId
    ms: float
    """Until the tensors are there."""
    occupied_ms: float
    """Of it, how long they keep the link from carrying others."""


class Predicted(Frozen, frozen=True, kw_only=True):
    """What a plan was predicted to cost when it was made."""

    latency_ms: float
    """Of one request alone."""
    bottleneck_ms: float
    """Of the busiest node or link for each request: a pipeline gives one answer in this time."""
    stages: tuple[PredictedStage, ...] = ()
    edges: tuple[PredictedEdge, ...] = ()
    profile: str = ""
    """Digest of the profile that it rests on; empty where there was none."""
    basis: str = ""
    """What it rests on, for people."""


class Plan(Frozen, frozen=True, kw_only=True):
    """A dataflow graph of stages with the placement of each."""

    name: PlanName
    models: tuple[ModelRef, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    stages: tuple[StageSpec, ...]
    edges: tuple[Edge, ...]
    nodes: tuple[NodeRef, ...]
    version: int = PLAN_VERSION
    credits: int = 64
    """Requests admitted at a time, over all requesters; joins have room for that many."""
    tolerance: Tolerance = Tolerance()
    codec_error: float | None = None
    """Largest error that a lossy codec may add to a tensor, as a share of the tensor's largest less its
    least element; lossy codecs are refused without it."""
    local: bool = True
    """Whether a requester that has the whole model may compute it itself when no node can."""
    alternatives: tuple[Plan, ...] = ()
    """Plans for the same model that are deployed with this one, for when its nodes are lost; the
    first whose nodes are there is used."""
    primary: PlanName | None = None
    """Of an alternative: the plan that it stands in for."""
    without: tuple[NodeName, ...] = ()
    """Of an alternative: nodes of the primary whose loss it is for; it uses none of them."""
    offline: bool = False
    """Of an alternative: one node alone answers, also when that has lost all others; it reports later."""
    streams: tuple[StreamSpec, ...] = ()
    """Sources of nodes that ask the plan by themselves, and where the answers go."""
    predicted: Predicted | None = None
    """Kept in files for comparing; it changes nothing that is deployed and does not travel."""

    @property
    def release(self) -> str:
        """The releases that its models came in, as ``FAMILY:VERSION``; empty where there are none."""
        return ", ".join(str(model.release) for model in self.models if model.release is not None)

    @property
    def family(self) -> tuple[Plan, ...]:
        """What is deployed together: the plan and its alternatives."""
        return (self, *self.alternatives)

    @property
    def placed(self) -> tuple[NodeName, ...]:
        """The nodes that run stages, each once, in plan order."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.nodes))

    @property
    def built_in(self) -> tuple[tuple[Transform, tuple[TensorSpec, ...], tuple[TensorSpec, ...]], ...]:
        """Its transforms with what they read and make: with the models what a pipeline computes."""
        return tuple((s.transform, s.inputs, s.outputs) for s in self.stages if s.transform is not None)

    def stage(self, stage_id: StageId) -> StageSpec:
        """The stage with this id; KeyError if there is none."""
        return self.stages[self.stage_index(stage_id)]

    def stage_index(self, stage_id: StageId) -> int:
        """Position of a stage, which is also its place in a route."""
        for index, stage in enumerate(self.stages):
            if stage.id == stage_id:
                return index
        raise KeyError(stage_id)

    def edges_into(self, stage_id: StageId) -> tuple[EdgeId, ...]:
        """Ids of the edges that end at a stage (or at the requester)."""
        return tuple(EdgeId(i) for i, e in enumerate(self.edges) if e.target == stage_id)

    def edges_from(self, stage_id: StageId) -> tuple[EdgeId, ...]:
        """Ids of the edges that start at a stage (or at the requester)."""
        return tuple(EdgeId(i) for i, e in enumerate(self.edges) if e.source == stage_id)

    def member_names(self, stage_id: StageId) -> tuple[str, ...]:
        """What feeds a combiner, in the order of its in-edges: a model's id, else the edge's source."""
        models = {stage.id: stage.model for stage in self.stages if stage.sha256 is not None}
        sources = [self.edges[i].source for i in self.edges_into(stage_id)]
        return tuple(models.get(source, source) for source in sources)

    def stages_on(self, node: NodeName) -> tuple[StageSpec, ...]:
        """Stages that a node holds, in plan order."""
        return tuple(stage for stage in self.stages if node in stage.nodes)

    def neighbours(self, node: NodeName) -> dict[NodeName, set[str]]:
        """Nodes that exchange tokens with a node in some attempt, with the transports between them."""
        found: dict[NodeName, set[str]] = {}
        placed = {stage.id: stage.nodes for stage in self.stages}
        for edge in self.edges:
            way = [placed.get(edge.source, ()), *((name,) for name in edge.via), placed.get(edge.target, ())]
            for one, other in pairwise(way):
                for near, far in ((one, other), (other, one)):
                    for name in far if node in near else ():
                        found.setdefault(name, set()).add(edge.transport)
        found.pop(node, None)
        return found

    def requester_kinds(self) -> dict[NodeName, set[str]]:
        """Nodes that exchange tokens with the requester itself, with the transports between them."""
        found: dict[NodeName, set[str]] = {}
        placed = {stage.id: stage.nodes for stage in self.stages}
        for edge in self.edges:
            if REQUESTER in (edge.source, edge.target):
                near = placed.get(edge.target if edge.source == REQUESTER else edge.source, ())
                for name in edge.via[-1:] if edge.via and edge.target == REQUESTER else near:
                    found.setdefault(name, set()).add(edge.transport)
        return found

    def endpoints(self) -> dict[NodeName, tuple[str, ...]]:
        """Last known endpoints by node."""
        return {ref.name: ref.endpoints for ref in self.nodes}

    def replace(self, **changes: Any) -> Plan:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)

    @property
    def digest(self) -> Digest:
        """SHA-256 of what the plan computes and where: endpoints, local paths and predictions left out."""
        bare = self.replace(
            nodes=tuple(msgspec.structs.replace(n, endpoints=()) for n in self.nodes),
            models=tuple(msgspec.structs.replace(m, path=None) for m in self.models),
            alternatives=(),
        )
        fields = _explicit(bare)
        del fields["predicted"]
        fields["alternatives"] = [alternative.digest for alternative in self.alternatives]
        for name, default in _LATER.items():
            if getattr(self, name) == default:
                del fields[name]
        for model in fields["models"]:
            for name in ("origin", "reference", "release"):
                if model[name] is None:
                    del model[name]
        for stage in fields["stages"]:  # and before stages could have these
            for name in ("weights", "file_names", "quarantine", "transform", "each"):
                if not stage[name]:
                    del stage[name]
        canonical = msgspec.json.encode(fields, order="deterministic")
        return Digest(hashlib.sha256(canonical).hexdigest())


_LATER: dict[str, Any] = {
    "codec_error": None,
    "local": True,
    "alternatives": (),
    "primary": None,
    "without": (),
    "offline": False,
    "streams": (),
}
"""Fields that plans did not always have; with these values a digest is as it was without them."""


def _explicit(value: Any) -> Any:
    """The value with every field written out, so that a default given by hand changes no digest."""
    if isinstance(value, msgspec.Struct):
        fields = {name: _explicit(getattr(value, name)) for name in value.__struct_fields__}
        config = value.__struct_config__
        return fields | ({str(config.tag_field): config.tag} if config.tag else {})
    if isinstance(value, tuple):
        return [_explicit(item) for item in value]
    return value


def to_json(plan: Plan) -> bytes:
    """The plan as it travels: without its prediction, which nodes have no use for."""
    spare = tuple(alternative.replace(predicted=None) for alternative in plan.alternatives)
    return msgspec.json.encode(plan.replace(predicted=None, alternatives=spare), order="deterministic")


def from_json(data: bytes | memoryview) -> Plan:
    """Decode and validate a plan that travelled; raises `PlanError`."""
    from collab.core.validate import decode_plan

    return decode_plan(data)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a plan file."""
    schema = msgspec.json.schema(Plan)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "collab plan", **schema}


prepare(Plan)
