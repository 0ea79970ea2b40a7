"""The rules a plan has to keep, checked before anything is deployed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from collab.core.alternatives import check_alternatives
from collab.core.codecs import parse_codec
from collab.core.ids import REQUESTER, EdgeId, NodeName, StageId, check_digest, check_name
from collab.core.plan import (
    MIN_JUDGED,
    PLAN_VERSION,
    Edge,
    FireAll,
    FireQuorum,
    ModelRef,
    Plan,
    Predicted,
    Quarantine,
    StageSpec,
    most_out,
    to_json,
)
from collab.core.streams import check_streams
from collab.core.tensor import TensorSpec
from collab.core.transform_stages import check_program
from collab.errors import InputError, PlanError, TensorError

MAX_STAGES = 256
MAX_EDGES = 4096
MAX_CREDITS = 4096
MAX_ALTERNATIVES = 64
MAX_WINDOW = 1000
"""Requests over which a quarantine judges."""
MAX_RELEASE_VERSION = 2**53
"""Larger numbers do not survive every reader of JSON."""
MAX_BASIS = 1000
"""Characters of what a prediction rests on."""

_NO_TEXT = "plan: a text in it is not valid Unicode"


def decode_plan(data: bytes | memoryview) -> Plan:
    """Decode JSON bytes to a valid plan; raises `PlanError` naming the field."""
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(_readable(error)) from error
    return validate(plan)


def convert_plan(tree: Any) -> Plan:
    """Build a valid plan from parsed YAML; raises `PlanError` naming the field."""
    try:
        plan = msgspec.convert(tree, type=Plan)
    except (msgspec.ValidationError, RecursionError) as error:
        raise PlanError(_readable(error)) from error
    except UnicodeEncodeError as error:
        raise PlanError(_NO_TEXT) from error
    return validate(plan)


def _readable(error: Exception) -> str:
    text = str(error).splitlines()[0]
    message, _, path = text.partition(" - at `$")
    return f"{path.rstrip('`').lstrip('.') or 'plan'}: {message}"


def validate(plan: Plan) -> Plan:
    """Return the plan, its codecs spelt in full, or raise `PlanError` for the first rule that is broken."""
    if plan.version != PLAN_VERSION:
        raise PlanError(
            f"version: {plan.version} is not {PLAN_VERSION}; make the plan anew with this release"
        )
    try:
        _check_names(plan)
        if plan.streams:
            own = None if plan.primary is not None else {node.name for node in plan.nodes}
            check_streams(plan.streams, plan.inputs, plan.outputs, own)
    except PlanError:
        raise
    except InputError as error:
        raise PlanError(str(error)) from error
    _check_specs("inputs", plan.inputs)
    _check_specs("outputs", plan.outputs)
    _check_limits(plan)
    _check_stages(plan)
    _check_coverage(plan)
    _check_edges(plan)
    flow(plan)
    _check_standing(plan)
    if plan.alternatives:
        plan = plan.replace(alternatives=check_alternatives(plan, validate))
    try:
        if plan.predicted is not None:
            _check_predicted(plan, plan.predicted)
        to_json(plan)
    except UnicodeEncodeError as error:
        raise PlanError(_NO_TEXT) from error
    return _with_codecs(plan)


def _check_standing(plan: Plan) -> None:
    """What an alternative says of itself agrees with where it runs."""
    if plan.primary is None:
        for field in ("without", "offline"):
            if getattr(plan, field):
                raise PlanError(f"{field}: only an alternative has it; leave it out, or name its primary")
        return
    for name in plan.without:
        if name in plan.placed:
            raise PlanError(f"without: {name!r} runs a stage of the plan; place it elsewhere")
    if plan.offline and len(plan.placed) != 1:
        raise PlanError(f"offline: the plan is on {', '.join(plan.placed)}; an offline one is on one node")


def _check_specs(where: str, specs: Sequence[TensorSpec]) -> None:
    seen: set[str] = set()
    for i, spec in enumerate(specs):
        try:
            spec.check()
        except TensorError as error:
            raise PlanError(f"{where}[{i}]: {error}") from error
        if spec.name in seen:
            raise PlanError(f"{where}[{i}]: {spec.name!r} stands there twice; names must differ")
        seen.add(spec.name)


def _check_names(plan: Plan) -> None:
    check_name(plan.name, "name:")
    if plan.primary is not None:
        check_name(plan.primary, "primary:")
    for i, lost in enumerate(plan.without):
        check_name(lost, f"without[{i}]:")
    for i, node in enumerate(plan.nodes):
        check_name(node.name, f"nodes[{i}].name:")
    for i, model in enumerate(plan.models):
        _check_model(f"models[{i}]", model)
    for i, stage in enumerate(plan.stages):
        check_name(stage.id, f"stages[{i}].id:")
        if stage.sha256 is not None:
            check_digest(stage.sha256, f"stages[{i}].sha256:")
    for what, names in (
        ("nodes", [n.name for n in plan.nodes]),
        ("models", [m.id for m in plan.models]),
        ("stages", [s.id for s in plan.stages]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                raise PlanError(f"{what}: {name!r} stands there {count} times; names must differ")


def _check_model(where: str, model: ModelRef) -> None:
    check_name(model.id, f"{where}.id:")
    check_digest(model.sha256, f"{where}.sha256:")
    if model.origin is not None:
        check_digest(model.origin, f"{where}.origin:")
    if model.reference is not None:
        check_digest(model.reference, f"{where}.reference:")
    release = model.release
    if release is None:
        return
    check_name(release.family, f"{where}.release.family:")
    check_digest(release.sha256, f"{where}.release.sha256:")
    if not 1 <= release.version <= MAX_RELEASE_VERSION:
        raise PlanError(
            f"{where}.release.version: {release.version} is not within 1 to {MAX_RELEASE_VERSION}"
        )


def _check_limits(plan: Plan) -> None:
    if not 1 <= len(plan.stages) <= MAX_STAGES:
        raise PlanError(f"stages: {len(plan.stages)} of them; a plan has 1 to {MAX_STAGES}")
    if len(plan.edges) > MAX_EDGES:
        raise PlanError(f"edges: {len(plan.edges)} of them; a plan has at most {MAX_EDGES}")
    if len(plan.alternatives) > MAX_ALTERNATIVES:
        raise PlanError(
            f"alternatives: {len(plan.alternatives)} of them; a plan has at most {MAX_ALTERNATIVES}"
        )
    if not 1 <= plan.credits <= MAX_CREDITS:
        raise PlanError(f"credits: {plan.credits}; give 1 to {MAX_CREDITS}")
    for field in ("atol", "rtol"):
        value = getattr(plan.tolerance, field)
        if not (math.isfinite(value) and value >= 0):
            raise PlanError(f"tolerance.{field}: {value} is not a finite number of at least 0")


def _check_stages(plan: Plan) -> None:
    nodes = {node.name for node in plan.nodes}
    models = {model.id for model in plan.models}
    for i, stage in enumerate(plan.stages):
        where = f"stages[{i}] ({stage.id})"
        _check_places(stage, where, nodes)
        if stage.threads < 1 or stage.threads > 256:
            raise PlanError(f"{where}.threads: {stage.threads}; give 1 to 256")
        if stage.bytes < 0:
            raise PlanError(f"{where}.bytes: {stage.bytes} is negative")
        built_in = stage.combine is not None or stage.transform is not None
        if not built_in and (stage.ops is None or stage.sha256 is None):
            raise PlanError(f"{where}: needs ops and sha256, or combine, or transform")
        if stage.combine is not None and (stage.ops is not None or stage.sha256 is not None):
            raise PlanError(f"{where}: combine stands for operators; leave ops and sha256 out")
        if not built_in and stage.model not in models:
            raise PlanError(f"{where}.model: {stage.model!r} is not listed under models")
        if not stage.outputs:
            raise PlanError(f"{where}.outputs: empty; a stage makes at least one tensor")
        _check_specs(f"{where}.inputs", stage.inputs)
        _check_specs(f"{where}.outputs", stage.outputs)
        if stage.state:
            raise PlanError(f"{where}.state: stages that keep state are not supported yet; leave it out")
        _check_fires(plan, stage, where)
        _check_weights(plan, stage, where)
        if stage.quarantine is not None:
            _check_quarantine(plan, stage, stage.quarantine, f"{where}.quarantine")
        _check_file_names(stage, where)
        check_program(stage, where)


def _check_weights(plan: Plan, stage: StageSpec, where: str) -> None:
    if not stage.weights:
        return
    edges = len(plan.edges_into(stage.id))
    if stage.combine is None:
        raise PlanError(f"{where}.weights: only a combiner weighs; leave them out")
    if len(stage.weights) != edges:
        raise PlanError(f"{where}.weights: {len(stage.weights)} for {edges} in-edges; give one for each")
    for i, weight in enumerate(stage.weights):
        if not (math.isfinite(weight) and weight >= 0):
            raise PlanError(f"{where}.weights[{i}]: {weight} is not a finite number of at least 0")
    total = sum(stage.weights)
    if not (math.isfinite(total) and total > 0):
        raise PlanError(f"{where}.weights: sum up to {total}; some member must count, and none without bound")


def _check_quarantine(plan: Plan, stage: StageSpec, rule: Quarantine, where: str) -> None:
    edges = len(plan.edges_into(stage.id))
    if stage.combine is None or stage.combine == "first":
        raise PlanError(f"{where}: only a combiner that merges can leave members out; leave it out")
    if edges < MIN_JUDGED:
        raise PlanError(f"{where}: {edges} members; agreement tells who is wrong among {MIN_JUDGED} at least")
    if not 1 <= rule.window <= MAX_WINDOW:
        raise PlanError(f"{where}.window: {rule.window}; give 1 to {MAX_WINDOW} requests")
    if len(rule.least) != edges:
        raise PlanError(f"{where}.least: {len(rule.least)} for {edges} in-edges; give one for each")
    for i, least in enumerate(rule.least):
        if not 0 <= least <= rule.window:
            raise PlanError(f"{where}.least[{i}]: {least}; give 0 to {rule.window}, the window")
    # Else only members in quarantine might come, and nobody is left to answer.
    enough = edges if isinstance(stage.fires, FireAll) else getattr(stage.fires, "k", 1)
    if enough <= most_out(edges):
        raise PlanError(
            f"{where}: fires with {enough} of {edges} members, of which {most_out(edges)} may be in "
            f"quarantine; let it wait for {most_out(edges) + 1}"
        )


def _check_file_names(stage: StageSpec, where: str) -> None:
    if stage.file_names and stage.combine is not None:
        raise PlanError(f"{where}.file_names: a combiner has no file; leave them out")
    tensors = {spec.name for spec in (*stage.inputs, *stage.outputs)}
    seen: set[str] = set()
    for i, entry in enumerate(stage.file_names):
        if entry.tensor not in tensors:
            raise PlanError(f"{where}.file_names[{i}].tensor: the stage has no tensor {entry.tensor!r}")
        if entry.tensor in seen:
            raise PlanError(f"{where}.file_names[{i}].tensor: {entry.tensor!r} stands there twice")
        seen.add(entry.tensor)
    for field, specs in (("inputs", stage.inputs), ("outputs", stage.outputs)):
        _check_specs(f"{where}.file_names of {field}", stage.in_file(specs))


def _check_places(stage: StageSpec, where: str, nodes: Container[NodeName]) -> None:
    if not stage.nodes:
        raise PlanError(f"{where}.nodes: empty; place the stage on a node")
    for name in stage.nodes:
        if name not in nodes:
            raise PlanError(f"{where}.nodes: {name!r} is not listed under nodes")
    if len(set(stage.nodes)) != len(stage.nodes):
        raise PlanError(f"{where}.nodes: a node is named twice; replicas must differ")


def _check_fires(plan: Plan, stage: StageSpec, where: str) -> None:
    edges = len(plan.edges_into(stage.id))
    if edges == 0:
        raise PlanError(f"{where}: no edge leads to it")
    if not isinstance(stage.fires, FireAll) and stage.combine is None:
        raise PlanError(f"{where}.fires: only a combiner can fire without all of its inputs")
    if isinstance(stage.fires, FireQuorum):
        if not 1 <= stage.fires.k <= edges:
            raise PlanError(f"{where}.fires.k: {stage.fires.k}; the stage has {edges} in-edges")
        if not (math.isfinite(stage.fires.wait_ms) and stage.fires.wait_ms >= 0):
            raise PlanError(
                f"{where}.fires.wait_ms: {stage.fires.wait_ms} is not a finite time of at least 0 ms"
            )


def _check_coverage(plan: Plan) -> None:
    """Every model's operators ``[0, n)`` are covered without a gap or an overlap."""
    for model in plan.models:
        ranges = sorted((s.ops, s.id) for s in plan.stages if s.model == model.id and s.ops is not None)
        at = 0
        for (start, stop), stage_id in ranges:
            if start >= stop:
                raise PlanError(f"stages ({stage_id}).ops: [{start}, {stop}) is empty or reversed")
            if start > at:
                raise PlanError(f"stages ({stage_id}).ops: gap, operators [{at}, {start}) are in no stage")
            if start < at:
                raise PlanError(
                    f"stages ({stage_id}).ops: overlap, operators [{start}, {at}) are in two stages"
                )
            at = stop
        if at != model.ops:
            what = "gap, operators" if at < model.ops else "past the model's end, operators"
            low, high = sorted((at, model.ops))
            raise PlanError(f"stages.ops: {what} [{low}, {high}) of model {model.id!r}")


