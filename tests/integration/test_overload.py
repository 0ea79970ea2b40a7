"""More requests than nodes can answer, and nodes that are taken out of service under load."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest

from collab.assembly import build_cluster
from collab.client.runner import PlanClient
from collab.coordinator.deploy import deploy
from collab.core.token import Priority
from collab.errors import CollabError, Overloaded
from tests.integration.deployments import endpoints
from tests.integration.load import Load, under_load
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, command, running

pytestmark = pytest.mark.timed

CREDITS = 16
WARM = 24
ASKED = 150
WITHIN_S = 30.0


async def test_replicas_that_drain_under_load_cost_no_answer_and_are_used_again(
    tmp_path: Path, digits: Reference
):
    with running([NodeProcess(name, tmp_path) for name in "abc"]) as nodes:
        plan, blobs = digits.chain([10, 20], (("a",), ("b", "c"), ("a",)), endpoints(nodes))
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            client = await cluster.open(plan, 4)
            async with under_load(Load(client, digits, WITHIN_S), 4) as load:
                for leaving in nodes[1:]:
                    await load.uses(leaving.name, WITHIN_S)
                    leaving.send(signal.SIGTERM)
                    assert await asyncio.to_thread(leaving.wait) == 0
                    assert leaving.events[-1]["unfinished"] == 0
                    load.got.paths.clear()
                    await load.answers(20)
                    assert not any(leaving.name in path for path in load.got.paths)
                    await asyncio.to_thread(leaving.start)
                await load.uses(nodes[2].name, WITHIN_S)
            assert not load.got.errors, load.got.first_errors
            assert load.got.wrong == load.got.lost == 0
            # Untold, each request that goes there costs one; a false suspicion costs the four under way.
            assert client.counters["retries"] <= 4
            await cluster.release(client)


async def _ask(
    client: PlanClient, reference: Reference, count: int, pause_s: float, deadline_s: float, chance: Random
) -> list[tuple[str, Priority]]:
    """An open loop: every request by how it ended and its class."""
    ends: list[tuple[str, Priority]] = []

    async def one(index: int, priority: Priority) -> None:
        try:
            result = await client.run(reference.requests[index], deadline_s, priority)
            assert reference.same(index, result.outputs)
            ends.append(("answered", priority))
        except Overloaded:
            ends.append(("refused", priority))
        except CollabError as error:
            ends.append((error.code, priority))

    tasks = []
    for number in range(count):
        priority = Priority.HIGH if chance.random() < 0.15 else Priority.NORMAL
        tasks.append(asyncio.ensure_future(one(number % len(reference.requests), priority)))
        await asyncio.sleep(chance.expovariate(1 / pause_s))
    await asyncio.gather(*tasks)
    return ends


def _share(ends: list[tuple[str, Priority]], end: str, *of: Priority) -> float:
    among = [got for got, priority in ends if not of or priority in of]
    return among.count(end) / max(1, len(among))


async def test_at_three_times_the_capacity_the_surplus_is_refused_and_the_modest_and_the_urgent_are_served(
    tmp_path: Path, digits: Reference
):
    with running([NodeProcess(name, tmp_path, "--stretch", "20") for name in "ab"]) as nodes:
        plan, blobs = digits.chain([20], (("a",), ("b",)), endpoints(nodes), credits=CREDITS)
        async with AsyncExitStack() as stack:
            greedy_cluster = await stack.enter_async_context(build_cluster())
            modest_cluster = await stack.enter_async_context(build_cluster())
            await deploy(greedy_cluster, plan, blobs)
            greedy = await greedy_cluster.open(plan, CREDITS)
            assert greedy.granted == CREDITS
            clock = asyncio.get_running_loop().time
            begun = clock()
            for number in range(WARM // 4):
                results = await asyncio.gather(
                    *(greedy.run(digits.requests[4 * number + i], WITHIN_S) for i in range(4))
                )
            each_s = (clock() - begun) / WARM
            assert len(results) == 4
            modest = await modest_cluster.open(plan, CREDITS)
            assert modest.granted >= CREDITS // 2
            of, chance = (12 * each_s,), Random(7)
            more, less = await asyncio.gather(
                _ask(greedy, digits, 4 * ASKED // 5, each_s / 2.4, *of, chance),
                _ask(modest, digits, ASKED // 5, each_s / 0.6, *of, chance),
            )
            said = f"greedy {Counter(more)}, modest {Counter(less)}, {each_s:.4f} s each"
            assert _share(more, "refused") > 0.1, said
            assert _share(more + less, "answered") > 0.15, said
            assert _share(less, "answered") > _share(more, "answered"), said
            urgent = _share(more, "answered", Priority.HIGH)
            assert urgent > _share(more, "answered", Priority.NORMAL), said
            for cluster, client in ((greedy_cluster, greedy), (modest_cluster, modest)):
                await cluster.release(client)


def test_a_priority_that_is_none_is_a_usage_error(tmp_path: Path):
    refused = command("run", tmp_path / "plan.yaml", "--input", "x.npz", "--priority", "urgent")
    assert refused.code == 2
    assert refused.errors == ["error: --priority 'urgent': give one of low, normal, high"]
