"""Nodes that are killed or stopped under load: every request ends, soon and with a clear word."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.client.runner import PlanClient
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs, deploy
from collab.core.ids import NodeName
from collab.core.plan import Plan
from collab.errors import CollabError, DeadlineExceeded, NodeLost
from collab.transport.aio import timeout
from tests.integration.deployments import assert_equal_answers, endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, running

pytestmark = pytest.mark.timed

CONCURRENCY = 8
SOON_S = 1.0
BACK_S = 15.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    with running([NodeProcess(name, tmp_path) for name in "abc"]) as started:
        yield started


@dataclass
class Outcome:
    """One request of a load."""

    index: int
    start_s: float
    end_s: float = 0.0
    error: CollabError | None = None
    wrong: bool = False


@dataclass
class Load:
    """A closed loop of requests that never stops by itself."""

    client: PlanClient
    reference: Reference
    deadline_s: float
    done: list[Outcome] = field(default_factory=list)
    under_way: dict[int, Outcome] = field(default_factory=dict)
    stopping: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def worker(self, number: int) -> None:
        loop, index = asyncio.get_running_loop(), number
        while not self.stopping:
            outcome = self.under_way[number] = Outcome(index, loop.time())
            try:
                result = await self.client.run(self.reference.requests[index], self.deadline_s)
                outcome.wrong = not self.reference.same(index, result.outputs)
            except CollabError as error:
                outcome.error = error
                await asyncio.sleep(0.001)  # what fails at once must not starve the loop
            outcome.end_s = loop.time()
            self.done.append(self.under_way.pop(number))
            index = (index + CONCURRENCY) % len(self.reference.requests)
            self._changed.set()

    async def reaches(self, answers: int, within_s: float = 20.0) -> None:
        """Wait until so many more requests have been answered."""
        wanted = answers + sum(outcome.error is None for outcome in self.done)
        async with timeout(within_s):
            while sum(outcome.error is None for outcome in self.done) < wanted:
                self._changed.clear()
                await self._changed.wait()

    async def ends(self, outcomes: list[Outcome], within_s: float) -> None:
        """Wait until these requests have ended."""
        async with timeout(within_s):
            while any(not outcome.end_s for outcome in outcomes):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def under_load(
    plan: Plan, blobs: Blobs, reference: Reference, deadline_s: float = 20.0
) -> AsyncIterator[tuple[Cluster, Load]]:
    async with build_cluster() as cluster:
        await deploy(cluster, plan, blobs)
        load = Load(await cluster.open(plan, CONCURRENCY), reference, deadline_s)
        workers = [asyncio.ensure_future(load.worker(number)) for number in range(CONCURRENCY)]
        try:
            await load.reaches(20)
            yield cluster, load
        finally:
            load.stopping = True
            async with timeout(deadline_s + 5):
                await asyncio.gather(*workers)
        assert not any(outcome.wrong for outcome in load.done)
        await cluster.release(load.client)


async def answered_again(client: PlanClient, reference: Reference) -> None:
    """Until an answer comes; what fails at once is tried again."""
    async with timeout(BACK_S):
        while True:
            try:
                result = await client.run(reference.requests[0], 5.0)
            except CollabError:
                await asyncio.sleep(0.01)
                continue
            assert reference.same(0, result.outputs)
            return


@pytest.mark.timeout(120)
async def test_a_killed_node_fails_what_it_held_within_a_second_and_serves_again_when_it_is_back(
    nodes: list[NodeProcess], digits: Reference
):
    """One after the other, under one load and with one client: the entry, a stage between, the last."""
    plan, blobs = digits.chain([10, 20], ["a", "b", "c"], endpoints(nodes))
    async with under_load(plan, blobs, digits) as (cluster, load):
        for node, stage in zip(nodes, plan.stages, strict=True):
            await _kill_and_check(node, stage.id, load)
            await asyncio.to_thread(node.start)
            async with timeout(BACK_S):
                await cluster.links.wait_for(NodeName(node.name))
            await answered_again(load.client, digits)
            await load.reaches(50)
            again = await deploy(cluster, plan, blobs)
            assert not again.changed
            assert set(again.sent_bytes.values()) == {0}


async def _kill_and_check(node: NodeProcess, stage: str, load: Load) -> None:
    loop = asyncio.get_running_loop()
    held = list(load.under_way.values())
    assert len(held) == CONCURRENCY
    killed_s = loop.time()
    await asyncio.to_thread(node.kill)
    await load.ends(held, SOON_S + 0.5)
    errors = [outcome.error for outcome in held if outcome.error is not None]
    assert errors, "some request was in the node"
    for outcome in held:
        assert outcome.end_s - killed_s < SOON_S
    for error in errors:
        assert isinstance(error, NodeLost), error
        assert repr(node.name) in str(error), error
        assert repr(stage) in str(error), error
    await load.ends(list(load.under_way.values()), SOON_S)
    later = [outcome for outcome in load.done if outcome.start_s > killed_s + 0.3]
    for outcome in later:
        assert isinstance(outcome.error, NodeLost)
        assert node.name in str(outcome.error)
        assert outcome.end_s - outcome.start_s < SOON_S


async def test_a_killed_replica_costs_what_it_held_and_no_more(nodes: list[NodeProcess], digits: Reference):
    plan, blobs = digits.chain([10, 20], [["a"], ["b", "c"], ["a"]], endpoints(nodes))
    loop = asyncio.get_running_loop()
    async with under_load(plan, blobs, digits) as (_, load):
        killed_s = loop.time()
        held = list(load.under_way.values())
        await asyncio.to_thread(nodes[1].kill)
        await load.ends(held, SOON_S + 0.5)
        await load.reaches(100)
        failed = [outcome for outcome in load.done if outcome.error is not None]
        assert len(failed) <= 2 * CONCURRENCY
        assert all(isinstance(outcome.error, NodeLost) and "'b'" in str(outcome.error) for outcome in failed)
        assert not [o for o in load.done if o.error is not None and o.start_s > killed_s + 0.5]


async def test_all_nodes_killed_at_once_leave_nobody_waiting(nodes: list[NodeProcess], digits: Reference):
    plan, blobs = digits.chain([10, 20], ["a", "b", "c"], endpoints(nodes))
    async with under_load(plan, blobs, digits) as (_, load):
        held = list(load.under_way.values())
        for node in nodes:
            node.send(signal.SIGKILL)
        await load.ends(held, SOON_S + 0.5)
        assert all(isinstance(outcome.error, NodeLost) for outcome in held if outcome.error is not None)
        load.stopping = True
    for node in nodes:
        assert await asyncio.to_thread(node.wait) == -signal.SIGKILL


async def test_requests_to_a_stopped_node_end_when_it_is_suspected_or_at_their_deadline(
    trio: list[NodeProcess], digits: Reference
):
    plan, blobs = digits.chain([10, 20], ["a", "b", "c"], endpoints(trio))
    deadline_s, slack_s = 1.0, 0.4
    async with under_load(plan, blobs, digits, deadline_s) as (_, load):
        held = list(load.under_way.values())
        trio[1].send(signal.SIGSTOP)
        try:
            await load.ends(held, deadline_s + slack_s)
            late = [outcome.error for outcome in held if outcome.error is not None]
            assert late
            for error in late:
                if isinstance(error, NodeLost):
                    assert "node 'b' was lost" in str(error)
                else:
                    assert isinstance(error, DeadlineExceeded), error
                    assert "no answer from plan 'digits' within 1000 ms" in str(error)
            begun = list(load.under_way.values())
            await load.ends(begun, deadline_s + slack_s)
            assert all(outcome.end_s - outcome.start_s < deadline_s + slack_s for outcome in (*held, *begun))
        finally:
            trio[1].send(signal.SIGCONT)
        await answered_again(load.client, digits)
        await load.reaches(50)


@pytest.mark.parametrize("victim", [0, 2])
async def test_a_client_of_a_stopped_node_can_be_closed(
    trio: list[NodeProcess], digits: Reference, victim: int
):
    plan, blobs = digits.chain([10, 20], ["a", "b", "c"], endpoints(trio))
    async with build_cluster() as cluster:
        await deploy(cluster, plan, blobs)
        client = await cluster.open(plan, CONCURRENCY)
        await assert_equal_answers(client, digits)
        trio[victim].send(signal.SIGSTOP)
        try:
            waiting = asyncio.ensure_future(client.run(digits.requests[0], 30.0))
            await asyncio.sleep(0)
            async with timeout(5):
                await cluster.release(client)
            with pytest.raises(CollabError):
                await waiting
        finally:
            trio[victim].send(signal.SIGCONT)
