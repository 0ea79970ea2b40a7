"""What lost devices cost: kills under load, how soon a dead peer is noticed, and chaos for minutes.

Real node processes, a closed loop of eight requests at a time, every answer compared with
the whole model's.  Kills run on loopback; chaos runs in network namespaces with
certificates, and needs root, TUN and nftables (``--full``: for ten minutes).  The time to
notice is simulated, on the detector that links use.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.figures import Figure, run
from collab.assembly import build_cluster
from collab.client.failover import LadderClient
from collab.coordinator.deploy import Blobs, deploy
from collab.core.ids import NodeName
from collab.core.plan import Plan
from collab.transport.aio import timeout
from tests.chaos.run import Outcome, leaks
from tests.chaos.run import run as run_chaos
from tests.integration.deployments import endpoints, with_alternatives
from tests.integration.load import Load, under_load
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, running
from tests.unit.link.lossy import Datagrams, Stream, false_alarms, noticed_us

CONCURRENCY = 8
KILLS = 50
QUICK_KILLS = 3
SEED = 1
REPLICATED = (("a", "b"), ("c", "d"), ("e", "f"))
CUTS = (10, 20)
DOWN_ANSWERS = 100
"""Answers without a node before it is started again."""
BACK_S = 30.0
CHAOS_S = 60.0
QUICK_CHAOS_S = 20.0
FULL_CHAOS_S = 600.0
LOSS = 0.2

Linked = Callable[[str], Awaitable[object]]
"""Waits until the requester has a link to a node again."""


@dataclass
class Killed:
    """What some kills have cost."""

    load: Load
    victims: list[str] = field(default_factory=list)
    stalls_s: list[float] = field(default_factory=list)
    """Of each kill: the longest time without an answer until the node was used again."""


async def kill_in_turn(
    load: Load, nodes: Mapping[str, NodeProcess], linked: Linked, count: int, seed: int
) -> Killed:
    """Kill nodes of a running load, one after the other, at times and places that the seed says.

    Any client that the load runs on will do: one of a plan with replicas, or one that has
    other ways to an answer.  Each node is started again, and is used again before the next dies.
    """
    chance, killed, loop = Random(seed), Killed(load), asyncio.get_running_loop()
    for number in range(count):
        victim = chance.choice(sorted(nodes))
        await load.answers(chance.randrange(20, 200))
        at_s, failed = loop.time(), load.got.failed
        await asyncio.to_thread(nodes[victim].kill)
        await load.answers(DOWN_ANSWERS)
        await asyncio.to_thread(nodes[victim].start)
        async with timeout(BACK_S):
            await linked(victim)
        await load.uses(victim, BACK_S)
        killed.victims.append(victim)
        killed.stalls_s.append(longest_gap_s(load.got.ends_s, at_s))
        what = f"{killed.stalls_s[-1]:.3f} s, {load.got.failed - failed} failed"
        print(f"kill {number + 1} of {count}: {victim}, {what}", file=sys.stderr)
    return killed


def longest_gap_s(ends_s: array[float], since_s: float) -> float:
    """The longest time without an answer that ended after some moment."""
    first = max(1, bisect_left(ends_s, since_s))
    return max((ends_s[i] - ends_s[i - 1] for i in range(first, len(ends_s))), default=0.0)


def kill_figures(name: str, killed: Killed, stall_s: float) -> list[Figure]:
    """Rows of some kills; ``stall_s`` is what the longest stall may be."""
    got, twice = killed.load.got, killed.load.twice
    how = f"{len(killed.victims)} seeded SIGKILLs, {got.asked} requests, {CONCURRENCY} at a time"
    median_s = statistics.median(killed.stalls_s)
    why = f"{dict(got.errors)}, first: {got.first_errors[0][1]}" if got.failed else "errors"
    figures = [
        Figure(f"{name}: answers that are wrong", got.wrong, "", "<= 0", None, how),
        Figure(f"{name}: requests that failed", got.failed, "", "<= 0", None, why),
        Figure(f"{name}: requests that were lost", got.lost, "", "<= 0", None, "neither answered nor failed"),
        Figure(
            f"{name}: longest stall",
            max(killed.stalls_s),
            "s",
            f"<= {stall_s}",
            None,
            f"without any answer, over all kills; median of each kill's longest {median_s:.3f} s",
        ),
        Figure(f"{name}: slowest request", got.slowest_s, "s", "", None, f"{got.retried} were tried again"),
    ]
    figures.insert(3, Figure(f"{name}: requests answered twice", twice.count, "", "<= 0", None, how))
    return figures


@asynccontextmanager
async def _loaded(
    reference: Reference, names: Sequence[str], planned: Callable[[Mapping[str, str]], tuple[Plan, Blobs]]
) -> AsyncIterator[tuple[Load, dict[str, NodeProcess], Linked]]:
    """Nodes, a plan on them, and a load that runs."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="collab-bench-")))
        nodes = stack.enter_context(running([NodeProcess(name, folder) for name in names]))
        cluster = await stack.enter_async_context(build_cluster())
        plan, blobs = planned(endpoints(nodes))
        await deploy(cluster, plan, blobs)
        client = await cluster.climb(plan, CONCURRENCY)
        if isinstance(client, LadderClient):
            stack.push_async_callback(client.close)
        load = await stack.enter_async_context(under_load(Load(client, reference), CONCURRENCY))
        await load.answers(200)
        yield (
            load,
            {node.name: node for node in nodes},
            lambda name: cluster.links.wait_for(NodeName(name)),
        )


