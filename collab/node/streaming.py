"""The streams of this node: sources that it declares, asked through plans that name them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Final, Protocol

from collab.client.follow import Follower
from collab.codec.pb import control_pb2 as pb
from collab.core.ids import Epoch, NodeName, PlanName
from collab.core.plan import Plan
from collab.core.streams import StreamSpec, parse_policy
from collab.errors import CollabError
from collab.node.service import NodeService
from collab.streams.backoff import pause_s
from collab.streams.outbox import Outbox
from collab.streams.pump import Stream
from collab.streams.reading import FrameReader
from collab.streams.sinks.base import Sink
from collab.streams.sources.base import Source
from collab.telemetry.histogram import Counts

log = logging.getLogger("collab.node")

LOOK_S: Final = 1.0
"""Plans are compared with the streams that run at least so often."""
MAX_TROUBLE: Final = 300
"""Characters of what is said of a stream."""

Key = tuple[PlanName, str]
"""A plan and a stream of it."""


@dataclass(frozen=True)
class DeclaredSource:
    """A source of the settings."""

    kind: str
    make: Callable[[], Source]
    lacking: str = ""
    """What is missing to use it."""


@dataclass(frozen=True)
class DeclaredSink:
    """A sink of the settings."""

    kind: str
    make: Callable[[], Sink]
    lacking: str = ""


class Requests(Protocol):
    """How plans are asked: as `collab.coordinator.cluster.Cluster` does."""

    async def follow(self, plan: Plan) -> Follower:
        """Requests to a plan, and what stands in for it, as many as its streams here have under way.

        Raises `CollabError`.
        """
        ...

    async def unfollow(self, follower: Follower) -> None:
        """Close what `follow` made."""
        ...


@dataclass
class _Shared:
    """What all streams of one plan ask."""

    follower: Follower
    users: int = 0


@dataclass
class _Running:
    """One stream, from its plan's commit until that is gone."""

    spec: StreamSpec
    plan: Plan
    epoch: Epoch
    state: str = "opening"
    trouble: str = ""
    follower: Follower | None = None
    stream: Stream | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def is_for(self, spec: StreamSpec, plan: Plan) -> bool:
        """Whether it can go on as a stream of a plan: the same frames, read alike."""
        return (spec, plan.inputs, plan.outputs) == (self.spec, self.plan.inputs, self.plan.outputs)

    @property
    def shown(self) -> str:
        """``lost`` while it runs and its source is away."""
        lost = self.state == "running" and self.stream is not None and self.stream.trouble
        return "lost" if lost else self.state


