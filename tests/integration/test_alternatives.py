"""Chains without replicas whose nodes are killed: alternatives answer, then the whole model here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.client.policy import RetryPolicy
from collab.coordinator.deploy import Blobs, deploy
from collab.core.plan import Plan
from tests.integration.deployments import endpoints, with_alternatives
from tests.integration.load import Load, under_load
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, peers, running

pytestmark = pytest.mark.timed

CONCURRENCY = 8
STALL_S = 3.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    with running([NodeProcess(name, tmp_path) for name in "abc"]) as started:
        yield {node.name: node for node in started}


@asynccontextmanager
async def loaded(plan: Plan, blobs: Blobs, reference: Reference) -> AsyncIterator[Load]:
    async with build_cluster() as cluster:
        await deploy(cluster, plan, blobs)
        client = await cluster.follow(plan, credits=CONCURRENCY)
        try:
            async with under_load(Load(client, reference), CONCURRENCY) as load:
                await load.answers(100)
                yield load
        finally:
            await cluster.unfollow(client)


@pytest.mark.timeout(120)
async def test_a_killed_node_of_a_chain_costs_no_answer_and_is_used_again(
    nodes: dict[str, NodeProcess], digits: Reference
):
    plan, blobs = with_alternatives(digits, endpoints(list(nodes.values())))
    async with loaded(plan, blobs, digits) as load:
        got = load.got
        await asyncio.to_thread(nodes["b"].kill)
        await load.answers(100)
        got.paths.clear()
        got.vias.clear()
        await load.answers(100)
        assert set(got.vias) == {"alternative:digits.without.b"}
        assert not any("b" in path for path in got.paths)
        await asyncio.to_thread(nodes["b"].start)
        await load.answered_by("primary")
    assert not got.first_errors, got.first_errors
    assert got.wrong == got.lost == 0
    assert got.answers == got.asked
    assert got.longest_stall_s <= STALL_S
    assert got.most_attempts <= RetryPolicy().max_attempts


def test_a_command_plans_deploys_and_uses_alternatives_and_a_local_model(
    nodes: dict[str, NodeProcess], digits: Reference, tmp_path: Path
):
    plan, place = tmp_path / "plan.yaml", peers(list(nodes.values()))
    told = command(
        *("plan", digits.path, "--peers", place, "--at", "10,20", "--assign", "a,b,c"),
        *("--offline", "a", "--out", plan, "--json"),
    )
    alternatives = json.loads(told.out)["alternatives"]
    assert {name for one in alternatives for name in one["without"]} >= {"b", "c"}
    assert [one["nodes"] for one in alternatives if one["offline"]] == [["a"]]
    assert all(one["predicted"]["latency_ms"] > 0 for one in alternatives)
    assert command("deploy", plan).code == 0
    assert json.loads(command("deploy", plan, "--json").out)["changed"] is False
    status = json.loads(command("status", "--peers", place, "--json").out)
    loaded = {(p["plan"], p["primary"]) for node in status["nodes"] for p in node["plans"]}
    assert ("digits", None) in loaded
    assert ("digits.alone.a", "digits") in loaded
    inputs, expected = digits.save(tmp_path, 10)
    load = ("--input", inputs, "--expect", expected, "--concurrency", 4, "--json")
    nodes["c"].kill()
    said = command("run", plan, *load)
    report = json.loads(said.out)
    assert (said.code, report["failed"], report["wrong"]) == (0, 0, 0)
    assert all(path.startswith("alternative:digits.") for path in report["paths"])
    nodes["a"].kill()
    nodes["b"].kill()
    assert command("run", plan, *load).code == 3
    said = command("run", plan, *load, "--local", digits.path)
    report = json.loads(said.out)
    assert (said.code, report["failed"], report["wrong"], report["paths"]) == (0, 0, 0, {"local": 10})
    other = command("run", plan, *load, "--local", Path(__file__).parents[1] / "data/digits_int8.tflite")
    assert other.code == 1
    assert "give the file that the plan was made from" in other.err
