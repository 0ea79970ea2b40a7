"""Memory and time: what a node takes idle, how soon it serves, and that a long load leaks nothing."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Mapping
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.coordinator.deploy import deploy
from tests.integration.deployments import endpoints
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, running

pytestmark = pytest.mark.timed

MB = 1_000_000
CONCURRENCY = 16
WARM = 1_000
STARTS = 5


def own_resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "count", [2_000, pytest.param(6_000, marks=[pytest.mark.slow, pytest.mark.heavy("chaos")])]
)
async def test_a_long_load_is_answered_and_takes_no_more_memory(
    tmp_path: Path, digits: Reference, count: int, record_property
):
    with running([NodeProcess(name, tmp_path) for name in "abc"]) as nodes:
        plan, blobs = digits.chain([10, 20], ["a", "b", "c"], endpoints(nodes))
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            client = await cluster.open(plan, CONCURRENCY)
            wrong = 0

            async def load(numbers: range) -> None:
                todo = iter(numbers)

                async def worker() -> None:
                    nonlocal wrong
                    for number in todo:
                        index = number % len(digits.requests)
                        result = await client.run(digits.requests[index])
                        wrong += not digits.same(index, result.outputs)

                await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))

            def resident() -> Mapping[str, int]:
                return {node.name: node.resident_bytes for node in nodes} | {"client": own_resident_bytes()}

            await load(range(WARM))
            warm = await asyncio.to_thread(resident)
            await load(range(WARM, count))
            end = await asyncio.to_thread(resident)
            counters = {name: await cluster.control(name).status() for name in "abc"}
    report = {name: (round(warm[name] / MB, 1), round(end[name] / MB, 1)) for name in warm}
    record_property("resident_mb", report)
    assert not wrong
    for name, before in warm.items():
        assert end[name] <= 1.05 * before, report
    for name, status in counters.items():
        # Attempts that are over are remembered up to a bound; making room there is no loss.
        dropped = {
            c.name: c.value for c in status.counters if c.value and c.name != "evicted" and ":" not in c.name
        }
        assert not dropped, (name, dropped)


def test_an_idle_node_is_small_and_starts_soon(tmp_path: Path, record_property):
    times, sizes = [], []
    for number in range(STARTS):
        with NodeProcess(f"n{number}", tmp_path) as node:
            times.append(node.ready_s)
            sizes.append(node.resident_bytes / MB)
    record_property("ready_s", times)
    record_property("idle_mb", sizes)
    assert max(sizes) <= 80
    assert statistics.median(times) <= 5.0


async def test_a_node_that_was_given_up_by_its_clients_is_as_small_as_before(
    tmp_path: Path, digits: Reference
):
    """Clients that come and go leave nothing behind."""
    with running([NodeProcess("a", tmp_path)]) as nodes:
        plan, blobs = digits.chain([], ["a"], endpoints(nodes))
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
        sizes: dict[int, int] = {}
        for number in range(61):
            async with build_cluster(role="client") as cluster:
                client = await cluster.open(plan, 2)
                await client.run(digits.requests[0])
            if number in (20, 60):
                sizes[number] = await asyncio.to_thread(lambda: nodes[0].resident_bytes)
        assert sizes[60] <= 1.05 * sizes[20], sizes
