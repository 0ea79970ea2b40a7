"""Nodes that are frozen: seen soon, worked around, and used again when they go on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.client.runner import PlanClient, Result
from collab.coordinator.deploy import deploy
from collab.core.ids import NodeName
from collab.errors import CollabError, NodeLost, PeerUnreachable
from collab.link.hello import Identity
from collab.link.link import Handler, Link
from collab.link.links import Links
from collab.link.suspicion import Health
from collab.transport.aio import timeout
from collab.transport.grpc import GrpcTransport
from tests.integration.deployments import endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, running

pytestmark = pytest.mark.timed

SOON_S = 1.0
BACK_S = 15.0
ACQUAINTED = 60
"""Pings after which a link's detector knows what is usual."""
BURST_S = 3.0
SPINNING = 4


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with NodeProcess("a", tmp_path) as started:
        yield started


class Watch(Handler):
    """What a link says of its peer, and when on the loop's clock."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []
        self._changed = asyncio.Event()

    def _see(self, what: str) -> None:
        self.seen.append((what, asyncio.get_running_loop().time()))
        self._changed.set()

    def link_up(self, link: Link) -> None: ...
    def link_down(self, link: Link, error: CollabError) -> None: ...
    def tensors(self, link: Link, message: object) -> None: ...

    def link_suspected(self, link: Link) -> None:
        self._see("suspected")

    def link_recovered(self, link: Link) -> None:
        self._see("recovered")

    def awaits(self, link: Link) -> bool:
        return True

    async def call(self, link: Link, verb: str, body: memoryview) -> bytes:
        return b""

    async def until(self, what: str) -> float:
        """When something was said last; waits, with a deadline, until it is the last thing said."""
        async with timeout(BACK_S):
            while not self.seen or self.seen[-1][0] != what:
                self._changed.clear()
                await self._changed.wait()
        return self.seen[-1][1]


@asynccontextmanager
async def watched(node: NodeProcess) -> AsyncIterator[tuple[Link, Watch]]:
    watch = Watch()
    transports = {"grpc": GrpcTransport()}
    async with Links(Identity(NodeName("watcher"), "client"), transports, watch) as links:
        link = await links.connect(node.endpoint)
        async with timeout(BACK_S):
            while link._detector._answers < ACQUAINTED:
                await link.call("Describe")
        yield link, watch


@contextmanager
def stopped(node: NodeProcess) -> Iterator[None]:
    node.send(signal.SIGSTOP)
    try:
        yield
    finally:
        node.send(signal.SIGCONT)


async def test_a_frozen_node_is_suspected_within_a_second_and_well_again_when_it_goes_on(node: NodeProcess):
    loop = asyncio.get_running_loop()
    async with watched(node) as (link, watch):
        for _ in range(3):
            with stopped(node):
                stopped_s = loop.time()
                assert await watch.until("suspected") - stopped_s < SOON_S
                assert link.health is Health.SUSPECTED
                with pytest.raises(PeerUnreachable):
                    await link.call("Describe", timeout_s=2 * SOON_S)
                assert link.alive
                continued_s = loop.time()
            assert await watch.until("recovered") - continued_s < SOON_S
            await link.call("Describe")
        assert [what for what, _ in watch.seen] == ["suspected", "recovered"] * 3


def _spin() -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(SPINNING)]


async def test_a_burst_of_load_makes_nobody_suspect(node: NodeProcess):
    loop = asyncio.get_running_loop()
    async with watched(node) as (link, watch):
        spinning = await asyncio.to_thread(_spin)
        try:
            until_s = loop.time() + BURST_S
            while loop.time() < until_s:
                await link.call("Describe")
        finally:
            for process in spinning:
                process.kill()
                process.wait()
        assert watch.seen == []


def _passes(node: str, result: Result) -> bool:
    return node in result.path


async def _answers(
    client: PlanClient, digits: Reference, wanted: Callable[[Result], bool]
) -> list[CollabError]:
    """Requests one after the other until an answer is as wanted; what failed before."""
    failed: list[CollabError] = []
    async with timeout(BACK_S):
        while True:
            try:
                result = await client.run(digits.requests[0], 10.0)
            except CollabError as error:
                failed.append(error)
                await asyncio.sleep(0.01)
                continue
            assert digits.same(0, result.outputs)
            if wanted(result):
                return failed


async def test_requests_go_to_the_replica_while_a_node_is_frozen_and_to_both_afterwards(
    tmp_path: Path, digits: Reference
):
    with running([NodeProcess(name, tmp_path) for name in "abc"]) as nodes:
        plan, blobs = digits.chain([10, 20], [["a"], ["b", "c"], ["a"]], endpoints(nodes))
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            client = await cluster.open(plan, 2)
            loop = asyncio.get_running_loop()
            for name in "bc":
                await _answers(client, digits, partial(_passes, name))
            for _ in range(300):
                await client.run(digits.requests[0], 10.0)
            with stopped(nodes[1]):
                begin_s = loop.time()
                failed = await _answers(client, digits, lambda result: "c" in result.path)
                failed += await _answers(client, digits, lambda result: "c" in result.path)
                failed += await _answers(client, digits, lambda result: "c" in result.path)
                assert loop.time() - begin_s < 2 * SOON_S
                assert all(isinstance(error, NodeLost) for error in failed)
                assert len(failed) <= 1
            await _answers(client, digits, lambda result: "b" in result.path)
            await cluster.release(client)
