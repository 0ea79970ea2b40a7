"""Asks on a host of an emulated network, in a process of its own: measures, deploys, runs a workload."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import msgspec

from collab.client.policy import RetryPolicy
from collab.client.runner import PlanClient, Result
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy, undeploy
from collab.coordinator.planning import open_model, stage_blobs
from collab.coordinator.profiling import Profiling, Settings
from collab.core.ids import NodeName
from collab.core.plan import Plan, from_json
from collab.emulation.orders import (
    MAX_LINE,
    Answer,
    Ask,
    Asked,
    Close,
    Deploy,
    DeskSettings,
    Done,
    Failed,
    Measure,
    Open,
    Order,
)
from collab.emulation.results import Asking, HopTime
from collab.errors import CollabError, UsageError
from collab.graph import random_inputs
from collab.runtime.litert import LiteRT
from collab.transport.aio import TaskGroup

_INPUTS: Final = 8
_LEAST_PAUSE_S: Final = 0.001
"""After a failure: a refused request must not be asked again in the same instant, for ever."""
_DRAIN_S: Final = 2.0
_ORDERS: Final = msgspec.json.Decoder(Order)

Say = Callable[[Answer], None]


class Desk:
    """Carries out orders, one at a time."""

    def __init__(self, settings: DeskSettings, cluster: Cluster, say: Say) -> None:
        self._settings, self._cluster, self._say = settings, cluster, say
        self._plan: Plan | None = None
        self._client: PlanClient | None = None
        self._inputs: list[dict[str, object]] = []

    async def obey(self, order: Order) -> Answer:
        """Carry out one order."""
        try:
            if isinstance(order, Measure):
                return await self._measure(order)
            if isinstance(order, Deploy):
                await self._deploy(order)
            elif isinstance(order, Open):
                await self._open(order)
            elif isinstance(order, Ask):
                await self._ask(order)
            elif isinstance(order, Close):
                await self._close()
            elif self._plan is not None:
                await undeploy(self._cluster, self._plan, _DRAIN_S)
                self._plan = None
        except CollabError as error:
            return Failed(error.code, str(error))
        return Done()

    async def _measure(self, order: Measure) -> Done:
        """All nodes' times; links are emulated, so they are known."""
        path, warnings = Path(self._settings.model), list[str]()
        graph = await asyncio.to_thread(open_model, path)
        names = [NodeName(name) for name in self._settings.endpoints]
        for name in names:
            await self._cluster.links.connect_any(self._settings.endpoints[name], name)
        views = await self._cluster.describe(names)
        settings = Settings(
            codecs=order.codecs,
            rounds=3,
            runs=3,
            budget_ms=40.0,
            share=1.0,
            requester=NodeName(self._settings.host),
            seed=self._settings.seed,
            links=False,
        )
        work = Profiling(
            self._cluster,
            [views[name] for name in names],
            graph,
            settings,
            now=lambda: datetime.now(timezone.utc),
            backend=LiteRT(),
            warn=warnings.append,
        )
        return Done(await work.run(path), tuple(warnings))

    async def _deploy(self, order: Deploy) -> None:
        plan = await asyncio.to_thread(_read, order.plan)
        blobs = await asyncio.to_thread(stage_blobs, plan, Path(order.folder))
        await deploy(self._cluster, plan, blobs)
        self._plan = plan

    async def _open(self, order: Open) -> None:
        plan = await asyncio.to_thread(_read, order.plan)
        graph = await asyncio.to_thread(open_model, Path(self._settings.model))
        drawn = random_inputs(plan.inputs, quantised=graph.quantised, seed=self._settings.seed, count=_INPUTS)
        names = [spec.name for spec in plan.inputs]
        self._inputs = [dict(zip(names, arrays, strict=True)) for arrays in drawn]
        retry = RetryPolicy(max_attempts=self._settings.attempts, hedge=self._settings.hedge)
        self._client = await self._cluster.open(plan, order.credits, retry)

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await self._cluster.release(client)

    # --- asking ------------------------------------------------------------------------

    async def _ask(self, order: Ask) -> None:
        turns = order.turns
        async with TaskGroup() as group:
            if turns.slots:
                numbers = (
                    itertools.count(turns.first, turns.step)
                    if turns.requests is None
                    else iter(range(turns.first, turns.requests, turns.step))
                )
                for _ in range(turns.slots):
                    group.create_task(self._slot(order, numbers))
            for number, at_us in turns.at:
                await _until(order.begin_s + at_us / 1e6)
                group.create_task(self._request(order, number))

    async def _slot(self, order: Ask, numbers: Iterator[int]) -> None:
        """One request after another."""
        turns, loop = order.turns, asyncio.get_running_loop()
        end_s = None if turns.duration_s is None else order.begin_s + turns.duration_s
        await _until(order.begin_s)
        for number in numbers:
            if end_s is not None and loop.time() >= end_s:
                return
            answered = await self._request(order, number)
            pause_s = turns.think_ms / 1e3 if answered else max(turns.think_ms / 1e3, _LEAST_PAUSE_S)
            if pause_s:
                await asyncio.sleep(pause_s)

    async def _request(self, order: Ask, number: int) -> bool:
        """Ask once, and say what came of it; whether there is an answer."""
        client, loop = self._client, asyncio.get_running_loop()
        if client is None:
            raise UsageError("ask: no plan is open; open one first")
        given = self._inputs[number % len(self._inputs)]
        begun_s, attempts, result = loop.time(), 1, None
        try:
            result = await client.run(given, self._settings.deadline_ms / 1e3)  # type: ignore[arg-type]
            outcome = "ok" if result.absent is None else "absent"
        except CollabError as error:
            outcome, attempts = error.code, max(1, error.attempts)
        asking = Asking(
            plan=client.plan.name,
            repetition=order.repetition,
            request=number,
            requester=self._settings.host,
            start_ms=(begun_s - order.begin_s) * 1e3,
            latency_ms=(loop.time() - begun_s) * 1e3,
            outcome=outcome,
            attempts=attempts if result is None else result.attempts,
            hedged=result is not None and result.hedged,
            path=() if result is None else tuple(map(str, result.path)),
            hops=() if result is None else hop_times(client.plan, result),
        )
        self._say(Asked(asking))
        return result is not None


def hop_times(plan: Plan, result: Result) -> tuple[HopTime, ...]:
    """Hops of an answer as results keep them."""
    return tuple(
        HopTime(
            plan.stages[hop.stage].id,
            hop.node,
            hop.queue_us / 1e3,
            hop.decode_us / 1e3,
            hop.compute_us / 1e3,
            hop.encode_us / 1e3,
        )
        for hop in result.hops
    )


def _read(file: str) -> Plan:
    return from_json(Path(file).read_bytes())


async def _until(when_s: float) -> None:
    rest_s = when_s - asyncio.get_running_loop().time()
    if rest_s > 0:
        await asyncio.sleep(rest_s)


async def serve(settings: DeskSettings, cluster: Cluster) -> None:
    """Carry out orders from standard input until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    desk = Desk(settings, cluster, say)
    try:
        say(Done())
        while line := await reader.readline():
            say(await desk.obey(_ORDERS.decode(line)))
    finally:
        transport.close()


def say(answer: Answer) -> None:
    """Write an answer to standard output."""
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
