"""Many requests, and a node that dies among them.

10,000 requests at concurrency 16 over three node processes, every answer compared with
the whole model's, the memory of every process watched; then a node is killed under load
and started again from its store.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, run
from collab.assembly import build_cluster
from collab.assets import path as asset
from collab.cli.connect import reach
from collab.client.runner import PlanClient
from collab.coordinator import planning
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy
from collab.coordinator.local import LocalNode, LocalNodes
from collab.coordinator.workload import Comparison, load
from collab.core.ids import Digest, PlanName
from collab.core.plan import Plan
from collab.errors import CollabError, NodeLost
from collab.graph import read_model
from collab.runtime.litert import LiteRT

CONCURRENCY = 16
WARM_UP = 1_000
VICTIM = "b"
Request = Mapping[str, Any]


def digits() -> tuple[list[Request], list[Request]]:
    """The held-out digits and the whole model's answers to them."""
    with np.load(asset("digits_heldout.npz")) as file:
        images = file["images"][:, None].astype(np.float32) / np.float32(255)
    whole = LiteRT().load(asset("digits.tflite"), 1)
    answers: list[Request] = [{"probabilities": whole.run([image])[0]} for image in images]
    requests: list[Request] = [{"image": image} for image in images]
    return requests, answers


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


async def deployed(cluster: Cluster, local: LocalNodes) -> tuple[Plan, dict[Digest, bytes]]:
    """The demo model in three stages, one a node."""
    views = await reach(cluster, local.endpoints)
    model = asset("digits.tflite")
    graph = read_model(model)
    at = planning.choose_cuts(graph, planning.time_operators(graph, LiteRT()), len(views))
    assignment = planning.default_assignment(len(views), views)
    plan, blobs = planning.build_chain(
        PlanName("soak"), model, graph, at, assignment, [view.ref for view in views]
    )
    await deploy(cluster, plan, blobs)
    return plan, blobs


async def endurance(
    client: PlanClient, local: LocalNodes, requests: list[Request], expected: list[Request], count: int
) -> list[Figure]:
    """No failure, no difference, flat memory."""
    exact = Comparison(exact=True, atol=0.0, rtol=0.0)
    pids = {"client": os.getpid()} | {name: node.pid for name, node in local.nodes.items()}
    options: dict[str, Any] = {"concurrency": CONCURRENCY, "expected": expected, "comparison": exact}
    warm, _ = await load(client, requests, repeat=WARM_UP // len(requests), **options)
    before = {name: resident_mb(pid) for name, pid in pids.items()}
    report, _ = await load(client, requests, repeat=(count - WARM_UP) // len(requests), **options)
    after = {name: resident_mb(pid) for name, pid in pids.items()}
    how = f"{warm.requests + report.requests} requests at concurrency {CONCURRENCY} over 3 nodes"
    figures = [
        Figure("requests failed", warm.failed + report.failed, "", "<= 0", None, how),
        Figure(
            "answers that differ from the whole model's", warm.wrong + report.wrong, "", "<= 0", None, how
        ),
        Figure("answers a second", report.throughput_rps, "1/s", "", None, how),
    ]
    for name in pids:
        growth = 100 * (after[name] / before[name] - 1)
        what = f"{before[name]:.1f} MB after {WARM_UP}, {after[name]:.1f} MB at the end"
        figures.append(Figure(f"memory growth of {name}", growth, "%", "<= 5", None, what))
    return figures


async def death(
    cluster: Cluster,
    client: PlanClient,
    plan: Plan,
    blobs: Mapping[Digest, bytes],
    victim: LocalNode,
    requests: Sequence[Request],
    seconds: float,
) -> list[Figure]:
    """How fast requests fail whose node is killed, and that a restarted node serves from its store."""
    killed_at = 0.0
    slowest_s, named, other, answered = 0.0, 0, 0, 0
    end = time.perf_counter() + seconds

    async def worker(number: int) -> None:
        nonlocal slowest_s, named, other, answered
        while time.perf_counter() < end:
            start = time.perf_counter()
            try:
                await client.run(requests[number % len(requests)], 10.0)
                answered += 1
            except CollabError as error:
                if start < killed_at:
                    slowest_s = max(slowest_s, time.perf_counter() - killed_at)
                    says = (
                        isinstance(error, NodeLost)
                        and f"'{VICTIM}'" in str(error)
                        and "stage-1" in str(error)
                    )
                    named, other = named + says, other + (not says)
                await asyncio.sleep(0.05)

    async def killer() -> None:
        nonlocal killed_at
        await asyncio.sleep(seconds / 3)
        killed_at = time.perf_counter()
        await victim.stop(kill=True)

    await asyncio.gather(killer(), *(worker(i) for i in range(8)))
    await victim.start()
    start = time.perf_counter()
    while True:
        try:
            await client.run(requests[0], 10.0)
            break
        except CollabError:
            await asyncio.sleep(0.02)
    back_s = time.perf_counter() - start
    again = await deploy(cluster, plan, blobs)
    sent = sum(again.sent_bytes.values())
    how = f"8 at a time, SIGKILL of one of three; {answered} answered, {named} held ones failed and name it"
    return [
        Figure("last request held by a killed node fails after", slowest_s, "s", "<= 1.0", None, how),
        Figure("held requests whose error does not name node and stage", other, "", "<= 0", None, how),
        Figure("restarted node answers after its start by", back_s, "s", "", None, "the same client"),
        Figure(
            "bytes sent to the restarted node",
            sent,
            "B",
            "<= 0",
            None,
            "deploy again",
        ),
    ]


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    requests, expected = digits()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="collab-bench-")))
        local = await stack.enter_async_context(LocalNodes(("a", VICTIM, "c"), folder))
        cluster = await stack.enter_async_context(build_cluster())
        plan, blobs = await deployed(cluster, local)
        client = await cluster.open(plan, CONCURRENCY)
        figures = await endurance(client, local, requests, expected, 3_000 if options.quick else 10_000)
        victim = local.nodes[VICTIM]
        figures += await death(cluster, client, plan, blobs, victim, requests, 6.0)
    return figures


if __name__ == "__main__":
    run(measure, __doc__)
