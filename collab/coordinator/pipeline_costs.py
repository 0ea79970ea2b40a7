"""What a pipeline's stages and links cost: files timed on the nodes, transforms here and scaled."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import numpy as np

from collab.client.control import Control
from collab.codec.pb import control_pb2 as pb
from collab.codec.tensors import Array
from collab.coordinator.cluster import Cluster, NodeView
from collab.coordinator.pipelines import Fitted
from collab.coordinator.planning import median_ms
from collab.coordinator.profiled_links import LinkMeter
from collab.coordinator.profiling import HERE
from collab.core.ids import Digest, NodeName, StageId
from collab.core.plan import StageSpec
from collab.core.tensor import TensorSpec
from collab.core.transforms import MAX_ROWS
from collab.errors import CollabError
from collab.planner.placing import Costs
from collab.runtime.base import Backend
from collab.runtime.sample import zero_inputs
from collab.runtime.transforms.stage import TransformStage

Progress = Callable[[int, int], None]
Warn = Callable[[str], None]
Files = Mapping[tuple[Digest, int], float]
"""Time in ms of one run of a file, by its digest and threads."""

BASIS: Final = "a quick look at the devices and links; transforms timed here and scaled"
_RUNS: Final = 12
_BUDGET_MS: Final = 60.0
_STAGE_MS: Final = 0.1
"""What every stage costs beside its run: queue, decoding and encoding."""


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
    meter = LinkMeter(cluster, views, HERE, transports=(transport,), rounds=4, share=1.0)
    pairs = meter.pairs()
    total = len(pairs) + len(views)
    links: dict[tuple[NodeName, NodeName], tuple[float, float]] = {}
    for done, pair in enumerate(pairs):
        progress(done, total)
        try:
            for entry in await meter.measure(pair, ""):
                links[entry.source, entry.target] = entry.latency_ms, entry.mbit_s
        except CollabError as error:
            warn(f"no link {pair.source} – {pair.peer.name} by {pair.kind}: {error}")
    files: dict[NodeName, Files] = {}
    for done, view in enumerate(views):
        progress(len(pairs) + done, total)
        files[view.name] = await _times_there(cluster.control(view.name), fitted)
    here = await asyncio.to_thread(_files_here, fitted, backend)
    transforms = await asyncio.to_thread(_transforms_here, fitted)
    memory = {view.name: view.description.memory_bytes for view in views if view.description.memory_bytes}
    return assembled(fitted, files, here, transforms, links, memory, rows)


def assembled(
    fitted: Fitted,
    files: Mapping[NodeName, Files],
    here: Files,
    transforms: Mapping[StageId, float],
    links: Mapping[tuple[NodeName, NodeName], tuple[float, float]],
    memory: Mapping[NodeName, int],
    rows: int = MAX_ROWS,
) -> Costs:
    """From what was measured to what the planner takes.

    Args:
        fitted: the pipeline.
        files: times of its files on each node.
        here: the same on this machine.
        transforms: times in ms on this machine; a node takes as many times longer as for files.
        links: latency in ms and rate in Mbit/s.
        memory: bytes of each node.
        rows: that models are expected to run for, of those that there are.
    """
    ms: dict[StageId, Mapping[NodeName, float]] = {}
    for stage in fitted.stages:
        if stage.transform is not None:
            ms[stage.id] = {
                name: _STAGE_MS + transforms[stage.id] * _slower(known, here) for name, known in files.items()
            }
        else:
            runs = min(rows, stage.outputs[0].shape[0]) if stage.each else 1
            ms[stage.id] = {name: _STAGE_MS + runs * known[_key(stage)] for name, known in files.items()}
    return Costs(ms, links, memory, {stage.id: stage.bytes for stage in fitted.stages})


def _key(stage: StageSpec) -> tuple[Digest, int]:
    assert stage.sha256 is not None
    return stage.sha256, stage.threads


def _slower(there: Files, here: Files) -> float:
    """How many times longer a node takes than this machine, by the files; 1 where there is none."""
    ratios = [there[key] / ms for key, ms in here.items() if ms > 0]
    return statistics.median(ratios) if ratios else 1.0


async def _times_there(control: Control, fitted: Fitted) -> Files:
    """Send a node the files that it lacks, have them timed, and take them from it again."""
    missing = await control.missing(list(fitted.blobs))
    try:
        for digest, held in missing.items():
            await control.put_blob(digest, fitted.blobs[digest], held)
        found = {}
        for key in _files(fitted):
            digest, threads = key
            request = pb.ProfileRequest(
                sha256=digest, runs=_RUNS, threads=threads, budget_ms=_BUDGET_MS, share=1.0
            )
            found[key] = statistics.median((await control.profile(request)).run_ms)
        return found
    finally:
        with suppress(CollabError):  # who has gone away evicts them in time
            await control.drop_blobs(list(missing))


def _files(fitted: Fitted) -> list[tuple[Digest, int]]:
    return list(dict.fromkeys(_key(stage) for stage in fitted.stages if stage.sha256 is not None))


def _files_here(fitted: Fitted, backend: Backend) -> Files:
    found = {}
    for digest, threads in _files(fitted):
        loaded = backend.load(fitted.blobs[digest], threads)
        try:
            found[digest, threads] = median_ms(loaded.run, zero_inputs(loaded), _RUNS)
        finally:
            loaded.close()
    return found


def _transforms_here(fitted: Fitted) -> dict[StageId, float]:
    return {
        stage.id: median_ms(TransformStage(stage).run, [_busy(spec) for spec in stage.inputs], _RUNS)
        for stage in fitted.stages
        if stage.transform is not None
    }


def _busy(spec: TensorSpec) -> Array:
    """Numbers that give a transform its work: scores and boxes of all kinds, and a full count."""
    if math.prod(spec.shape) == 1:
        return np.full(spec.shape, 100).astype(spec.dtype)
    return np.random.default_rng(0).random(spec.shape).astype(spec.dtype)
