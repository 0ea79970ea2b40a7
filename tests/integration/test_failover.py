"""Replicas that are killed under load: each costs a retry, never an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.client.policy import RetryPolicy
from collab.client.runner import PlanClient
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs, deploy
from collab.core.ids import NodeName
from collab.core.plan import Plan
from collab.transport.aio import timeout
from tests.integration.deployments import endpoints
from tests.integration.load import Load, under_load
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


@asynccontextmanager
async def loaded(
    plan: Plan, blobs: Blobs, reference: Reference, retry: RetryPolicy
) -> AsyncIterator[tuple[Cluster, PlanClient, Load]]:
    async with build_cluster() as cluster:
        await deploy(cluster, plan, blobs)
        client = await cluster.open(plan, CONCURRENCY, retry)
        async with under_load(Load(client, reference), CONCURRENCY) as load:
            await load.answers(100)
            yield cluster, client, load
        await cluster.release(client)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("hedge", [False, True], ids=["plain", "hedged"])
async def test_a_killed_replica_costs_no_answer_and_half_a_second_at_most_and_is_used_again(
    nodes: dict[str, NodeProcess], digits: Reference, hedge: bool
):
    plan, blobs = digits.chain([10, 20], STAGES, endpoints(list(nodes.values())))
    async with loaded(plan, blobs, digits, RetryPolicy(hedge=hedge)) as (cluster, client, load):
        for victim in VICTIMS:
            await asyncio.to_thread(nodes[victim].kill)
            await load.answers(300)
            assert not any(victim in path for path in list(load.got.paths)[-100:])
            await asyncio.to_thread(nodes[victim].start)
            async with timeout(BACK_S):
                await cluster.links.wait_for(NodeName(victim))
            await load.uses(victim)
    got = load.got
    assert not got.errors, got.first_errors
    assert (got.wrong, got.lost, load.twice.count) == (0, 0, 0)
    assert got.answers == got.asked
    assert got.longest_stall_s <= STALL_S
    assert got.slowest_s <= STALL_S
    assert client.counters["unpaid"] == 0
    assert got.retried >= client.counters["retries"] / 2 > 0
    assert hedge or not got.hedged


async def test_with_one_attempt_a_killed_replica_costs_what_it_held(
    nodes: dict[str, NodeProcess], digits: Reference
):
    plan, blobs = digits.chain([10, 20], STAGES, endpoints(list(nodes.values())))
    async with loaded(plan, blobs, digits, RetryPolicy(max_attempts=1)) as (_, client, load):
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
