"""From a model file and a cluster to a placed plan and the bytes of its stages."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from collab.codec.pb import control_pb2 as pb
from collab.codec.tensors import Array
from collab.coordinator.cluster import Cluster, NodeView
from collab.core.codecs import parse_codec
from collab.core.ids import Digest, NodeName, PlanName, StageId
from collab.core.plan import ModelRef, NodeRef, Plan, StageSpec, Tolerance
from collab.core.profile import LinkProfile
from collab.errors import CollabError, ModelError, PlanError, UsageError
from collab.graph import Graph, StageModel, cuts, read_model, split, with_shapes
from collab.link.links import is_kind
from collab.planner.chain import Assignment, chain
from collab.planner.cost import ChainCosts, Prediction
from collab.planner.even import even_cuts
from collab.runtime.base import Backend
from collab.runtime.litert import LiteRT
from collab.runtime.sample import zero_inputs

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

_PROBE_BYTES = 1 << 20
_RUNS = 5


@dataclass(frozen=True)
class Planned:
    """A plan with what is predicted of it, and of the alternatives."""

    plan: Plan
    predicted: Prediction
    best_single: tuple[NodeName, Prediction]
    runners_up: tuple[tuple[str, Prediction], ...]
    basis: str
    """What the prediction rests on."""

    def to_json(self) -> dict[str, Any]:
        """As ``collab plan --json`` prints it."""
        return {
            "name": self.plan.name,
            "stages": [{"ops": list(s.ops or ()), "nodes": list(s.nodes)} for s in self.plan.stages],
            "links": [
                {"source": e.source, "target": e.target, "transport": e.transport, "codec": e.codec}
                for e in self.plan.edges
            ],
            "codec_error": self.plan.codec_error,
            "predicted": _times(self.predicted),
            "best_single": {"node": self.best_single[0], **_times(self.best_single[1])},
            "runners_up": [{"what": what, **_times(times)} for what, times in self.runners_up],
            "basis": self.basis,
        }


def _times(prediction: Prediction) -> dict[str, float]:
    return {
        "latency_ms": round(prediction.latency_ms, 3),
        "bottleneck_ms": round(prediction.bottleneck_ms, 3),
    }


def stage_specs(models: Sequence[StageModel], assignment: Assignment, threads: int) -> list[StageSpec]:
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
            threads=threads,
        )
        for i, (model, nodes) in enumerate(zip(models, assignment.stages, strict=True))
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
    threads: int = 1,
    codecs: Sequence[str] = (),
    transports: Sequence[str] = (),
    credits: int = 64,
    return_by_chain: bool = False,
    codec_error: float | None = None,
) -> tuple[Plan, dict[Digest, bytes]]:
    """Split a model and place its stages; returns the plan and the stages' bytes by digest."""
    models = split(graph, at)
    plan = chain(
        name,
        ModelRef(sha256=Digest(graph.sha256), ops=graph.op_count, path=str(path), signature=signature),
        stage_specs(models, assignment, threads),
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


def lossy_tolerance(codecs: Sequence[str], codec_error: float | None) -> Tolerance:
    """The default, or what is sensible where codecs lose digits: the error allowed, for each lossy link."""
    default = Tolerance()
    allowed = (codec_error or 0.0) * sum(not parse_codec(name).exact for name in codecs)
    return Tolerance(atol=max(default.atol, allowed), rtol=max(default.rtol, allowed))


def parse_codecs(text: str, links: int, codec_error: float | None) -> list[str]:
    """Codecs of the links in full spelling; raises `UsageError`."""
    listed = []
    for entry in per_link(text, links, "--codecs"):
        try:
            name = parse_codec(entry)
        except PlanError as error:
            raise UsageError(f"--codecs: {error}") from None
        if not name.exact and codec_error is None:
            raise UsageError(
                f"--codecs: {entry!r} loses digits; say with --codec-error how much of a tensor's range "
                f"it may add, such as 0.01, or use {name.without_loss}"
            )
        listed.append(str(name))
    return listed


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


def open_model(path: Path, signature: str | None = None) -> Graph:
    """Read a model, make sure that the runtime here knows its operators, and take over real shapes.

    Raises `ModelError`.
    """
    graph = read_model(path, signature=signature)
    return with_shapes(graph, LiteRT().tensor_shapes(path, graph.main))


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
        if model.path is None:
            raise ModelError(f"models[{i}].path: the plan does not say where the model is; add the path")
        graph = open_model(folder / model.path, model.signature)
        if graph.sha256 != model.sha256:
            raise ModelError(
                f"models[{i}]: {model.path} has another digest than the plan; make the plan anew"
            )
        starts = sorted(s.ops[0] for s in plan.stages if s.model == model.id and s.ops is not None)
        for stage in split(graph, starts[1:]):
            blobs[Digest(stage.sha256)] = stage.data
    return blobs


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
            op_ms += [_time(loaded.run, inputs) / (model.stop - model.start)] * (model.stop - model.start)
        finally:
            loaded.close()
        if progress:
            progress(done + 1, len(stages))
    return op_ms


def _time(run: Callable[[Any], Any], inputs: Any) -> float:
    import time

    run(inputs)
    samples = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        run(inputs)
        samples.append((time.perf_counter() - start) * 1000)
    return statistics.median(samples)


async def probe_links(cluster: Cluster, names: Sequence[NodeName]) -> dict[NodeName, LinkProfile]:
    """Delay and rate from here to each node, measured one after another."""
    links: dict[NodeName, LinkProfile] = {}
    for name in names:
        control = cluster.control(name)
        request = pb.ProbeRequest(body=bytes(_PROBE_BYTES))
        loop = asyncio.get_running_loop()
        start = loop.time()
        await control.call("Probe", pb.ProbeRequest())
        empty_s = loop.time() - start
        start = loop.time()
        await control.call("Probe", request)
        full_s = max(loop.time() - start - empty_s, 1e-6)
        links[name] = LinkProfile(control.link.rtt_us / 2000, 8 * _PROBE_BYTES / full_s / 1e6)
    return links


def choose_cuts(graph: Graph, op_ms: Sequence[float], stages: int) -> tuple[int, ...]:
    """Cuts for that many stages of times as even as can be."""
    return even_cuts(op_ms, allowed_cuts(graph), stages)


def predict(
    graph: Graph, plan: Plan, op_ms: Sequence[float], links: Mapping[NodeName, LinkProfile], basis: str
) -> Planned:
    """What a chain and its alternatives cost if all devices are as fast as this one.

    The delay between two nodes is taken for that of the slower link from here.
    """
    names = [ref.name for ref in plan.nodes]
    here = NodeName("@here")
    pairs = {(here, n): links[n] for n in names} | {(n, here): links[n] for n in names}
    pairs |= {
        (a, b): LinkProfile(
            max(links[a].latency_ms, links[b].latency_ms), min(links[a].mbit_s, links[b].mbit_s)
        )
        for a in names
        for b in names
        if a != b
    }
    costs = ChainCosts(
        op_ms={name: op_ms for name in names},
        cut_bytes=allowed_cuts(graph),
        links=pairs,
        input_bytes=sum(t.nbytes for t in graph.inputs),
        output_bytes=sum(t.nbytes for t in graph.outputs),
        requester=here,
    )
    whole = [(0, graph.op_count)]
    singles = {name: costs.predict(whole, [[name]]) for name in names}
    best = min(singles, key=lambda name: singles[name].latency_ms)
    ranges = [stage.ops for stage in plan.stages if stage.ops is not None]
    others: list[tuple[str, Prediction]] = [(f"whole model on {name}", singles[name]) for name in names]
    for count in range(2, len(names) + 1):
        try:
            at = choose_cuts(graph, op_ms, count)
        except CollabError:
            break
        bounds = list(pairwise((0, *at, graph.op_count)))
        if bounds != ranges:
            label = f"{count} even stages, cut at {', '.join(map(str, at))}"
            others.append((label, costs.predict(bounds, [[n] for n in names[:count]])))
    others.sort(key=lambda entry: entry[1].latency_ms)
    predicted = costs.predict(ranges, [stage.nodes for stage in plan.stages])
    return Planned(plan, predicted, (best, singles[best]), tuple(others[:5]), basis)


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