async def kills_with_replicas(reference: Reference, count: int) -> list[Figure]:
    """One node of three stages with two replicas each, killed again and again."""
    names = [name for stage in REPLICATED for name in stage]
    planned = partial(reference.chain, CUTS, REPLICATED)
    async with _loaded(reference, names, planned) as (load, nodes, linked):
        killed = await kill_in_turn(load, nodes, linked, count, SEED)
    return kill_figures("killed, with replicas", killed, 0.5)


async def kills_without_replicas(reference: Reference, count: int) -> list[Figure]:
    """One of three nodes with a stage each; alternatives are deployed for the loss of each."""
    planned = partial(with_alternatives, reference)
    async with _loaded(reference, "abc", planned) as (load, nodes, linked):
        killed = await kill_in_turn(load, nodes, linked, count, SEED)
    return kill_figures("killed, without replicas", killed, 3.0)


def noticing(runs: int, hours: float) -> list[Figure]:
    """How soon the detector of links suspects a peer that stops, and how often one that lives."""
    figures = []
    for kind in (Datagrams, Stream):
        for rtt_us in (300.0, 20_000.0):
            where = f"{kind.__name__.lower()}, {rtt_us / 1000:g} ms, {LOSS:.0%} loss"
            times = [noticed_us(kind, seed, rtt_us, LOSS, 30e6) / 1e6 for seed in range(runs)]
            how = f"simulated, {runs} runs; longest {max(times):.1f} s"
            figures.append(
                Figure(f"dead peer noticed, {where}", statistics.median(times), "s", "", None, how)
            )
            seeds = max(1, round(6 * hours))
            alarms = [false_alarms(kind, seed, rtt_us, LOSS, 600e6) for seed in range(seeds)]
            rate, ended = (6 * sum(column) / seeds for column in zip(*alarms, strict=True))
            how = f"simulated, {seeds} runs of 10 minutes; links ended {ended:.1f} 1/h"
            figures.append(Figure(f"false suspicions, {where}", rate, "1/h", "", None, how))
    return figures


async def chaos(seconds: float) -> list[Figure]:
    """Faults of every kind under load, on a cluster with certificates."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="collab-bench-") as folder:
        outcome = await run_chaos(Path(folder), SEED, seconds, say)
    for line in outcome.lines():
        say(line)
    return chaos_figures(outcome)


def chaos_figures(outcome: Outcome) -> list[Figure]:
    """Rows of a run."""
    report, latency = outcome.report, outcome.report["latency_ms"]
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.faults.items()))
    counters = report["counters"]
    grown = leaks(outcome.before, outcome.after)
    growth = {
        n: 100 * (outcome.after[n].resident_bytes / h.resident_bytes - 1) for n, h in outcome.before.items()
    }
    what = f"chaos, {outcome.seconds:.0f} s"
    how = f"seed {outcome.seed}, {report['asked']} requests, deadline 10 s, {CONCURRENCY} at a time"
    figures = [
        Figure(f"{what}: availability", 100 * report["availability"], "%", ">= 100", None, how),
        *(
            Figure(f"{what}: {name}", report[name], "", "<= 0", None, "requests")
            for name in ("wrong", "lost", "twice")
        ),
        *(Figure(f"{what}: latency, {n}", value, "ms", "", None, how) for n, value in latency.items()),
        Figure(f"{what}: longest stall", report["stall_s"], "s", "", None, "without any answer"),
        Figure(f"{what}: faults injected", outcome.faults.total(), "", "", None, faults),
    ]
    tried = f"hedged {counters['hedged']}, late tokens {counters['late']}, unpaid {counters['unpaid']}"
    figures.append(Figure(f"{what}: retries", counters["retries"], "", "", None, tried))
    figures.append(
        Figure(
            f"{what}: memory growth, most",
            max(growth.values()),
            "%",
            "<= 25",
            None,
            f"{max(growth, key=growth.__getitem__)}",
        )
    )
    left = "; ".join(grown) or "descriptors, threads, tasks and memory of every process, before and after"
    figures.append(Figure(f"{what}: leaks", len(grown), "", "<= 0", None, left))
    return figures


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    reference = await asyncio.to_thread(Reference.of, "digits")
    kills = QUICK_KILLS if options.quick else KILLS
    figures = await kills_with_replicas(reference, kills)
    figures += await kills_without_replicas(reference, kills)
    figures += noticing(3, 0.1) if options.quick else noticing(50, 3.3)
    seconds = QUICK_CHAOS_S if options.quick else FULL_CHAOS_S if options.full else CHAOS_S
    return figures + await chaos(seconds)


if __name__ == "__main__":
    run(measure, __doc__)
