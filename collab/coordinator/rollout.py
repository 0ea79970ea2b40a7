"""A rollout at work: what `collab.updates.rollout` orders is carried out, and kept before it is.

Each step is on the disk before what it asks for begins, so that a process that takes over knows
all that may be under way.  It finds out from the nodes how far that came (`Site`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

import msgspec

from collab.coordinator.rollout_folder import RolloutFolder, event_of
from collab.errors import CollabError, Conflict, LinkLost, NodeLost, PeerUnreachable
from collab.transport.aio import timeout
from collab.updates.rollout.decide import step
from collab.updates.rollout.definition import Rollout
from collab.updates.rollout.report import changes
from collab.updates.rollout.state import (
    ENDED,
    Abort,
    Away,
    Event,
    Gone,
    Order,
    Pause,
    Restarted,
    Resume,
    RolloutState,
    Spoiled,
    Step,
    Target,
    Tick,
    Update,
)

log = logging.getLogger("collab.rollout")

_WISH_S: Final = 0.2
"""Between two looks for what other processes want."""
_LONGEST_S: Final = 60.0
_WATCH_S: Final = 60.0
"""Between two looks whether the release is still offered."""

Tell = Callable[[dict[str, Any], RolloutState], None]
"""Told of each event, and the state after it."""


class Site(Protocol):
    """What can be done with a target.

    Both raise `PeerUnreachable`, `LinkLost` or `NodeLost` where its nodes cannot be reached,
    `Conflict` where somebody else is at it, and other errors of this package where it fails.
    """

    async def update(self, target: Target) -> Event:
        """Put the release into it, unless it runs there."""

    async def take_back(self, target: Target) -> Event:
        """Put back what it ran before."""


def wanted(folder: RolloutFolder, what: Literal["pause", "abort"], by: str) -> RolloutState:
    """Pause or abort a rollout that no process is at; the caller has the lock.  Blocks."""
    before = folder.read()
    now_s = time.time()
    after = step(folder.about().rollout, before, Restarted(event_of(what, by)), now_s).state
    folder.write(after)
    folder.add_events(_told(before, after, now_s))
    return after


class Rolling:
    """One process's work at a rollout.

    Args:
        folder: the rollout's, locked by the caller.
        rollout, state: what it says.
        site: what does the work.
        tell: told of what happens.
        gone: says why the release is offered no longer, or nothing; blocks.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: RolloutFolder,
        rollout: Rollout,
        state: RolloutState,
        site: Site,
        tell: Tell,
        gone: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._site, self._tell, self._gone, self._clock = folder, site, tell, gone, clock
        self._state, self._rollout = state, rollout
        self._wait_until_s: float | None = None
        self._work: dict[str, asyncio.Task[Event]] = {}
        self._watched_s = 0.0

    async def run(self, *, stay: bool = False, wish: Pause | Resume | Abort | None = None) -> RolloutState:
        """Be at it until it has ended; with ``stay`` until cancelled, whatever others want of it.

        ``wish`` is what somebody wants before anything else happens.

        What is under way when it is cancelled, the next process finds out.
        """
        try:
            await self._see(Restarted(wish))
            while stay or self._work or self._state.phase not in ENDED:
                await self._wait()
                for name, task in list(self._work.items()):
                    if task.done():
                        del self._work[name]
                        await self._see(task.result())
                await self._hear()
                await self._watch()
                if self._wait_until_s is not None and self._clock() >= self._wait_until_s:
                    await self._see(Tick())
            return self._state
        finally:
            for task in self._work.values():
                task.cancel()
            await asyncio.gather(*self._work.values(), return_exceptions=True)

    async def _wait(self) -> None:
        """Until something ended, or it is time to look again."""
        if self._work:
            await asyncio.wait(self._work.values(), timeout=_WISH_S, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(_WISH_S)

    async def _hear(self) -> None:
        wish = await asyncio.to_thread(self._folder.wish)
        if wish is not None and wish.number > self._state.wish:
            self._state = msgspec.structs.replace(self._state, wish=wish.number)
            await self._see(event_of(wish.what, wish.by), keep=True)

    async def _watch(self) -> None:
        now_s = time.monotonic()
        if self._gone is None or self._state.phase in ENDED or now_s < self._watched_s:
            return
        self._watched_s = now_s + _WATCH_S
        try:
            reason = await asyncio.to_thread(self._gone)
        except CollabError as error:
            log.warning("whether the release is still offered is not known: %s", error)
            return
        if reason:
            await self._see(Gone(reason))

    async def _see(self, event: Event, *, keep: bool = False) -> None:
        """Take a step: keep it, tell it, and begin what it asks for."""
        now_s = self._clock()
        before, made = self._state, step(self._rollout, self._state, event, now_s)
        told = _told(before, made.state, now_s)
        if keep or made.state != before:
            await asyncio.to_thread(self._keep, made, told)
        self._state, self._wait_until_s = made.state, made.wait_until_s
        for change in told:
            self._tell(change, made.state)
        for order in made.orders:
            self._work[order.name] = asyncio.get_running_loop().create_task(self._carry_out(order))

    def _keep(self, made: Step, told: list[dict[str, Any]]) -> None:
        self._folder.write(made.state)
        self._folder.add_events(told)

    async def _carry_out(self, order: Order) -> Event:
        target, deadline_s = self._state.target(order.name), self._rollout.deadline_s
        try:
            async with timeout(deadline_s):
                if isinstance(order, Update):
                    return await self._site.update(target)
                return await self._site.take_back(target)
        except (asyncio.TimeoutError, TimeoutError):
            return Spoiled(order.name, "failed", f"nothing was decided within {deadline_s:g} s")
        except (PeerUnreachable, LinkLost, NodeLost, Conflict) as error:
            return Away(order.name, _line(error))
        except CollabError as error:
            return Spoiled(order.name, "failed", _line(error))


def _told(before: RolloutState, after: RolloutState, now_s: float) -> list[dict[str, Any]]:
    return [{"at_s": round(now_s, 3), **change} for change in changes(before, after)]


def _line(error: CollabError) -> str:
    return " ".join(str(error).split())[:400]