def _check_edges(plan: Plan) -> None:
    nodes = {node.name for node in plan.nodes}
    made = {stage.id: {t.name for t in stage.outputs} for stage in plan.stages}
    seen: set[tuple[StageId, StageId]] = set()
    for i, edge in enumerate(plan.edges):
        where = f"edges[{i}]"
        for field, end in (("source", edge.source), ("target", edge.target)):
            if end != REQUESTER and end not in made:
                raise PlanError(f"{where}.{field}: {end!r} is neither a stage nor {REQUESTER!r}")
        if edge.source == edge.target:
            raise PlanError(f"{where}: cycle, it leads from {edge.source!r} to itself")
        if (edge.source, edge.target) in seen:
            raise PlanError(f"{where}: a second edge from {edge.source!r} to {edge.target!r}; merge them")
        seen.add((edge.source, edge.target))
        _check_edge(edge, where, nodes)
        _check_guard(edge, where, made)
    into = sum(edge.target == REQUESTER for edge in plan.edges)
    if into == 0:
        raise PlanError(f"edges: none leads to {REQUESTER!r}; nobody would get the answer")
    if into > 1:
        raise PlanError(f"edges: several lead to {REQUESTER!r}; join them in one stage")


def _check_predicted(plan: Plan, predicted: Predicted) -> None:
    """Times are finite and of parts that the plan has."""
    if predicted.profile:
        try:
            check_digest(predicted.profile, "predicted.profile:")
        except InputError as error:
            raise PlanError(str(error)) from error
    if len(predicted.basis.encode()) > MAX_BASIS:
        raise PlanError(f"predicted.basis: has over {MAX_BASIS} bytes; say it shorter")
    times = {f"predicted.{name}": getattr(predicted, name) for name in ("latency_ms", "bottleneck_ms")}
    placed = {stage.id: stage.nodes for stage in plan.stages}
    for i, part in enumerate(predicted.stages):
        where = f"predicted.stages[{i}]"
        if part.stage not in placed:
            raise PlanError(f"{where}.stage: the plan has no stage {part.stage!r}; make the plan anew")
        for name in part.nodes:
            if name not in placed[part.stage]:
                raise PlanError(f"{where}.nodes: {part.stage!r} is not on {name!r}; make the plan anew")
        times[f"{where}.ms"] = part.ms
    joined = {(edge.source, edge.target) for edge in plan.edges}
    for i, way in enumerate(predicted.edges):
        where = f"predicted.edges[{i}]"
        if (way.source, way.target) not in joined:
            raise PlanError(f"{where}: the plan has no edge {way.source} -> {way.target}; make the plan anew")
        times |= {f"{where}.ms": way.ms, f"{where}.occupied_ms": way.occupied_ms}
    for where, value in times.items():
        if not (math.isfinite(value) and value >= 0):
            raise PlanError(f"{where}: {value} is not a finite time of at least 0 ms")


