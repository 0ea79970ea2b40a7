"""Twice as many requests as a chain can answer: what is answered in time, and how soon the rest is refused.

Three node processes whose stages are stretched, so that computing is what limits them.  In turn
a closed loop measures the capacity and an open loop (Poisson, seeded) asks for twice that, with
a deadline of 200 ms or five times the latency of a single request: with admission by deadline
and without, from two clients of which one asks four times as much, and in three classes.  The
capacity of an open loop is the mean of what was measured before and after it.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from benchmarks.figures import Figure, run
from benchmarks.models import convolutions
from benchmarks.soak import resident_mb
from collab.assembly import build_cluster
from collab.cli.connect import reach
from collab.client.policy import RetryPolicy
from collab.client.runner import PlanClient
from collab.codec.tensors import Array
from collab.coordinator import planning
from collab.coordinator.deploy import deploy
from collab.coordinator.local import LocalNodes
from collab.core.ids import PlanName
from collab.core.plan import Plan
from collab.core.token import Priority
from collab.errors import CollabError, DeadlineExceeded, Overloaded
from collab.graph import parse_model

NODES = ("a", "b", "c")
STRETCH = 40
CREDITS = 64
LOAD = 2.0
"""Requests asked for in multiples of the capacity."""
CLOSED = 8
"""Requests under way in the closed loop; more add nothing to three stages."""
CLASSES = {Priority.HIGH: 0.15, Priority.NORMAL: 0.6, Priority.LOW: 0.25}
UNFAIR = 4
"""How many times as much the greedy client asks."""

Request = dict[str, Array]


class Asked(NamedTuple):
    """How one request of an open loop ended: ``answered``, ``refused``, ``late`` or another code."""

    end: str
    ms: float
    priority: Priority
    within: bool
    """Whether it ended before the open loop did."""
    delay_ms: float
    """How late it was asked for: this process was busy."""


@dataclass
class Outcome:
    """An open loop's requests."""

    seconds: float
    asked: list[Asked] = field(default_factory=list)

    def count(self, end: str, priority: Priority | None = None) -> int:
        """Requests that ended so."""
        return sum(a.end == end and priority in (None, a.priority) for a in self.asked)

    @property
    def goodput(self) -> float:
        """Answers within the deadline, a second; what was under way when the loop ended does not count."""
        return sum(a.end == "answered" and a.within for a in self.asked) / self.seconds

    def times(self, end: str) -> list[float]:
        """How long they took, in ms, in order."""
        return sorted(a.ms for a in self.asked if a.end == end)

    def share(self, end: str, priority: Priority) -> float:
        """Of the requests of a class, in percent."""
        return 100 * self.count(end, priority) / max(1, sum(a.priority is priority for a in self.asked))

    def __str__(self) -> str:
        ends = Counter(a.end for a in self.asked)
        return ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))


class Bench:
    """Nodes with a plan, and clients of it."""

    def __init__(self, plan: Plan, local: LocalNodes, request: Request, seed: int) -> None:
        self._plan = plan
        self._local = local
        self._request = request
        self._chance = Random(seed)

    @asynccontextmanager
    async def client(self, refuse: bool = True) -> AsyncIterator[PlanClient]:
        """One more requester, with links of its own."""
        async with build_cluster() as cluster:
            await reach(cluster, self._local.endpoints)
            client = await cluster.open(self._plan, CREDITS, RetryPolicy(refuse_hopeless=refuse))
            yield client
            await cluster.release(client)

    def memory_mb(self) -> float:
        """Resident memory of all nodes."""
        return sum(resident_mb(node.pid) for node in self._local.nodes.values())

    async def closed(self, client: PlanClient, at_a_time: int, seconds: float) -> tuple[float, float]:
        """Answers a second and median latency in ms, with so many requests under way."""
        took: list[float] = []
        end = time.perf_counter() + seconds

        async def worker() -> None:
            while time.perf_counter() < end:
                with suppress(CollabError):  # a node that a busy machine kept silent
                    took.append((await client.run(self._request, 60.0)).total_ms)

        start = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(at_a_time)))
        return len(took) / (time.perf_counter() - start), float(np.median(took))

    async def open(
        self,
        client: PlanClient,
        rate: float,
        seconds: float,
        deadline_s: float,
        classes: dict[Priority, float] | None = None,
    ) -> Outcome:
        """Requests at random times, whatever becomes of those before."""
        outcome = Outcome(seconds)
        tasks: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        start, due = loop.time(), 0.0

        async def one(due: float, priority: Priority) -> None:
            begun = loop.time()
            end = "answered"
            try:
                await client.run(self._request, deadline_s, priority)
            except Overloaded:
                end = "refused"
            except DeadlineExceeded:
                end = "late"
            except CollabError as error:
                end = error.code
            took = loop.time() - begun
            if end == "answered" and took > deadline_s:
                end = "late"
            within = begun + took - start <= seconds
            outcome.asked.append(Asked(end, took * 1000, priority, within, (begun - due) * 1000))

        kinds = classes or {Priority.NORMAL: 1.0}
        while (due := due + self._chance.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, start + due - loop.time()))
            (priority,) = self._chance.choices(list(kinds), list(kinds.values()))
            tasks.append(asyncio.ensure_future(one(start + due, priority)))
        await asyncio.gather(*tasks)
        return outcome


