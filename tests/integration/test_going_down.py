"""SIGTERM and SIGINT drain a node; its store is free for the next one, and for one at a time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.client.runner import PlanClient, Result
from collab.coordinator.deploy import deploy
from collab.errors import CollabError, NodeLost, NotLoaded, Overloaded
from collab.transport.aio import timeout
from tests.integration.deployments import endpoints
from tests.integration.ensembles import twins
from tests.integration.models import IMAGES, Reference
from tests.integration.processes import NodeProcess, collab, running

pytestmark = pytest.mark.timed


async def submitted(client: PlanClient, digits: Reference) -> list[asyncio.Task[Result]]:
    """All requests at once; returns when the first is answered."""
    requests = [asyncio.ensure_future(client.run(inputs, 20.0)) for inputs in digits.requests]
    async with timeout(20):
        await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
    return requests


async def finished(
    requests: Sequence[asyncio.Future[Result]], digits: Reference, *, may_refuse: bool
) -> None:
    """All are answered; some may have been refused by name, where the signal was quicker than they were."""
    results = await asyncio.gather(*requests, return_exceptions=True)
    for i, result in enumerate(results):
        if isinstance(result, Result):
            assert digits.same(i, result.outputs)
        else:
            assert may_refuse
            assert isinstance(result, NotLoaded), repr(result)
            assert "'a' is draining" in str(result)
    assert sum(isinstance(result, Result) for result in results) > 2


@pytest.mark.parametrize(
    ("number", "going"),
    [(signal.SIGINT, "a"), (signal.SIGTERM, "b"), (signal.SIGTERM, "abc")],
)
async def test_what_is_under_way_is_finished_before_a_node_goes(
    tmp_path: Path, digits: Reference, number: int, going: str
):
    with running([NodeProcess(name, tmp_path) for name in "abc"]) as nodes:
        plan, blobs = digits.chain([10, 20], ["a", "b", "c"], endpoints(nodes))
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            client = await cluster.open(plan, IMAGES)
            requests = await submitted(client, digits)
            assert not all(request.done() for request in requests)
            for node in nodes:
                if node.name in going:
                    node.send(number)
            async with timeout(20):
                await finished(requests, digits, may_refuse="a" in going)
            for node in nodes:
                if node.name in going:
                    assert await asyncio.to_thread(node.wait) == 0
                    assert node.events[-1] == {"event": "drained", "name": node.name, "unfinished": 0}


async def test_a_node_that_goes_refuses_what_is_new_by_name(tmp_path: Path, digits: Reference):
    with running([NodeProcess("a", tmp_path)]) as (node,):
        plan, blobs = digits.chain([], ["a"], endpoints([node]))
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            client = await cluster.open(plan, 2 * IMAGES)
            requests = await submitted(client, digits)
            node.send(signal.SIGTERM)
            errors: list[CollabError] = []
            async with timeout(20):
                while not isinstance(errors[-1] if errors else None, NodeLost):
                    try:
                        await client.run(digits.requests[0], 5.0)
                    except CollabError as error:
                        errors.append(error)
                        await asyncio.sleep(0.005)
                await finished(requests, digits, may_refuse=True)
            assert await asyncio.to_thread(node.wait) == 0
        assert {type(error) for error in errors} <= {NotLoaded, NodeLost, Overloaded}
        refused = [error for error in errors if isinstance(error, NotLoaded)]
        assert all("'a' is draining" in str(error) for error in refused)


async def test_a_node_waits_no_longer_than_it_may(tmp_path: Path, digits: Reference):
    """A join waits for a member that is stopped: the drain ends without it, and says so."""
    settings = tmp_path / "node.toml"
    settings.write_text("[node]\ndrain_s = 0.3\n")
    nodes = [NodeProcess("a", tmp_path), NodeProcess("b", tmp_path)]
    nodes.append(NodeProcess("c", tmp_path, "--config", str(settings)))
    with running(nodes):
        plan, blobs = twins(digits, "ab", "c", nodes)
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            client = await cluster.open(plan, 4)
            nodes[1].send(signal.SIGSTOP)
            request = asyncio.ensure_future(client.run(digits.requests[0], 30.0))
            async with timeout(10):
                while not any(p.in_flight for p in (await cluster.control("c").status()).plans):
                    pass
            nodes[2].send(signal.SIGTERM)
            assert await asyncio.to_thread(nodes[2].wait, 5.0) == 0
            assert nodes[2].events[-1]["unfinished"] == 1
            with pytest.raises(NodeLost, match="'c'"):
                await request
            nodes[1].send(signal.SIGCONT)


def test_two_nodes_cannot_have_one_store(tmp_path: Path):
    with NodeProcess("a", tmp_path) as node:
        arguments = ("node", "--name", "b", "--listen", "127.0.0.1:0", "--store", node.store, "--json")
        second = collab(*arguments, code=1)
        assert second.errors == [
            f"error: store {node.store}: another node uses it; give each node its own --store"
        ]
        assert second.json["error"]["code"] == "store"
        assert collab("nodes", "--peers", node.place, "--json").json[0]["state"] == "serving"
        node.kill()
        node.start()


def test_a_node_can_be_told_to_go_while_it_starts(tmp_path: Path):
    node = NodeProcess("a", tmp_path)
    node.begin()
    try:
        node.await_ready()
        node.send(signal.SIGTERM)
        node.send(signal.SIGTERM)
    finally:
        assert node.stop() == 0
