"""Links cut within a cluster, nodes frozen in it, and both halves of one that is split, under load."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.chaos.schedule import Fault, Kind
from tests.chaos.world import ClientProcess, World

pytestmark = [pytest.mark.heavy("chaos"), pytest.mark.timeout(180), pytest.mark.timed]

STAGES = (("a", "b"), ("c", "d"), ("e", "f"))
HALVES = {"left": frozenset("ace"), "right": frozenset("bdf")}
CONCURRENCY = 2
ATTEMPTS = len(STAGES) + 1
"""A split takes a replica of every stage at once, and a request may meet each of them."""
ACQUAINTED = 300
"""Answers after which links know what is usual."""
USED_S = 30.0
ROUNDS = 10
LOOKS = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Six nodes, and two clients' hosts."""
    made = World(tmp_path_factory.mktemp("split"), STAGES, tuple(HALVES))
    asyncio.run(made.__aenter__())
    yield made
    asyncio.run(made.__aexit__())


@asynccontextmanager
async def loaded(world: World, *hosts: str) -> AsyncIterator[list[ClientProcess]]:
    """Clients that have a load running, and links that are well known."""
    async with AsyncExitStack() as stack:
        clients = []
        for host in hosts:
            client = world.client(host, deploys=host == hosts[0], concurrency=CONCURRENCY, attempts=ATTEMPTS)
            clients.append(await stack.enter_async_context(client))
            await client.ask("begin")
        for client in clients:
            await client.ask("answers", more=ACQUAINTED)
        yield clients


async def finish(world: World, client: ClientProcess) -> dict[str, Any]:
    """Every node is used again; what the load got, after nothing went wrong."""
    for name in world.names:
        await client.ask("uses", node=name, within_s=USED_S)
    await client.ask("pause")
    report: dict[str, Any] = await client.ask("report")
    assert not report["errors"], report["first_errors"]
    assert (report["wrong"], report["lost"], report["twice"]) == (0, 0, 0)
    assert report["answers"] == report["asked"]
    return report


async def retries(client: ClientProcess) -> int:
    return int((await client.ask("report"))["counters"]["retries"])


async def freeze(world: World, client: ClientProcess, victim: str) -> bool:
    """Stop a node until the load goes on without it; whether something that it held was tried again."""
    node = world.nodes[victim]
    before = await retries(client)
    node.send(signal.SIGSTOP)
    try:
        for _ in range(LOOKS):
            # One request may hang while others are answered, until the node is suspected.
            await client.ask("answers", more=10 * CONCURRENCY)
            if retried := await retries(client) > before:
                break
        await client.ask("answers", more=20 * CONCURRENCY)
        paths = (await client.ask("paths"))[-10 * CONCURRENCY :]
        assert not any(victim in path for path in paths)
        return retried
    finally:
        node.send(signal.SIGCONT)


async def test_both_halves_of_a_split_cluster_go_on_and_use_all_replicas_once_they_are_joined(world: World):
    left, right = ({*nodes, host} for host, nodes in HALVES.items())
    across = [pair for one in left for other in right for pair in ((one, other), (other, one))]
    async with loaded(world, *HALVES) as clients:
        await world.cut(across)
        for client in clients:
            # What was in flight over the other half is tried again in this one.
            await client.ask("answers", more=10 * CONCURRENCY)
        for client in clients:
            await client.ask("answers", more=10 * CONCURRENCY)
            paths = (await client.ask("paths"))[-5 * CONCURRENCY :]
            assert {node for path in paths for node in path} == HALVES[client.host]
        await world.mend(across)
        for client in clients:
            report = await finish(world, client)
            assert report["counters"]["retries"] > 0


async def test_a_link_cut_between_two_nodes_that_the_client_reaches_costs_no_answer(world: World):
    async with loaded(world, "left") as (client,):
        await world.inject(Fault(0.0, Kind.CUT, "a", 8.0, "c"))
        report = await finish(world, client)
        assert report["counters"]["retries"] > 0
        assert report["counters"]["unpaid"] == 0


@pytest.mark.parametrize("victim", ["d", "f"])
async def test_what_a_frozen_node_held_is_answered_by_another_and_what_it_does_later_is_dropped(
    world: World, victim: str
):
    async with loaded(world, "left") as (client,):
        before = await client.ask("dropped", node=victim)
        await client.ask("uses", node=victim, within_s=USED_S)
        retried, left = False, 0
        for _ in range(ROUNDS):
            # It may have had nothing to do at that moment, or find the cancel beside the tensor.
            retried = await freeze(world, client, victim) or retried
            await client.ask("uses", node=victim, within_s=USED_S)
            late = (await client.ask("report"))["counters"]["late"]
            left = await client.ask("dropped", node=victim) - before + late
            if retried and left:
                break
        assert retried
        assert left > 0
        await finish(world, client)