class NodeStreams:
    """Runs the streams that current plans want of this node.  Use as an asynchronous context manager."""

    def __init__(
        self,
        node: NodeService,
        sources: Mapping[str, DeclaredSource],
        sinks: Mapping[str, DeclaredSink],
        requests: Requests,
    ) -> None:
        self._node = node
        self._sources, self._sinks = sources, sinks
        self._requests = requests
        self._running: dict[Key, _Running] = {}
        self._followers: dict[PlanName, _Shared] = {}
        self._opening = asyncio.Lock()
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._rng = Random()

    @property
    def sources(self) -> dict[str, str]:
        """Names with what each lacks."""
        return {name: declared.lacking for name, declared in self._sources.items()}

    @property
    def sinks(self) -> dict[str, str]:
        """Names with what each lacks."""
        return {name: declared.lacking for name, declared in self._sinks.items()}

    # --- life --------------------------------------------------------------------

    async def __aenter__(self) -> NodeStreams:
        self._looking = asyncio.get_running_loop().create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End all streams; what is under way may finish for a moment."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        await asyncio.gather(*(self._end(key) for key in tuple(self._running)))

    def look(self) -> None:
        """Plans have changed."""
        self._changed.set()

    async def _look(self) -> None:
        while True:
            self._changed.clear()
            await self._settle()
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_S)

    # --- what should run --------------------------------------------------------------

    def _wanted(self) -> dict[Key, tuple[StreamSpec, Plan, Epoch]]:
        """Streams of this node's sources in plans that are current and stand in for no other."""
        node = self._node
        found: dict[Key, tuple[StreamSpec, Plan, Epoch]] = {}
        for info in () if node.draining else node.session.plans():
            current = node.session.current(info.plan)
            if info.state != "serving" or current is None or current[0] != info.epoch:
                continue
            plan = node.stages.plan(info.plan, info.epoch)
            if plan is None or plan.primary is not None:
                continue
            for spec in plan.streams:
                if spec.source.node == node.name:
                    found[info.plan, spec.id] = (spec, plan, info.epoch)
        return found

    async def _settle(self) -> None:
        wanted = self._wanted()
        for key, running in tuple(self._running.items()):
            if key not in wanted or not running.is_for(*wanted[key][:2]):
                await self._end(key)
        for key, (spec, plan, epoch) in wanted.items():
            known = self._running.get(key)
            if known is None:
                known = self._running[key] = _Running(spec, plan, epoch)
                known.task = asyncio.get_running_loop().create_task(self._run(known))
            elif known.epoch != epoch:
                await self._go_on(known, plan, epoch)

    async def _go_on(self, running: _Running, plan: Plan, epoch: Epoch) -> None:
        """Ask the next epoch; frames under way finish on the one that they are in."""
        running.plan = plan
        follower = running.follower
        if follower is not None and follower.plan.digest != plan.digest:
            try:
                await follower.go_to(plan)
            except CollabError as error:
                # It may be there on the other nodes in a moment.
                log.info(
                    "stream %s of plan %r stays on epoch %d: %s",
                    running.spec.id,
                    plan.name,
                    running.epoch,
                    error,
                )
                return
        running.epoch = epoch

    async def _end(self, key: Key) -> None:
        running = self._running[key]
        task = running.task
        assert task is not None
        if running.stream is not None:
            running.stream.stop()
        else:
            task.cancel()
        # Whoever waits here may be cancelled; what it waits for goes on to its end.
        await asyncio.wait((task,))
        self._running.pop(key, None)
        log.info("stream %s of plan %r has stopped", key[1], key[0])

    # --- one stream ---------------------------------------------------------------------

    async def _run(self, running: _Running) -> None:
        spec = running.spec
        try:
            follower = running.follower = await self._opened(running)
            try:
                stream = running.stream = self._stream(running, follower)
                running.state, running.trouble = "running", ""
                await stream.run()
                running.state = "ended"
            finally:
                running.follower = None
                await self._leave(running.plan.name)
        except CollabError as error:
            running.state, running.trouble = "failed", str(error)
            log.warning("stream %s of plan %r does not run: %s", spec.id, running.plan.name, error)
        except Exception as error:  # a third party's sink raises whatever it raises
            running.state, running.trouble = "failed", f"{type(error).__name__}: {error}"
            log.exception("stream %s of plan %r broke", spec.id, running.plan.name)

    async def _opened(self, running: _Running) -> Follower:
        """The plan, as soon as its nodes are there."""
        failures = 0
        while True:
            try:
                return await self._join(running.plan)
            except CollabError as error:
                running.trouble = str(error)
                failures += 1
            await asyncio.sleep(pause_s(failures, self._rng))

    async def _join(self, plan: Plan) -> Follower:
        async with self._opening:
            shared = self._followers.get(plan.name)
            if shared is None:
                shared = self._followers[plan.name] = _Shared(await self._requests.follow(plan))
            shared.users += 1
            return shared.follower

    async def _leave(self, name: PlanName) -> None:
        async with self._opening:
            shared = self._followers[name]
            shared.users -= 1
            if not shared.users:
                del self._followers[name]
                await self._requests.unfollow(shared.follower)

    def _stream(self, running: _Running, follower: Follower) -> Stream:
        spec, plan = running.spec, running.plan
        return Stream(
            f"{plan.name}/{spec.id}",
            self._sources[spec.source.name].make(),
            FrameReader(plan.inputs, spec.reading),
            follower.run,
            [Outbox(sink.name, self._sinks[sink.name].make()) for sink in spec.sinks],
            policy=parse_policy(spec.policy, "policy"),
            fps=spec.fps,
            deadline_s=spec.deadline_ms / 1000,
            at_a_time=spec.concurrency,
            reading=spec.reading,
            top=spec.top,
            patient=True,
        )

    # --- what others may see --------------------------------------------------------------

    def describe(self, what: str) -> list[pb.Declared]:
        """Declared ``sources`` or ``sinks``."""
        declared: Mapping[str, DeclaredSource | DeclaredSink] = (
            self._sources if what == "sources" else self._sinks
        )
        return [pb.Declared(name=n, kind=d.kind, lacking=d.lacking) for n, d in sorted(declared.items())]

    def seconds(self) -> dict[Key, Counts]:
        """From a frame's arrival to its answer, by stream."""
        running = self._running.items()
        return {key: one.stream.seconds.counts for key, one in running if one.stream is not None}

    def states(self) -> list[pb.StreamState]:
        """Every stream with its counters."""
        return [_state(key, running) for key, running in self._running.items()]


def _state(key: Key, running: _Running) -> pb.StreamState:
    stream = running.stream
    told = pb.StreamState(
        plan=key[0],
        id=key[1],
        source=running.spec.source.name,
        state=running.shown,
        trouble=running.trouble[:MAX_TROUBLE],
    )
    if stream is None:
        return told
    told.trouble = (running.trouble or stream.trouble or stream.last_error)[:MAX_TROUBLE]
    for name, count in stream.counts.to_json().items():
        setattr(told, name, count)
    told.waiting = stream.waiting
    told.sinks.extend(
        pb.SinkState(
            name=sink.name,
            delivered=sink.delivered,
            lost=sink.lost,
            waiting=sink.waiting,
            trouble=sink.trouble[:MAX_TROUBLE],
        )
        for sink in stream.sinks
    )
    return told


def stream_name(node: NodeName) -> NodeName:
    """As whom a node asks for its streams."""
    from collab.link.hello import STREAM_SUFFIX

    return NodeName(f"{node}{STREAM_SUFFIX}")