def _check_edge(edge: Edge, where: str, nodes: Container[NodeName]) -> None:
    for name in edge.via:
        if name not in nodes:
            raise PlanError(f"{where}.via: {name!r} is not listed under nodes")
    if len(set(edge.via)) != len(edge.via):
        raise PlanError(f"{where}.via: cycle, a node is named twice")
    if not edge.tensors:
        raise PlanError(f"{where}.tensors: empty; an edge carries at least one tensor")
    if len(set(edge.tensors)) != len(edge.tensors):
        raise PlanError(f"{where}.tensors: a tensor is named twice")


def _with_codecs(plan: Plan) -> Plan:
    most = plan.codec_error
    if most is not None and not 0 < most <= 1:
        raise PlanError(f"codec_error: {most} is not a share above 0 and at most 1, such as 0.01")
    edges = []
    for i, edge in enumerate(plan.edges):
        try:
            name = parse_codec(edge.codec)
        except PlanError as error:
            raise PlanError(f"edges[{i}].codec: {error}") from error
        if not name.exact and most is None:
            raise PlanError(
                f"edges[{i}].codec: {edge.codec!r} loses digits and the plan allows no error; "
                f"set codec_error, such as 0.01, or use {name.without_loss}"
            )
        edges.append(edge if edge.codec == str(name) else msgspec.structs.replace(edge, codec=str(name)))
    return plan if tuple(edges) == plan.edges else plan.replace(edges=tuple(edges))


