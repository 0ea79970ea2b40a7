"""From a model file and a cluster to a placed plan and the bytes of its stages."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from collab.codec.tensors import Array
from collab.coordinator.cluster import NodeView
from collab.core.codecs import parse_codec
from collab.core.ids import Digest, NodeName, PlanName, StageId
from collab.core.plan import ModelRef, NodeRef, Plan, StageSpec, Tolerance
from collab.errors import ModelError, UsageError
from collab.graph import Graph, StageModel, cuts, parse_model, read_model, split, with_shapes
from collab.link.links import is_kind
from collab.planner.chain import Assignment, chain
from collab.planner.chains import Chain
from collab.planner.even import even_cuts
from collab.runtime.base import Backend
from collab.runtime.litert import LiteRT
from collab.runtime.sample import zero_inputs
from collab.updates.bundle.read import is_bundle, open_bundle

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

_RUNS = 5


def stage_specs(
    models: Sequence[StageModel], assignment: Assignment, threads: Sequence[int]
) -> list[StageSpec]:
    """Placed stages of a split."""
    return [
        StageSpec(
            id=StageId(f"stage-{i}"),
            nodes=nodes,
            inputs=model.inputs,
            outputs=model.outputs,
            ops=(model.start, model.stop),
            sha256=Digest(model.sha256),
            bytes=len(model.data),
            threads=count,
        )
        for i, (model, nodes, count) in enumerate(zip(models, assignment.stages, threads, strict=True))
    ]


def build_chain(
    name: PlanName,
    path: Path,
    graph: Graph,
    at: Sequence[int],
    assignment: Assignment,
    nodes: Sequence[NodeRef],
    *,
    signature: str | None = None,
    threads: int | Sequence[int] = 1,
    codecs: Sequence[str] = (),
    transports: Sequence[str] = (),
    credits: int = 64,
    return_by_chain: bool = False,
    codec_error: float | None = None,
) -> tuple[Plan, dict[Digest, bytes]]:
    """Split a model and place its stages; returns the plan and the stages' bytes by digest.

    ``threads`` are those of every stage, or of each.
    """
    models = split(graph, at)
    counts = [threads] * len(models) if isinstance(threads, int) else threads
    plan = chain(
        name,
        ModelRef(sha256=Digest(graph.sha256), ops=graph.op_count, path=str(path), signature=signature),
        stage_specs(models, assignment, counts),
        [[t.name for t in model.boundary_in] for model in models[1:]],
        graph.inputs,
        graph.outputs,
        nodes,
        codecs=codecs,
        transports=transports,
        credits=credits,
        return_by_chain=return_by_chain,
        tolerance=lossy_tolerance(codecs, codec_error),
        codec_error=codec_error,
    )
    return plan, {Digest(model.sha256): model.data for model in models}


def build_solved(
    name: PlanName,
    path: Path,
    graph: Graph,
    solved: Chain,
    nodes: Sequence[NodeRef],
    threads: Mapping[NodeName, int],
    *,
    signature: str | None = None,
    credits: int = 64,
    return_by_chain: bool = False,
    codec_error: float | None = None,
) -> tuple[Plan, dict[Digest, bytes]]:
    """As `build_chain`, of a chain as the planner gives it.

    ``threads`` are those of devices, for stages for which the planner chose none; 1 where they
    are not listed.
    """
    return build_chain(
        name,
        path,
        graph,
        solved.cuts,
        Assignment(tuple(stage.nodes for stage in solved.stages)),
        nodes,
        signature=signature,
        threads=[stage.threads or threads.get(stage.nodes[0], 1) for stage in solved.stages],
        codecs=[move.codec for move in solved.moves],
        transports=[move.transport for move in solved.moves],
        credits=credits,
        return_by_chain=return_by_chain,
        codec_error=codec_error,
    )


def lossy_tolerance(codecs: Sequence[str], codec_error: float | None) -> Tolerance:
    """The default, or what is sensible where codecs lose digits: the error allowed, for each lossy link."""
    default = Tolerance()
    allowed = (codec_error or 0.0) * sum(not parse_codec(name).exact for name in codecs)
    return Tolerance(atol=max(default.atol, allowed), rtol=max(default.rtol, allowed))


def per_link(text: str, links: int, option: str) -> list[str]:
    """One entry a link from ``a,b,c``, or the only one for all; raises `UsageError`."""
    entries = [entry.strip() for entry in text.split(",")]
    if len(entries) not in (1, links):
        raise UsageError(
            f"{option} {text!r}: {len(entries)} entries for {links} links; give one for each, or one for all"
        )
    return entries * links if len(entries) == 1 else entries


def check_transports(plan: Plan, known: Sequence[str]) -> None:
    """Make sure that one end of every edge can be dialled by the edge's transport; raises `UsageError`."""
    endpoints = plan.endpoints()
    placed = {stage.id: stage.nodes for stage in plan.stages}
    for edge in plan.edges:
        kind = edge.transport
        if kind not in known:
            raise UsageError(f"--transport: {kind!r} is not known; use one of {', '.join(known)}")
        for source in placed.get(edge.source, (None,)):
            for target in placed.get(edge.target, (None,)):
                ends = [name for name in (source, target) if name is not None]
                if kind != "grpc" and not any(is_kind(at, kind) for name in ends for at in endpoints[name]):
                    scheme = kind.partition("-qos")[0]
                    raise UsageError(
                        f"--transport {kind}: no address of that kind at {' or '.join(map(repr, ends))}; "
                        f"start the node with --listen {scheme}://HOST:PORT as well"
                    )