@asynccontextmanager
async def bench(refuse: bool, seed: int) -> AsyncIterator[Bench]:
    """Three nodes with a chain; without ``refuse`` they take work that they cannot do in time."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="collab-bench-")))
        config = folder / "node.toml"
        config.write_text(f"[node]\nrefuse_hopeless = {str(refuse).lower()}\n", encoding="utf-8")
        options = ("--stretch", str(STRETCH), "--discovery", "none", "--config", str(config))
        local = await stack.enter_async_context(LocalNodes(NODES, folder, options))
        model = folder / "convolutions.tflite"
        data = convolutions(6, channels=64, side=14)
        model.write_bytes(data)
        graph = parse_model(data)
        cluster = await stack.enter_async_context(build_cluster())
        views = await reach(cluster, local.endpoints)
        assignment = planning.default_assignment(len(views), views)
        refs = [view.ref for view in views]
        plan, blobs = planning.build_chain(PlanName("overload"), model, graph, [2, 4], assignment, refs)
        await deploy(cluster, plan, blobs)
        (spec,) = graph.inputs
        array = np.random.default_rng(seed).normal(size=spec.shape).astype(np.float32)
        yield Bench(plan, local, {spec.name: array}, seed)


class Rounds(NamedTuple):
    """How often closed and open loops take turns, and how long an open one lasts."""

    number: int
    seconds: float


@dataclass
class Measured:
    """What the rounds gave: the capacity, and what became of each client's requests."""

    deadline_s: float
    capacity: float
    outcomes: list[Outcome]


class Load(NamedTuple):
    """One client's part of the load."""

    client: PlanClient
    share: float = 1.0
    classes: dict[Priority, float] | None = None


async def overload(there: Bench, loads: Sequence[Load], rounds: Rounds) -> Measured:
    """Closed and open loops in turn, after one round that warms up.

    The closed loops have a client of their own, so that the others learn from their own load only.
    """
    pause_s = rounds.seconds / 3
    capacities: list[float] = []
    got = [Outcome(rounds.number * rounds.seconds) for _ in loads]
    async with there.client() as gauge:
        rate, _ = await there.closed(gauge, CLOSED, pause_s)
        _, alone_ms = await there.closed(gauge, 1, pause_s)
        deadline_s = max(0.2, 5 * alone_ms / 1000)
        for number in range(rounds.number + 1):
            asking = (
                there.open(load.client, LOAD * rate * load.share, rounds.seconds, deadline_s, load.classes)
                for load in loads
            )
            said = await asyncio.gather(*asking)
            before, (rate, _) = rate, await there.closed(gauge, CLOSED, pause_s)
            if number:
                capacities.append((before + rate) / 2)
                for all_of_it, part in zip(got, said, strict=True):
                    all_of_it.asked += part.asked
    return Measured(deadline_s, float(np.mean(capacities)), got)


