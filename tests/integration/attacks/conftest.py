"""One secured cluster of processes with a plan over two nodes, for everybody to attack."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.client.runner import PlanClient
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy
from collab.core.ids import Epoch
from collab.core.plan import Plan
from collab.core.tensor import TensorSpec
from tests.identities import Identities
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, running
from tests.mosquitto import Mosquitto, mosquitto

WITHIN_S = 20.0
SCHEMES = ("grpc", "coaps+tcp", "coap+udp", "mqtt")
CUT = 12


@dataclass
class Victims:
    """Nodes x and y with a plan from x to y, reached over every transport."""

    nodes: dict[str, NodeProcess]
    identities: Identities
    broker: Mosquitto
    digits: Reference
    plan: Plan
    specs: dict[str, tuple[TensorSpec, ...]]
    """Tensors of the plan's edges, by the edge's source."""
    epoch: Epoch = Epoch(0)
    read: dict[str, int] = field(default_factory=dict)

    def address(self, node: str, scheme: str = "grpc") -> str:
        """Where a node is reached by a transport."""
        found = [a for a in self.nodes[node].events[0]["endpoints"] if a.startswith(f"{scheme}:")]
        return str(found[0])

    def mark(self) -> None:
        """Look at what the nodes log from here on alone."""
        self.read = {name: len(node.text()) for name, node in self.nodes.items()}

    def said(self, node: str) -> str:
        """What a node has logged since `mark`."""
        return self.nodes[node].text()[self.read.get(node, 0) :]

    async def says(self, node: str, *words: str) -> str:
        """The line with all the words, as soon as a node logs it."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            said = await asyncio.to_thread(self.said, node)
            for line in said.splitlines():
                if all(word.lower() in line.lower() for word in words):
                    return line
            await asyncio.sleep(0.02)
        raise AssertionError(f"{node} does not say {words}: {said[-3000:]}")

    @asynccontextmanager
    async def client(
        self, name: str = "op", role: str = "operator"
    ) -> AsyncIterator[tuple[Cluster, PlanClient]]:
        """An honest client with the plan open."""
        async with build_cluster(security=self.identities.of(name, role)) as cluster:
            client = await cluster.open(self.plan, 2)
            try:
                yield cluster, client
            finally:
                await cluster.release(client)

    async def serve_honestly(self, count: int = 3) -> None:
        """Requests are answered, and rightly."""
        async with self.client() as (_, client):
            for index in range(count):
                result = await client.run(self.digits.requests[index], WITHIN_S)
                assert self.digits.same(index, result.outputs)

    async def counters(self, node: str) -> dict[str, int]:
        """What a node has counted."""
        async with build_cluster(security=self.identities.of("op")) as cluster:
            (name,) = await cluster.reach([self.address(node)])
            status = await cluster.control(name).status()
            return {counter.name: counter.value for counter in status.counters}


@contextmanager
def unchanging_memory(nodes: Iterator[NodeProcess] | list[NodeProcess], most_mib: int = 64) -> Iterator[None]:
    """Nodes take no more than some memory for what happens meanwhile."""
    before = [(node, node.resident_bytes) for node in nodes]
    yield
    for node, held in before:
        grown = (node.resident_bytes - held) >> 20
        assert grown <= most_mib, f"node {node.name} has grown by {grown} MiB"


def _secured(name: str, folder: Path, identities: Identities, broker: Mosquitto) -> NodeProcess:
    listen = "127.0.0.1:0,coaps+tcp://127.0.0.1:0,coap+udp://127.0.0.1:0"
    at_broker = f"mqtt://127.0.0.1:{broker.port}"
    identity = str(identities.directory(name))
    return NodeProcess(name, folder, "--identity", identity, "--listen", listen, "--broker", at_broker)


async def _deploy(victims: Victims, blobs: dict[str, bytes]) -> Epoch:
    async with build_cluster(security=victims.identities.of("op")) as cluster:
        await deploy(cluster, victims.plan, blobs)
        return await cluster.deployed_epoch(victims.plan)


@pytest.fixture(scope="session")
def victims(tmp_path_factory: pytest.TempPathFactory, digits: Reference) -> Iterator[Victims]:
    """A broker, two nodes and a plan; attacks leave them as they are."""
    folder = tmp_path_factory.mktemp("victims")
    identities = Identities(folder)
    with mosquitto() as broker:
        nodes = [_secured(name, folder, identities, broker) for name in "xy"]
        with running(nodes):
            at = {node.name: node.endpoint for node in nodes}
            plan, blobs = digits.chain([CUT], [["x"], ["y"]], at, credits=8)
            specs = {stage.id: stage.outputs for stage in plan.stages} | {"requester": plan.inputs}
            by_name = {node.name: node for node in nodes}
            identities.enrol("z").enrol("op", role="operator").enrol("alice", "bob", role="client")
            victims = Victims(by_name, identities, broker, digits, plan, specs)
            victims.epoch = asyncio.run(_deploy(victims, blobs))
            yield victims


@pytest.fixture(autouse=True)
def _marked(request: pytest.FixtureRequest) -> None:
    if "victims" in request.fixturenames:
        request.getfixturevalue("victims").mark()
