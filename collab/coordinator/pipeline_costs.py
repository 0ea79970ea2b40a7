"""What a pipeline's stages and links cost: models measured on the nodes, transforms here and scaled."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from collab.codec.tensors import Array
from collab.coordinator.cluster import Cluster, NodeView
from collab.coordinator.pipelines import Fitted
from collab.coordinator.planning import whole_model
from collab.coordinator.profiled_links import LinkMeter
from collab.coordinator.profiling import HERE, QUICK, Profiling
from collab.core.ids import NodeName, StageId
from collab.core.plan import StageSpec
from collab.core.profile import Profile
from collab.core.tensor import TensorSpec
from collab.core.transforms import MAX_ROWS
from collab.errors import CollabError
from collab.graph import Graph
from collab.planner.evaluate import Evaluator
from collab.planner.placing import Costs
from collab.runtime.base import Backend
from collab.runtime.transforms.stage import TransformStage

Progress = Callable[[int, int], None]
Warn = Callable[[str], None]

BASIS = "a quick look at the devices and links; transforms timed here and scaled"
_RUNS = 5
_STAGE_MS = 0.1
"""Of a stage that was not measured on its node: queue, decoding and encoding."""


async def measured(
    cluster: Cluster,
    views: Sequence[NodeView],
    fitted: Fitted,
    backend: Backend,
    *,
    transport: str = "grpc",
    rows: int = MAX_ROWS,
    progress: Progress = lambda done, total: None,
    warn: Warn = lambda text: None,
) -> Costs:
    """Look at the nodes and the links between them, one after another.

    ``rows`` are as many as models are expected to run for, where they run for each.

    Raises `PeerUnreachable` or `LinkLost` for a node that goes away, and what it reports.
    """
    profiles: dict[str, Profile] = {}
    for model in fitted.models:
        if model.sha256 not in profiles:
            graph = fitted.graphs[model.id]
            look = Profiling(
                cluster,
                views,
                graph,
                # Links are measured once for all models; without them the requester must be a node.
                replace(QUICK, links=False, requester=views[0].name),
                now=lambda: datetime.now(timezone.utc),
                backend=backend,
                progress=progress,
                warn=warn,
            )
            profiles[model.sha256] = await look.run(Path(model.path or "model"))
    links: dict[tuple[NodeName, NodeName], tuple[float, float]] = {}
    meter = LinkMeter(cluster, views, HERE, transports=(transport,), rounds=4, share=1.0)
    for pair in meter.pairs():
        try:
            for entry in await meter.measure(pair, ""):
                links[entry.source, entry.target] = entry.latency_ms, entry.mbit_s
        except CollabError as error:
            warn(f"no link {pair.source} – {pair.peer.name} by {pair.kind}: {error}")
    here = await asyncio.to_thread(_times_here, fitted)
    return assembled(fitted, {m.id: profiles[m.sha256] for m in fitted.models}, links, here, views, rows)


def assembled(
    fitted: Fitted,
    profiles: Mapping[str, Profile],
    links: Mapping[tuple[NodeName, NodeName], tuple[float, float]],
    here: Mapping[str, float],
    views: Sequence[NodeView],
    rows: int = MAX_ROWS,
) -> Costs:
    """From what was measured to what the planner takes.

    Args:
        fitted: the pipeline.
        profiles: of its models, by their names in the plan.
        links: latency in ms and rate in Mbit/s.
        here: times in ms on this machine, of transforms by stage, and of whole models by name.
        views: the nodes.
        rows: that models are expected to run for, of those that there are.
    """
    names = [view.name for view in views]
    evaluators = {name: Evaluator(profile) for name, profile in profiles.items()}
    speeds = {name: _speed(name, evaluators, here) for name in names}
    ms: dict[StageId, Mapping[NodeName, float]] = {}
    for stage in fitted.stages:
        if stage.transform is not None:
            ms[stage.id] = {name: _STAGE_MS + here[stage.id] * speeds[name] for name in names}
        else:
            ms[stage.id] = {name: _model_ms(evaluators[stage.model], stage, name, rows) for name in names}
    memory = {view.name: view.description.memory_bytes for view in views if view.description.memory_bytes}
    return Costs(ms, links, memory, {stage.id: stage.bytes for stage in fitted.stages})


def _model_ms(evaluator: Evaluator, stage: StageSpec, node: NodeName, rows: int) -> float:
    assert stage.ops is not None
    once = evaluator.stage_ms(evaluator.devices[node], *stage.ops)
    return once * (min(rows, stage.outputs[0].shape[0]) if stage.each else 1)


def _speed(node: NodeName, evaluators: Mapping[str, Evaluator], here: Mapping[str, float]) -> float:
    """How many times longer a node takes than this machine, by the models; 1 where there is none."""
    ratios = [
        evaluator.stage_ms(evaluator.devices[node], 0, evaluator.op_count) / here[name]
        for name, evaluator in evaluators.items()
        if here.get(name)
    ]
    return statistics.median(ratios) if ratios else 1.0


def _times_here(fitted: Fitted) -> dict[str, float]:
    found: dict[str, float] = {}
    for stage in fitted.stages:
        if stage.transform is not None:
            found[stage.id] = _median_ms(TransformStage(stage).run, [_busy(spec) for spec in stage.inputs])
    for name, graph in fitted.graphs.items():
        found[name] = _whole_ms(graph)
    return found


def _busy(spec: TensorSpec) -> Array:
    """Numbers that give a transform its work: scores and boxes of all kinds, and a full count."""
    if math.prod(spec.shape) == 1:
        return np.full(spec.shape, 100).astype(spec.dtype)
    return np.random.default_rng(0).random(spec.shape).astype(spec.dtype)


def _whole_ms(graph: Graph) -> float:
    return _median_ms(whole_model(graph), [np.zeros(spec.shape, spec.dtype) for spec in graph.inputs])


def _median_ms(run: Callable[[Any], Any], given: Sequence[Any]) -> float:
    run(given)
    samples = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        run(given)
        samples.append((time.perf_counter() - start) * 1000)
    return statistics.median(samples)