def read_graph(path: Path, signature: str | None = None) -> Graph:
    """Read a model from a ``.tflite``, or from a bundle that has one; raises `ModelError`."""
    if not is_bundle(path):
        return read_model(path, signature=signature)
    data = open_bundle(path).model()
    try:
        return parse_model(data, signature=signature)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def open_model(path: Path, signature: str | None = None) -> Graph:
    """Read a model, make sure that the runtime here knows its operators, and take over real shapes.

    Raises `ModelError`.
    """
    graph = read_graph(path, signature)
    source = bytes(graph.data) if is_bundle(path) else path
    return with_shapes(graph, LiteRT().tensor_shapes(source, graph.main))


def whole_model(graph: Graph, threads: int = 1) -> Callable[[Sequence[Array]], list[Array]]:
    """The unsplit model on this machine, from arrays to arrays in the graph's order."""
    if not graph.main:
        return LiteRT().load(bytes(graph.data), threads).run
    assert graph.signature is not None
    stage = LiteRT().load_signature(bytes(graph.data), graph.signature, threads)

    def run(arrays: Sequence[Array]) -> list[Array]:
        given = {spec.name: array for spec, array in zip(graph.inputs, arrays, strict=True)}
        outputs = stage.run([given[spec.name] for spec in stage.inputs])
        made = {spec.name: array for spec, array in zip(stage.outputs, outputs, strict=True)}
        return [made[spec.name] for spec in graph.outputs]

    return run


def stage_blobs(plan: Plan, folder: Path) -> dict[Digest, bytes]:
    """Bytes of a plan's stages, made anew from its model file.

    Relative model paths are looked up from ``folder``.  Raises `ModelError` if the file
    is not the one that the plan was made from.
    """
    blobs: dict[Digest, bytes] = {}
    for i, model in enumerate(plan.models):
        if model.path is not None and model.reference is not None:
            blobs |= reference_blob(folder / model.path)
        if model.path is None:
            raise ModelError(f"models[{i}].path: the plan does not say where the model is; add the path")
        graph = open_model(folder / model.path, model.signature)
        if graph.sha256 != model.sha256:
            raise ModelError(
                f"models[{i}]: {model.path} has another digest than the plan; make the plan anew"
            )
        for one in plan.family:
            starts = sorted(s.ops[0] for s in one.stages if s.model == model.id and s.ops is not None)
            for stage in split(graph, starts[1:]):
                blobs[Digest(stage.sha256)] = stage.data
    return blobs


def reference_blob(path: Path) -> dict[Digest, bytes]:
    """What a bundle says of the data that its model was made with, by digest; empty where it says nothing."""
    found = open_bundle(path).reference() if is_bundle(path) else None
    return {} if found is None else {Digest(hashlib.sha256(found).hexdigest()): found}


def referring(plan: Plan, reference: Digest | None) -> Plan:
    """A plan of one model, and its alternatives, that name what that was made with."""
    (model,) = plan.models
    return plan.replace(
        models=(msgspec.structs.replace(model, reference=reference),),
        alternatives=tuple(referring(one, reference) for one in plan.alternatives),
    )


def allowed_cuts(graph: Graph) -> dict[int, int]:
    """Cuts that can be made, with the bytes that travel over each."""
    return {cut.at: cut.bytes for cut in cuts(graph) if cut.refused is None and cut.bytes is not None}


def time_operators(
    graph: Graph, backend: Backend, threads: int = 1, progress: Progress | None = None
) -> list[float]:
    """Time in ms of every operator on this machine: each run between allowed cuts is a stage of its own.

    Operators that cannot be cut apart share their run's time evenly.
    """
    places = [0, *allowed_cuts(graph), graph.op_count]
    op_ms: list[float] = []
    stages = split(graph, places[1:-1])
    for done, model in enumerate(stages):
        loaded = backend.load(model.data, threads)
        try:
            inputs = zero_inputs(loaded)
            op_ms += [median_ms(loaded.run, inputs) / (model.stop - model.start)] * (model.stop - model.start)
        finally:
            loaded.close()
        if progress:
            progress(done + 1, len(stages))
    return op_ms


def median_ms(run: Callable[[Any], Any], inputs: Any, runs: int = _RUNS) -> float:
    """Median time of a run, in milliseconds, after one that is not counted."""
    import time

    run(inputs)
    samples = []
    for _ in range(runs):
        start = time.perf_counter()
        run(inputs)
        samples.append((time.perf_counter() - start) * 1000)
    return statistics.median(samples)


def choose_cuts(graph: Graph, op_ms: Sequence[float], stages: int) -> tuple[int, ...]:
    """Cuts for that many stages of times as even as can be."""
    return even_cuts(op_ms, allowed_cuts(graph), stages)


def default_assignment(stages: int, views: Sequence[NodeView]) -> Assignment:
    """One stage a node, in the order of the peers; raises `UsageError` for too few."""
    if stages > len(views):
        raise UsageError(
            f"{stages} stages but {len(views)} peers; give --assign to place several on one node"
        )
    return Assignment(tuple((view.name,) for view in views[:stages]))


def plan_name(model: Path) -> str:
    """A plan's name from its model's file name."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in model.stem)[:63].strip("-")
    return kept or "model"


def parse_cuts(text: str) -> tuple[int, ...]:
    """Read ``12,40``; raises `UsageError`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--at {text!r}: give operator numbers such as 12,40") from None
