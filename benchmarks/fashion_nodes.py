"""The same ensembles and cascades through real node processes: equal answers, and latencies."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import fashion
from benchmarks.fashion_plans import NODES, cascading, combining, merged
from benchmarks.figures import Figure
from collab.client.runner import PlanClient
from collab.codec.tensors import Array
from collab.coordinator.ensembles import Examples
from collab.coordinator.planning import stage_blobs
from collab.core.ids import NodeName
from collab.core.plan import NodeRef, Plan, Quarantine
from collab.planner.ensemble import Doubt
from collab.runtime.guards import passes
from tests.integration.deployments import deployed_plan
from tests.integration.processes import NodeProcess, running

IMAGES: Final = 400
WAIT_MS: Final = 5.0
PAUSE_S: Final = 0.15
BETWEEN_S: Final = 1.5
"""A member, drawn at random, stands still for `PAUSE_S` about this often."""
EVERY_S: Final = 0.1
"""A request to each plan, whether or not the one before is answered."""
CREDITS: Final = 1024
"""Enough for requests that come at fixed times, however long a busy machine takes."""
DEADLINE_S: Final = 60.0


async def on_nodes(
    given: Examples, scores: Mapping[str, Array], rule: Quarantine, doubt: Doubt, quick: bool
) -> list[Figure]:
    """Equal answers of an ensemble with a wrong member and of a cascade; then quorum beside all."""
    images = [request["image"] for request in given.requests[: 150 if quick else IMAGES]]
    with (
        tempfile.TemporaryDirectory() as folder,
        running([NodeProcess(name, Path(folder)) for name in NODES]) as nodes,
    ):
        refs = [NodeRef(name=NodeName(n.name), endpoints=(n.endpoint,)) for n in nodes]
        return [
            await _ensemble(images, scores, rule, refs),
            await _cascade(images, scores, doubt, refs),
            *await _quorum(images, nodes, refs, 20.0 if quick else 120.0),
        ]


async def _ask(plan: Plan, images: Sequence[Array]) -> list[Mapping[str, Array]]:
    """One image after another: a quarantine depends on the order."""
    async with deployed_plan(plan, stage_blobs(plan, Path())) as (_, client):
        return [(await client.run({"image": image}, DEADLINE_S)).outputs for image in images]


async def _ensemble(
    images: Sequence[Array], scores: Mapping[str, Array], rule: Quarantine, refs: Sequence[NodeRef]
) -> Figure:
    names = (*fashion.MEMBERS[1:], fashion.WRONG)
    plan = combining(names, "median", quarantine=rule, nodes=refs)
    want, states = merged(plan, [scores[name][: len(images)] for name in names])
    got = await _ask(plan, images)
    other = sum(
        one["probabilities"].tobytes() != answer.tobytes() or one["members"].tolist() != state.tolist()
        for one, answer, state in zip(got, want, states, strict=True)
    )
    how = f"{len(images)} images through 4 nodes, median, the wrong member left out of {(states == -2).sum()}"
    return Figure("ensemble on nodes: answers that differ", other, "", "<= 0", None, how)


async def _cascade(
    images: Sequence[Array], scores: Mapping[str, Array], doubt: Doubt, refs: Sequence[NodeRef]
) -> Figure:
    plan = cascading(doubt, refs)
    small, large = (scores[name][: len(images)] for name in (fashion.SMALL, fashion.LARGE))
    _, sure = doubt.guards("probabilities")
    kept = [passes(sure, answer) for answer in small]
    got = await _ask(plan, images)
    other = sum(
        one["probabilities"].tobytes() != (first if keep else second).tobytes()
        or one["members"].tolist() != [int(keep), int(not keep)]
        for one, first, second, keep in zip(got, small, large, kept, strict=True)
    )
    how = f"{len(images)} images through 2 nodes, {sum(kept)} answered by the small model"
    return Figure("cascade on nodes: answers that differ", other, "", "<= 0", None, how)


async def _quorum(
    images: Sequence[Array], nodes: Sequence[NodeProcess], refs: Sequence[NodeRef], seconds: float
) -> list[Figure]:
    """Both plans on the same nodes at once, a request to each at fixed times."""
    options: dict[str, Any] = {"nodes": refs, "credits": CREDITS}
    every = combining(fashion.MEMBERS, "mean", plan="all", **options)
    quorum = combining(fashion.MEMBERS, "mean", quorum=2, wait_ms=WAIT_MS, plan="quorum", **options)
    async with (
        deployed_plan(every, stage_blobs(every, Path()), CREDITS) as (_, all_client),
        deployed_plan(quorum, stage_blobs(quorum, Path()), CREDITS) as (_, quorum_client),
    ):
        clients = (all_client, quorum_client)
        for client in clients:
            await asyncio.gather(*(client.run({"image": image}, DEADLINE_S) for image in images[:20]))
        pausing = asyncio.ensure_future(_pause(nodes[: len(fashion.MEMBERS)]))
        try:
            times = await asyncio.gather(*(_stream(client, images, seconds) for client in clients))
        finally:
            pausing.cancel()
            with suppress(asyncio.CancelledError):
                await pausing
    slow, fast = (np.percentile(taken, (50, 95, 99)).tolist() for taken in times)
    how = (
        f"p50, p95, p99 {_listed(fast)} ms beside {_listed(slow)} of waiting for all; "
        f"{len(times[0])} requests to each at once, one every {EVERY_S * 1000:.0f} ms, while about every "
        f"{BETWEEN_S} s one of 3 members stands still for {PAUSE_S * 1000:.0f} ms"
    )
    return [
        Figure(f"quorum of 2 of 3, {name} by that of all", fast[i] / slow[i], "x", target, slow[i], how)
        for i, name, target in ((1, "p95", ""), (2, "p99", "<= 0.99"))
    ]


def _listed(times: Sequence[float]) -> str:
    return ", ".join(f"{ms:.1f}" for ms in times)


async def _stream(client: PlanClient, images: Sequence[Array], seconds: float) -> list[float]:
    """Milliseconds from when each request was due to its answer."""

    async def one(due: float, image: Array) -> float:
        await client.run({"image": image}, DEADLINE_S)
        return (time.monotonic() - due) * 1000

    start, asked = time.monotonic(), []
    for i in range(int(seconds / EVERY_S)):
        due = start + i * EVERY_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        asked.append(asyncio.ensure_future(one(due, images[i % len(images)])))
    return list(await asyncio.gather(*asked))


async def _pause(nodes: Sequence[NodeProcess]) -> None:
    random = np.random.default_rng(24)
    while True:
        await asyncio.sleep(float(random.exponential(BETWEEN_S - PAUSE_S)))
        node = nodes[int(random.integers(len(nodes)))]
        node.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(PAUSE_S)
        finally:
            node.send(signal.SIGCONT)