def percent(part: float, whole: float) -> float:
    """Of nothing it is 0."""
    return 100 * part / whole if whole else 0.0


def worst(values: Sequence[float], q: float) -> float:
    """A quantile of sorted values; 0 where there are none."""
    return float(np.quantile(values, q)) if values else 0.0


async def admitted(there: Bench, rounds: Rounds) -> list[Figure]:
    """Twice the capacity with admission by deadline."""
    async with there.client() as client:
        before = there.memory_mb()
        by = await overload(there, [Load(client)], rounds)
        growth = there.memory_mb() - before
    (got,) = by.outcomes
    refused = got.times("refused")
    count = f"{len(refused)} refusals"
    delays = sorted(a.delay_ms for a in got.asked)
    how = (
        f"{len(got.asked)} requests in {got.seconds:g} s, deadline {1000 * by.deadline_s:.0f} ms: {got}; "
        f"asked up to {worst(delays, 1.0):.0f} ms late"
    )
    goodput = percent(got.goodput, by.capacity)
    return [
        Figure("capacity, closed loop", by.capacity, "1/s", "", None, f"{CLOSED} under way"),
        Figure("goodput at twice the capacity", goodput, "% of capacity", ">= 90", by.capacity, how),
        Figure("begun, and not answered in time", got.count("late"), "", "", None, how),
        Figure("refused within, p99", worst(refused, 0.99), "ms", "<= 50", None, count),
        Figure("refused within, all", worst(refused, 1.0), "ms", "<= 50", None, count),
        Figure("growth of three nodes' memory", growth, "MB", "<= 20", before, "resident, before and after"),
    ]


async def unadmitted(there: Bench, rounds: Rounds) -> list[Figure]:
    """The same when everything is begun for which there is a credit."""
    async with there.client(refuse=False) as client:
        by = await overload(there, [Load(client)], rounds)
    (got,) = by.outcomes
    how = f"{len(got.asked)} requests in {got.seconds:g} s, deadline {1000 * by.deadline_s:.0f} ms: {got}"
    goodput = percent(got.goodput, by.capacity)
    return [Figure("without admission: goodput", goodput, "% of capacity", "", by.capacity, how)]


async def shared(there: Bench, rounds: Rounds) -> list[Figure]:
    """Two clients of which one asks four times as much."""
    async with there.client() as greedy, there.client() as modest:
        loads = [Load(greedy, UNFAIR / (1 + UNFAIR)), Load(modest, 1 / (1 + UNFAIR))]
        by = await overload(there, loads, rounds)
    more, less = by.outcomes
    fair = min(len(less.asked) / less.seconds, by.capacity / 2)
    left = by.capacity - fair
    how = f"greedy: {more}; modest: {less}"
    return [
        Figure("modest client's answers", percent(less.goodput, fair), "% of its share", ">= 90", fair, how),
        Figure("greedy client's answers", percent(more.goodput, left), "% of the rest", ">= 80", left, how),
    ]


async def ranked(there: Bench, rounds: Rounds) -> list[Figure]:
    """Three classes of one client."""
    async with there.client() as client:
        by = await overload(there, [Load(client, 1.0, CLASSES)], rounds)
    (got,) = by.outcomes
    figures = [
        Figure(
            f"{priority.name.lower()} priority, answered in time",
            got.share("answered", priority),
            "%",
            ">= 97" if priority is Priority.HIGH else "",
            None,
            f"{100 * CLASSES[priority]:.0f} % of requests, {got.share('refused', priority):.1f} % refused",
        )
        for priority in CLASSES
    ]
    whole = percent(got.goodput, by.capacity)
    figures.append(Figure("goodput in three classes", whole, "% of capacity", ">= 90", by.capacity, str(got)))
    return figures


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    rounds, seed = (Rounds(2, 3.0) if options.quick else Rounds(5, 6.0)), 1
    async with bench(True, seed) as refusing, bench(False, seed) as taking:
        figures = await admitted(refusing, rounds)
        figures += await unadmitted(taking, rounds)
        figures += await shared(refusing, rounds)
        return figures + await ranked(refusing, rounds)


if __name__ == "__main__":
    run(measure, __doc__)
