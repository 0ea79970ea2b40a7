"""Which streams a node runs: those of current plans with a source of its, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from collab.core.plan import Plan
from collab.core.streams import SinkRef, SourceRef, StreamSpec
from collab.core.validate import convert_plan, validate
from collab.errors import PeerUnreachable, StoreError
from collab.node.streaming import DeclaredSink, DeclaredSource, NodeStreams
from collab.streams.frames import Frame
from collab.streams.sinks.memory import MemorySink
from collab.streams.sources.memory import MemorySource
from collab.transport.aio import timeout
from tests.unit.core.trees import chain
from tests.unit.streams.test_pump import Given, until

STREAM = StreamSpec(
    id="door", source=SourceRef(node="a", name="door"), sinks=(SinkRef(name="kept"),), policy="queue:4"
)
PLAN = validate(convert_plan(chain()).replace(streams=(STREAM,)))


@dataclass
class Node:
    """What a node knows of its plans."""

    name: str = "a"
    draining: bool = False
    loaded: dict[tuple[str, int], tuple[Plan, str]] = field(default_factory=dict)

    def commit(self, plan: Plan, epoch: int) -> None:
        self.loaded[plan.name, epoch] = (plan, "serving")

    @property
    def session(self) -> Any:
        infos = [
            SimpleNamespace(plan=name, epoch=epoch, state=state)
            for (name, epoch), (_, state) in self.loaded.items()
        ]

        def current(name: str) -> tuple[int, str] | None:
            epochs = [epoch for known, epoch in self.loaded if known == name]
            return (max(epochs), "") if epochs else None

        return SimpleNamespace(plans=lambda: infos, current=current)

    @property
    def stages(self) -> Any:
        return SimpleNamespace(plan=lambda name, epoch: self.loaded[name, epoch][0])


class Client:
    """Requests to one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.went: list[Plan] = []
        self.closed = False

    async def run(self, inputs: Any, deadline_s: float) -> Given:
        return Given({"y": np.zeros((1, 4), np.float32)})

    async def go_to(self, plan: Plan) -> None:
        self.went.append(plan)
        self.plan = plan


@dataclass
class Asked:
    """Opens clients, which it may refuse at first."""

    away: int = 0
    clients: list[Client] = field(default_factory=list)

    async def follow(self, plan: Plan) -> Client:
        if self.away:
            self.away -= 1
            raise PeerUnreachable("node 'b': away")
        self.clients.append(Client(plan))
        return self.clients[-1]

    async def unfollow(self, client: Client) -> None:
        client.closed = True


class Endless(MemorySource):
    """Frames until it is stopped."""

    def read(self) -> Frame | None:
        self._stopped.wait(0.002)
        return None if self._stopped.is_set() else Frame("f", 0, {"x": np.zeros((1, 4), np.float32)})


@dataclass
class Scene:
    node: Node
    asked: Asked
    sink: MemorySink
    streams: NodeStreams

    def state(self) -> str:
        states = self.streams.states()
        return states[0].state if states else "none"


def scene(make: Callable[[], MemorySource] = lambda: Endless([]), sink: MemorySink | None = None) -> Scene:
    node, asked, kept = Node(), Asked(), sink or MemorySink()
    sources = {"door": DeclaredSource("memory", make)}
    streams = NodeStreams(node, sources, {"kept": DeclaredSink("memory", lambda: kept)}, asked)
    return Scene(node, asked, kept, streams)


async def test_a_stream_runs_while_its_plan_is_current():
    here = scene()
    async with timeout(20), here.streams:
        assert here.state() == "none"
        here.node.commit(PLAN, 1)
        here.streams.look()
        await until(lambda: len(here.sink.answers) > 3)
        assert here.state() == "running"
        here.node.loaded.clear()
        here.streams.look()
        await until(lambda: here.state() == "none")
    assert [client.closed for client in here.asked.clients] == [True]


async def test_a_new_epoch_is_gone_on_with_and_another_stream_begins_anew():
    here = scene()
    changed = PLAN.replace(streams=(msgspec.structs.replace(STREAM, top=1),))
    async with timeout(20), here.streams:
        here.node.commit(PLAN, 1)
        here.streams.look()
        await until(lambda: here.state() == "running")
        newer = PLAN.replace(credits=7)
        here.node.commit(newer, 2)
        here.streams.look()
        await until(lambda: bool(here.asked.clients[0].went))
        assert here.asked.clients[0].went == [newer]
        here.node.commit(changed, 3)
        here.streams.look()
        await until(lambda: len(here.asked.clients) == 2 and here.state() == "running")
        assert here.asked.clients[0].closed
        assert here.asked.clients[1].plan == changed


async def test_neither_alternatives_nor_retired_plans_nor_other_nodes_streams_run():
    here = scene()
    spare = PLAN.replace(name="spare", primary=PLAN.name)
    others = PLAN.replace(
        name="others", streams=(msgspec.structs.replace(STREAM, source=SourceRef(node="b", name="door")),)
    )
    async with timeout(20), here.streams:
        here.node.commit(spare, 1)
        here.node.commit(others, 1)
        here.node.loaded[PLAN.name, 1] = (PLAN, "retired")
        for _ in range(3):
            here.streams.look()
            await asyncio.sleep(0.01)
    assert here.asked.clients == []


async def test_a_draining_node_ends_its_streams():
    here = scene()
    async with timeout(20), here.streams:
        here.node.commit(PLAN, 1)
        here.streams.look()
        await until(lambda: here.state() == "running")
        here.node.draining = True
        here.streams.look()
        await until(lambda: here.state() == "none")


async def test_two_streams_of_a_plan_share_one_client():
    here = scene()
    both = PLAN.replace(streams=(STREAM, msgspec.structs.replace(STREAM, id="again")))
    async with timeout(20), here.streams:
        here.node.commit(both, 1)
        here.streams.look()
        await until(lambda: [state.state for state in here.streams.states()] == ["running", "running"])
        assert len(here.asked.clients) == 1
        here.node.commit(both.replace(streams=(STREAM,)), 2)
        here.streams.look()
        await until(lambda: len(here.streams.states()) == 1)
        assert not here.asked.clients[0].closed
    assert here.asked.clients[0].closed


async def test_nodes_that_are_away_are_waited_for_and_said():
    here = scene()
    here.asked.away = 2
    async with timeout(20), here.streams:
        here.node.commit(PLAN, 1)
        here.streams.look()
        await until(lambda: here.state() == "opening" and bool(here.streams.states()[0].trouble))
        assert here.streams.states()[0].trouble == "node 'b': away"
        await until(lambda: here.state() == "running")


def is_in(here: Scene, state: str) -> bool:
    return here.state() == state


async def test_a_source_that_ends_and_a_sink_that_cannot_work_are_said():
    class Full(MemorySink):
        def open(self) -> None:
            raise StoreError("disk: full")

    ended = scene(lambda: MemorySource([]))
    failed = scene(sink=Full())
    for here, state, trouble in ((ended, "ended", ""), (failed, "failed", "disk: full")):
        async with timeout(20), here.streams:
            here.node.commit(PLAN, 1)
            here.streams.look()
            await until(partial(is_in, here, state))
            assert here.streams.states()[0].trouble == trouble
        assert here.asked.clients[0].closed
