"""What distributing costs: a chain of nodes beside the same work in one process.

(a) the whole model in one process, (b) its stages back to back in one process, (c) the
chain over gRPC with 1, 2 and 3 nodes, (d) a bare grpc.aio echo stream with the same
bytes; all in turn in one run.  The cost of one message is (c - b) / (nodes + 1).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.echo import EchoClient
from benchmarks.figures import Figure, run
from benchmarks.models import convolutions, relay
from collab.assembly import build_cluster
from collab.assets import path as asset
from collab.cli.connect import reach
from collab.client.runner import PlanClient
from collab.coordinator import planning
from collab.coordinator.cluster import Cluster, NodeView
from collab.coordinator.deploy import deploy, undeploy
from collab.coordinator.local import LocalNode, LocalNodes
from collab.core.ids import PlanName
from collab.core.plan import Plan
from collab.graph import Graph, parse_model, split
from collab.node.memory import keep_large_buffers
from collab.runtime.litert import LiteRT

NODES = ("a", "b", "c")
SIZES = {"4 kB": 1_000, "64 kB": 16_000, "256 kB": 64_000, "1 MB": 250_000, "5 MB": 1_250_000}
"""Message sizes, in float32 elements."""
PIPELINE_MS = 60
"""Least time of the pipelined model on one thread."""
IN_FLIGHT = 6


def back_to_back(graph: Graph, cuts: Sequence[int]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The stages of a split one after another in this process."""
    stages = [LiteRT().load(stage.data, 1) for stage in split(graph, cuts)]

    def call(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors = dict(tensors)
        for stage in stages:
            outputs = stage.run([tensors[spec.name] for spec in stage.inputs])
            tensors.update(zip((spec.name for spec in stage.outputs), outputs, strict=True))
        return tensors

    return call


@dataclass
class Chains:
    """One model over 1, 2 and 3 nodes, and the same in this process."""

    local: dict[int, Callable[[dict[str, Any]], dict[str, Any]]]
    clients: dict[int, PlanClient]
    times_ms: dict[str, list[float]] = field(default_factory=dict)

    async def step(self, inputs: dict[str, Any], echo: EchoClient, message: bytes) -> None:
        """Measure everything once."""
        for count, client in self.clients.items():
            self._time(f"b{count}", time.perf_counter(), self.local[count](inputs))
            start = time.perf_counter()
            await client.run(inputs)
            self._time(f"c{count}", start)
            start = time.perf_counter()
            await echo.round_trip(message)
            self._time("d", start)

    def _time(self, name: str, start: float, _: object = None) -> None:
        self.times_ms.setdefault(name, []).append((time.perf_counter() - start) * 1000)

    def median(self, name: str) -> float:
        """Median in ms, the first tenth left out."""
        values = self.times_ms[name]
        return statistics.median(values[len(values) // 10 :])


async def deploy_chain(
    cluster: Cluster, views: Sequence[NodeView], name: str, data: bytes, graph: Graph, cuts: Sequence[int]
) -> tuple[Plan, PlanClient]:
    """Deploy a chain with one stage a node and open it."""
    assignment = planning.default_assignment(len(cuts) + 1, views)
    plan, blobs = planning.build_chain(
        PlanName(name), Path("built"), graph, cuts, assignment, [view.ref for view in views]
    )
    await deploy(cluster, plan, blobs)
    return plan, await cluster.open(plan, 8)


async def chains(
    cluster: Cluster, views: Sequence[NodeView], data: bytes, cuts: Callable[[int], Sequence[int]]
) -> tuple[Chains, list[Plan]]:
    """A model as chains of 1, 2 and 3 nodes."""
    graph = parse_model(data)
    clients, plans = {}, []
    for count in range(1, len(NODES) + 1):
        plan, clients[count] = await deploy_chain(cluster, views, f"chain-{count}", data, graph, cuts(count))
        plans.append(plan)
    return Chains({count: back_to_back(graph, cuts(count)) for count in clients}, clients), plans


async def close(cluster: Cluster, subject: Chains, plans: Sequence[Plan]) -> None:
    """Take chains down."""
    for client in subject.clients.values():
        await cluster.release(client)
    for plan in plans:
        await undeploy(cluster, plan)


async def messages(
    cluster: Cluster, views: Sequence[NodeView], echo: EchoClient, repeats: int
) -> list[Figure]:
    """The cost of one message, by size and number of nodes."""
    figures = []
    for label, elements in SIZES.items():
        subject, plans = await chains(cluster, views, relay(elements, len(NODES)), lambda n: range(1, n))
        inputs = {"x": np.random.default_rng(0).normal(size=(1, elements)).astype(np.float32)}
        message = inputs["x"].tobytes()
        for _ in range(max(20, repeats // (1 + elements // 100_000))):
            await subject.step(inputs, echo, message)
        trip = subject.median("d")
        for count in subject.clients:
            cost = (subject.median(f"c{count}") - subject.median(f"b{count}")) / (count + 1)
            figures.append(
                Figure(
                    f"message of {label}, {count} node{'s' if count > 1 else ''}, by the bare round trip",
                    cost / trip,
                    "times",
                    "<= 1.0",
                    trip,
                    f"(c - b) / {count + 1} = {cost:.3f} ms beside a bare grpc.aio echo of as many bytes",
                )
            )
        await close(cluster, subject, plans)
    return figures


async def real_model(
    cluster: Cluster, views: Sequence[NodeView], echo: EchoClient, repeats: int
) -> list[Figure]:
    """Latency of the demo model: whole, back to back, and over nodes."""
    data = asset("digits.tflite").read_bytes()
    graph = parse_model(data)
    op_ms = planning.time_operators(graph, LiteRT())
    subject, plans = await chains(cluster, views, data, lambda n: planning.choose_cuts(graph, op_ms, n))
    whole = LiteRT().load(data, 1)
    with np.load(asset("digits_heldout.npz")) as held_out:
        image = held_out["images"][:1].astype(np.float32) / np.float32(255)
    inputs = {graph.inputs[0].name: image}
    for _ in range(repeats):
        start = time.perf_counter()
        whole.run([image])
        subject._time("a", start)
        await subject.step(inputs, echo, image.tobytes())
    reference = subject.median("a")
    figures = [
        Figure("digits, whole model in one process", reference, "ms", "", None, "median of one request")
    ]
    for count in subject.clients:
        for name, what in ((f"b{count}", "stages back to back"), (f"c{count}", "stages on as many nodes")):
            label = f"digits, {count} {what}"
            figures.append(Figure(label, subject.median(name), "ms", "", reference, f"({name[0]})"))
    await close(cluster, subject, plans)
    return figures


async def pipeline(cluster: Cluster, views: Sequence[NodeView], seconds: float, rounds: int) -> list[Figure]:
    """Throughput of two balanced nodes with one thread each beside the whole model on one thread."""
    layers = 8
    data = convolutions(layers)
    while (whole_ms := _whole_ms(data)) < PIPELINE_MS:
        layers += 8
        data = convolutions(layers)
    graph = parse_model(data)
    whole = LiteRT().load(data, 1)
    plan, client = await deploy_chain(cluster, views[:2], "pipeline", data, graph, [graph.op_count // 2])
    spec = graph.inputs[0]
    x = np.random.default_rng(1).normal(size=spec.shape).astype(np.float32)
    singles, pairs = [], []
    for _ in range(rounds):
        singles.append(_rate(lambda: whole.run([x]), seconds))
        pairs.append(await _pipelined_rate(client, {spec.name: x}, seconds))
    await cluster.release(client)
    await undeploy(cluster, plan)
    ratios = [pair / single for pair, single in zip(pairs, singles, strict=True)]
    how = f"{layers} equal convolutions, {whole_ms:.1f} ms whole; median of {rounds} rounds of {seconds:g} s"
    return [
        Figure(
            "two-node pipeline, answers a second by the whole model's",
            statistics.median(ratios),
            "times",
            ">= 1.7",
            statistics.median(singles),
            how,
        )
    ]


def _whole_ms(data: bytes) -> float:
    stage = LiteRT().load(data, 1)
    x = [np.zeros(spec.shape, np.float32) for spec in stage.inputs]
    return 1000 / _rate(lambda: stage.run(x), 0.3)


def _rate(call: Callable[[], object], seconds: float) -> float:
    call()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call()
        count += 1
    return count / (time.perf_counter() - start)


async def _pipelined_rate(client: PlanClient, inputs: dict[str, Any], seconds: float) -> float:
    start, count = time.perf_counter(), 0

    async def worker() -> None:
        nonlocal count
        while time.perf_counter() - start < seconds:
            await client.run(inputs)
            count += 1

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return count / (time.perf_counter() - start)


async def start_up(repeats: int) -> list[Figure]:
    """Time until a node serves, and what it holds in memory when idle."""
    ready_s, resident_mb = [], []
    with tempfile.TemporaryDirectory(prefix="collab-bench-") as folder:
        for i in range(repeats):
            node = LocalNode(f"n{i}", Path(folder))
            start = time.perf_counter()
            await node.start()
            ready_s.append(time.perf_counter() - start)
            async with build_cluster() as cluster:
                names = await cluster.reach([node.endpoint])
                resident_mb.append((await cluster.control(names[0]).status()).resident_bytes / 1e6)
            await node.stop()
    how = f"median of {repeats} starts of a node process"
    return [
        Figure("node ready after", statistics.median(ready_s), "s", "<= 1.0", None, how),
        Figure("idle node's resident memory", statistics.median(resident_mb), "MB", "<= 80", None, how),
    ]


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    keep_large_buffers()
    repeats = 60 if options.quick else 400
    figures = await start_up(3 if options.quick else 7)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="collab-bench-")))
        local = await stack.enter_async_context(LocalNodes(NODES, folder))
        cluster = await stack.enter_async_context(build_cluster())
        echo = await stack.enter_async_context(EchoClient())
        views = await reach(cluster, local.endpoints)
        figures += await messages(cluster, views, echo, repeats)
        figures += await real_model(cluster, views, echo, repeats)
        figures += await pipeline(cluster, views, 1.5 if options.quick else 4.0, 3 if options.quick else 7)
    return figures


if __name__ == "__main__":
    run(measure, __doc__)