def _check_guard(edge: Edge, where: str, made: Mapping[StageId, Container[str]]) -> None:
    if edge.guard is None:
        return
    if edge.source == REQUESTER:
        raise PlanError(f"{where}.guard: {REQUESTER!r} measures nothing; guard an edge that leaves a stage")
    if edge.guard.tensor not in made[edge.source]:
        raise PlanError(f"{where}.guard.tensor: {edge.source!r} makes no tensor {edge.guard.tensor!r}")
    if not math.isfinite(edge.guard.threshold):
        raise PlanError(f"{where}.guard.threshold: {edge.guard.threshold} is not a finite number")


def order(plan: Plan) -> tuple[StageId, ...]:
    """Stage ids in an order in which every stage comes after those it reads from."""
    graph: dict[StageId, set[StageId]] = {stage.id: set() for stage in plan.stages}
    for edge in plan.edges:
        if REQUESTER not in (edge.source, edge.target):
            graph[edge.target].add(edge.source)
    try:
        return tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        loop = " -> ".join(error.args[1])
        raise PlanError(f"edges: cycle {loop}") from error


def flow(plan: Plan) -> dict[EdgeId, dict[str, TensorSpec]]:
    """Specs of the tensors on every edge; raises `PlanError` for one that its source lacks.

    Walks the stages once in order, so the work is linear in the edges.
    """
    has: dict[StageId, dict[str, TensorSpec]] = {REQUESTER: {t.name: t for t in plan.inputs}}
    into: dict[StageId, list[EdgeId]] = {}
    for i, edge in enumerate(plan.edges):
        into.setdefault(edge.target, []).append(EdgeId(i))
    on_edge: dict[EdgeId, dict[str, TensorSpec]] = {}
    for stage_id in (*order(plan), REQUESTER):
        stage = None if stage_id == REQUESTER else plan.stage(stage_id)
        received: dict[str, TensorSpec] = {}
        for edge_id in into.get(stage_id, ()):
            edge = plan.edges[edge_id]
            where = f"edges[{edge_id}] ({edge.source} -> {edge.target}).tensors"
            for name in edge.tensors:
                if name not in has[edge.source]:
                    raise PlanError(f"{where}: {edge.source!r} has no tensor {name!r}")
                if name in received and not (stage and stage.combine):
                    raise PlanError(f"{where}: {name!r} comes over another edge too; only combiners merge")
            on_edge[edge_id] = {name: has[edge.source][name] for name in edge.tensors}
            received.update(on_edge[edge_id])
        _check_received(stage_id, plan.outputs if stage is None else stage.inputs, received)
        if stage is not None:
            has[stage_id] = received | {t.name: t for t in stage.outputs}
    return on_edge


def _check_received(
    stage_id: StageId, wanted: Sequence[TensorSpec], received: Mapping[str, TensorSpec]
) -> None:
    for spec in wanted:
        got = received.get(spec.name)
        if got != spec:
            detail = "does not reach it" if got is None else f"arrives as {got.dtype}{list(got.shape)}"
            raise PlanError(f"{stage_id}: tensor {spec.name!r} {spec.dtype}{list(spec.shape)} {detail}")
