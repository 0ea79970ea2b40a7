"""Replicas that are killed under load: each costs a retry, never an answer."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.client.policy import RetryPolicy
from collab.client.runner import PlanClient, Result
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs, deploy
from collab.core.ids import NodeName
from collab.core.plan import Plan
from collab.errors import CollabError
from collab.transport.aio import timeout
from tests.integration.deployments import endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, collab, peers, running

pytestmark = pytest.mark.timed

CONCURRENCY = 8
STALL_S = 0.5
BACK_S = 15.0
STAGES = (("a", "b"), ("c", "d"), ("e", "f"))
VICTIMS = ("a", "d", "f")
"""One of an entry, a middle and a last stage."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    with running([NodeProcess(name, tmp_path) for name in "abcdef"]) as started:
        yield {node.name: node for node in started}


@dataclass
class Answered:
    """What a closed loop got, request by request."""

    errors: list[CollabError] = field(default_factory=list)
    wrong: int = 0
    ends_s: list[float] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    @property
    def longest_stall_s(self) -> float:
        """The longest time in which nothing was answered."""
        return max(later - sooner for sooner, later in zip(self.ends_s, self.ends_s[1:], strict=False))

    @property
    def slowest_s(self) -> float:
        """The longest that one request took."""
        return max(result.total_ms for result in self.results) / 1000


class Load:
    """Requests without end, so many at a time, each answer compared with the whole model's."""

    def __init__(self, client: PlanClient, reference: Reference) -> None:
        self._client = client
        self._reference = reference
        self._changed = asyncio.Event()
        self.asked = 0
        self.got = Answered()
        self.stopping = False

    async def worker(self) -> None:
        now = asyncio.get_running_loop().time
        while not self.stopping:
            index = self.asked % len(self._reference.requests)
            self.asked += 1
            try:
                result = await self._client.run(self._reference.requests[index], 10.0)
            except CollabError as error:
                self.got.errors.append(error)
                await asyncio.sleep(0.001)  # what fails at once must not starve the loop
            else:
                self.got.wrong += not self._reference.same(index, result.outputs)
                self.got.results.append(result)
                self.got.ends_s.append(now())
            self._changed.set()

    async def answers(self, more: int) -> None:
        """Wait for so many more."""
        wanted = len(self.got.results) + more
        async with timeout(30):
            while len(self.got.results) < wanted:
                self._changed.clear()
                await self._changed.wait()

    async def uses(self, node: str) -> None:
        """Wait until an answer went over a node."""
        seen = len(self.got.results)
        async with timeout(BACK_S):
            while not any(node in result.path for result in self.got.results[seen:]):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def under_load(
    plan: Plan, blobs: Blobs, reference: Reference, retry: RetryPolicy
) -> AsyncIterator[tuple[Cluster, PlanClient, Load]]:
    async with build_cluster() as cluster:
        await deploy(cluster, plan, blobs)
        client = await cluster.open(plan, CONCURRENCY, retry)
        load = Load(client, reference)
        workers = [asyncio.ensure_future(load.worker()) for _ in range(CONCURRENCY)]
        try:
            await load.answers(100)
            yield cluster, client, load
        finally:
            load.stopping = True
            async with timeout(15):
                await asyncio.gather(*workers)
        await cluster.release(client)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("hedge", [False, True], ids=["plain", "hedged"])
async def test_a_killed_replica_costs_no_answer_and_half_a_second_at_most_and_is_used_again(
    nodes: dict[str, NodeProcess], digits: Reference, hedge: bool
):
    plan, blobs = digits.chain([10, 20], STAGES, endpoints(list(nodes.values())))
    async with under_load(plan, blobs, digits, RetryPolicy(hedge=hedge)) as (cluster, client, load):
        for victim in VICTIMS:
            await asyncio.to_thread(nodes[victim].kill)
            await load.answers(300)
            after = load.got.results[-100:]
            assert not any(victim in result.path for result in after)
            await asyncio.to_thread(nodes[victim].start)
            async with timeout(BACK_S):
                await cluster.links.wait_for(NodeName(victim))
            await load.uses(victim)
    got = load.got
    assert not got.errors, Counter(map(str, got.errors))
    assert got.wrong == 0
    assert len(got.results) == load.asked
    assert got.longest_stall_s <= STALL_S
    assert got.slowest_s <= STALL_S
    assert client.counters["unpaid"] == 0
    retried = sum(result.attempts > 1 for result in got.results)
    assert retried >= client.counters["retries"] / 2 > 0
    assert all(hedge or not result.hedged for result in got.results)


async def test_with_one_attempt_a_killed_replica_costs_what_it_held(
    nodes: dict[str, NodeProcess], digits: Reference
):
    plan, blobs = digits.chain([10, 20], STAGES, endpoints(list(nodes.values())))
    async with under_load(plan, blobs, digits, RetryPolicy(max_attempts=1)) as (_, client, load):
        await asyncio.to_thread(nodes["d"].kill)
        await load.answers(100)
    assert client.counters["retries"] == 0
    assert load.got.wrong == 0


def test_a_run_tells_the_paths_and_the_retries(
    nodes: dict[str, NodeProcess], digits: Reference, tmp_path: Path
):
    inputs, expected = digits.save(tmp_path)
    plan = tmp_path / "plan.yaml"
    place = peers(list(nodes.values()))
    collab(
        *("plan", digits.path, "--peers", place, "--at", "10,20", "--assign", "a+b,c+d,e+f", "--out", plan)
    )
    collab("deploy", plan)
    load = ("--input", inputs, "--expect", expected, "--concurrency", 4, "--json")
    said = json.loads(collab("run", plan, *load, "--attempts", 2, "--hedge", "--priority", "high").out)
    assert (said["failed"], said["wrong"]) == (0, 0)
    assert sum(said["paths"].values()) == len(digits.requests)
    assert len(said["paths"]) > 1
    assert said["retries"] == 0
    assert said["hedged"] >= 0
    nodes["c"].kill()
    said = json.loads(collab("run", plan, *load).out)
    assert (said["failed"], said["wrong"], said["hedged"]) == (0, 0, 0)
    assert all(" c " not in path for path in said["paths"])
    refused = collab("run", plan, *load, "--attempts", 0, code=2)
    assert refused.errors == ["error: --attempts 0: give a number from 1 to 16"]
