"""Requests of foreign clients through whole plans, with this process as the requester.

The node dials itself and the plan's other nodes as any client does: one way to run a
request, with its admission, retries and deadlines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from collab.client.hub import ClientHub
from collab.client.participant import Participant
from collab.client.runner import PlanClient, Result
from collab.client.wiring import entry
from collab.codec.tensors import Array
from collab.core.ids import Epoch, NodeName, PlanName
from collab.core.plan import Plan
from collab.core.token import Priority
from collab.errors import CollabError, NotLoaded, Overloaded, PeerUnreachable
from collab.link.link import Handler
from collab.link.links import Links
from collab.node.service import NodeService
from collab.transport.aio import TaskGroup, timeout

MakeLinks = Callable[[Handler], Links]

CREDITS: Final = 4
"""Requests of foreign clients under way at a time, for each plan; the rest is other requesters'."""
WAITING: Final = 16
"""Requests that may wait for those, for each plan."""
IDLE_S: Final = 10.0
"""A plan that nobody asked for so long gives its credits back."""
_LINK_WAIT_S: Final = 3.0


@dataclass
class _Open:
    client: PlanClient
    free: asyncio.Semaphore
    users: int = 0
    idle: asyncio.TimerHandle | None = None


class Runner:
    """Opens plans when they are first asked for.  Use as an asynchronous context manager."""

    def __init__(self, node: NodeService, make_links: MakeLinks) -> None:
        self._node = node
        self._hub = ClientHub()
        self._links = make_links(self._hub)
        self._hub.links = self._links
        self._open: dict[tuple[PlanName, Epoch], _Open] = {}
        self._participants: dict[PlanName, Participant] = {}
        self._opening = asyncio.Lock()
        self._tasks = TaskGroup()

    async def __aenter__(self) -> Runner:
        await self._links.__aenter__()
        try:
            await self._tasks.__aenter__()
        except BaseException:
            await self._links.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for key in tuple(self._open):
                await self._close(key)
            await self._tasks.__aexit__(None, None, None)
        finally:
            await self._links.__aexit__(None, None, None)

    async def run(self, plan: Plan, epoch: Epoch, inputs: Mapping[str, Array], deadline_s: float) -> Result:
        """One inference; raises as `PlanClient.run`, `PeerUnreachable` if a plan's entry is."""
        key = (plan.name, epoch)
        try:
            async with timeout(deadline_s), self._opening:
                opened = self._open.get(key)
                if opened is None:
                    opened = self._open[key] = await self._opened(plan, epoch)
        except (TimeoutError, asyncio.TimeoutError):
            raise Overloaded(f"plan {plan.name!r} could not be opened in time; try again") from None
        if opened.users >= CREDITS + WAITING:
            raise Overloaded(f"plan {plan.name!r}: too many requests wait; try again later")
        if opened.idle is not None:
            opened.idle.cancel()
            opened.idle = None
        opened.users += 1
        try:
            async with opened.free:
                return await self._run(opened.client, inputs, deadline_s)
        finally:
            opened.users -= 1
            if not opened.users:
                loop = asyncio.get_running_loop()
                opened.idle = loop.call_later(IDLE_S, self._idle, key)

    async def _run(self, client: PlanClient, inputs: Mapping[str, Array], deadline_s: float) -> Result:
        """One inference, which may be part of a trial."""
        plan = client.plan

        async def old(
            inputs: Mapping[str, Array], deadline_s: float, priority: Priority, went: list[Plan]
        ) -> Result:
            went.append(plan)
            return await client.run(inputs, deadline_s, priority)

        participant = self._participants.get(plan.name)
        if participant is None:
            participant = Participant(self._links, self._open_candidate, self._release)
            self._participants[plan.name] = participant
        if not participant.heed(plan):
            return await client.run(inputs, deadline_s)
        return await participant.run(inputs, deadline_s, Priority.NORMAL, old)

    async def _open_candidate(self, candidate: Plan) -> PlanClient:
        current = self._node.session.current(candidate.name)
        if current is None:
            raise NotLoaded(f"candidate {candidate.name!r} is not deployed on node {self._node.name!r}")
        return (await self._opened(candidate, current[0], credits=1)).client

    async def _opened(self, plan: Plan, epoch: Epoch, credits: int = CREDITS) -> _Open:
        wanted = self._reach(plan)
        with suppress(TimeoutError, asyncio.TimeoutError):
            async with timeout(_LINK_WAIT_S):
                await asyncio.gather(*(self._links.wait_for(*link) for link in wanted))
        enters = plan.stage(entry(plan)).nodes
        if all(self._links.get(name) is None for name in enters):
            raise PeerUnreachable(f"plan {plan.name!r}: none of {', '.join(enters)} can be reached from here")
        client = PlanClient(self._links, plan, epoch)
        for ref in plan.nodes:
            if self._links.get(ref.name) is None:
                client.node_down(ref.name)
        self._hub.add(client)
        try:
            await client.open(min(credits, plan.credits))
        except BaseException:
            self._hub.remove(client)
            await client.close()
            raise
        return _Open(client, asyncio.Semaphore(max(1, client.granted)))

    def _reach(self, plan: Plan) -> list[tuple[NodeName, str]]:
        """Keep links to all of a plan's nodes; names and transports."""
        endpoints = plan.endpoints() | {self._node.name: tuple(self._node.endpoints)}
        kinds = plan.requester_kinds()
        return [
            (ref.name, self._links.keep_peer(ref.name, endpoints[ref.name], kind))
            for ref in plan.nodes
            for kind in kinds.get(ref.name, {""})
            if endpoints[ref.name]
        ]

    def _idle(self, key: tuple[PlanName, Epoch]) -> None:
        self._tasks.create_task(self._close_idle(key))

    async def _close_idle(self, key: tuple[PlanName, Epoch]) -> None:
        async with self._opening:
            if key in self._open and not self._open[key].users:
                await self._close(key)

    async def _close(self, key: tuple[PlanName, Epoch]) -> None:
        opened = self._open.pop(key)
        if opened.idle is not None:
            opened.idle.cancel()
        await self._release(opened.client)
        name = key[0]
        if name in self._participants and all(other != name for other, _ in self._open):
            await self._participants.pop(name).close()

    async def _release(self, client: PlanClient) -> None:
        with suppress(CollabError):
            await client.close()
        self._hub.remove(client)
