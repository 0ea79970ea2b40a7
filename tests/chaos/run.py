"""One run: a cluster, a load, a schedule of faults, and what came of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos.client import Held
from tests.chaos.schedule import Fault, broker_links, direct_links, schedule
from tests.chaos.world import ClientProcess, World
from tests.integration.processes import NodeProcess

STAGES: Final = (("a", "b"), ("c", "d"), ("e", "f"))
CONCURRENCY: Final = 8
DEADLINE_S: Final = 10.0
WARM_UP: Final = 500
"""Answers before what processes hold is written down."""
WELL_S: Final = 40.0
"""After a fault, for its nodes to be linked again."""
USED_S: Final = 20.0
"""After the last fault, for every node to have its share of the requests."""
SETTLED_S: Final = 20.0
"""After the load, for what it opened to be closed."""

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What a run has shown."""

    seed: int
    seconds: float
    report: dict[str, Any]
    """Of the client: see `tests.chaos.client.Client.report`."""
    faults: Counter[str]
    held_back_s: float
    """By how much the faults came later than scheduled, because earlier ones took longer to repair."""
    before: dict[str, Held] = field(default_factory=dict)
    after: dict[str, Held] = field(default_factory=dict)
    restarted: frozenset[str] = frozenset()

    def lines(self) -> list[str]:
        """For people."""
        report, latency = self.report, self.report["latency_ms"]
        counters = report["counters"]
        names = ("retries", "hedged", "late", "unpaid", "waited", "forged")
        growth = {
            name: f"{100 * (self.after[name].resident_bytes / held.resident_bytes - 1):+.1f} %"
            for name, held in self.before.items()
        }
        return [
            f"seed {self.seed}, {self.seconds:.0f} s, concurrency {CONCURRENCY}: {report['asked']} asked, "
            f"{report['answers']} answered, availability {100 * report['availability']:.4f} %",
            ", ".join(f"{name} {report[name]}" for name in ("wrong", "lost", "twice", "errors")),
            "latency ms: " + ", ".join(f"{name} {value:.1f}" for name, value in latency.items()),
            f"longest stall {report['stall_s']:.3f} s",
            f"{self.faults.total()} faults: " + ", ".join(f"{n} {k}" for k, n in sorted(self.faults.items())),
            ", ".join(f"{name} {counters[name]}" for name in names),
            f"memory: {growth}; faults held back {self.held_back_s:.1f} s",
        ]


class _Faults:
    """Injects a schedule, never more at once than the schedule means to."""

    def __init__(self, world: World, client: ClientProcess, faults: tuple[Fault, ...], say: Say) -> None:
        self._world = world
        self._client = client
        self._faults = faults
        self._say = say
        self._going: dict[Fault, asyncio.Task[None]] = {}
        self.held_back_s = 0.0
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        try:
            for fault in self._faults:
                await asyncio.sleep(max(0.0, start_s + self.held_back_s + fault.at_s - loop.time()))
                overdue = [task for other, task in self._going.items() if other.sound_again_s <= fault.at_s]
                for task in overdue:
                    await task
                self.held_back_s = max(self.held_back_s, loop.time() - start_s - fault.at_s)
                self._say(f"{await self._client.ask('now'):.2f}  {fault}")
                self._going = {f: t for f, t in self._going.items() if not t.done()}
                self._going[fault] = asyncio.ensure_future(self._one(fault))
            for task in self._going.values():
                await task
        finally:
            for task in self._going.values():
                task.cancel()
            await asyncio.gather(*self._going.values(), return_exceptions=True)

    async def _one(self, fault: Fault) -> None:
        """A fault, until its nodes are sound again."""
        loop = asyncio.get_running_loop()
        self.done[fault.kind.value] += 1
        begin_s = loop.time()
        await self._world.inject(fault)
        until_s = loop.time() + WELL_S
        while fault.harmed - set(await self._client.ask("well")):
            assert loop.time() < until_s, f"{fault}: no link again within {WELL_S} s"
            await asyncio.sleep(0.2)
        await asyncio.sleep(max(0.0, begin_s + fault.sound_again_s - fault.at_s - loop.time()))


async def run(
    folder: Path,
    seed: int,
    seconds: float,
    say: Say,
    *,
    scheme: str = "grpc",
) -> Outcome:
    """A whole run; raises AssertionError where the cluster does not come back."""
    links = broker_links(STAGES) if scheme == "mqtts" else direct_links(STAGES)
    faults = schedule(seed, seconds, STAGES, links)
    say(f"chaos over {scheme}: seed {seed}, {seconds:.0f} s, {len(faults)} faults")
    for fault in faults:
        say(str(fault))
    async with World(folder, STAGES, seed=seed, scheme=scheme) as world:
        settings = {"concurrency": CONCURRENCY, "deadline_s": DEADLINE_S}
        async with world.client(**settings) as client:
            await client.ask("begin")
            await client.ask("answers", more=WARM_UP)
            await client.ask("pause")
            before = await _held(world, client)
            await client.ask("begin")
            injected = _Faults(world, client, faults, say)
            await injected.run()
            for name in world.names:
                await client.ask("uses", node=name, within_s=USED_S)
            await client.ask("pause")
            report = await client.ask("report")
            pids = {name: node.process.pid for name, node in world.nodes.items()}
            after = await _settled(world, client, before)
            restarted = frozenset(f.target for f in faults if f.kind.value in ("kill", "restart"))
            assert pids == {name: node.process.pid for name, node in world.nodes.items()}
        return Outcome(seed, seconds, report, injected.done, injected.held_back_s, before, after, restarted)


async def _held(world: World, client: ClientProcess) -> dict[str, Held]:
    """What every process holds."""
    nodes: list[NodeProcess] = list(world.nodes.values())
    held = {node.name: await asyncio.to_thread(Held.of, node.process.pid) for node in nodes}
    return held | {"client": Held(**await client.ask("held"))}


async def _settled(world: World, client: ClientProcess, before: dict[str, Held]) -> dict[str, Held]:
    """What every process holds when nothing more is closed."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + SETTLED_S
    while True:
        after = await _held(world, client)
        if not leaks(before, after) or loop.time() > until_s:
            return after
        await asyncio.sleep(0.5)


SPARE_DESCRIPTORS: Final = 3
"""A link that is just being dialled anew, and what gRPC keeps open for a while."""
SPARE_THREADS: Final = 4
"""Of gRPC's own pool."""
MEMORY: Final = 1.25
"""Times what was resident after the warm-up."""


def leaks(before: dict[str, Held], after: dict[str, Held]) -> list[str]:
    """What has grown beyond what is spare; one line each."""
    found = []
    for name, old in before.items():
        new = after[name]
        for what, had, has, most in (
            ("descriptors", old.descriptors, new.descriptors, old.descriptors + SPARE_DESCRIPTORS),
            ("threads", old.threads, new.threads, old.threads + SPARE_THREADS),
            ("tasks", old.tasks, new.tasks, old.tasks),
            ("resident bytes", old.resident_bytes, new.resident_bytes, MEMORY * old.resident_bytes),
        ):
            if has > most:
                found.append(f"{name}: {what} {had} before, {has} after")
    return found
