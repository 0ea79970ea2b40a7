"""Takes part in the trials of one plan, for a client that follows it: performs what `Witness` decides."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from collab.client.control import Control
from collab.client.runner import CANDIDATE, PRIMARY, Result
from collab.client.trial import Ask, Seen, Witness, blame, judged
from collab.codec.tensors import Array
from collab.core.ids import NodeName
from collab.core.plan import Plan
from collab.core.token import Priority
from collab.errors import (
    BackendError,
    CollabError,
    DeadlineExceeded,
    ProtocolError,
    Refused,
    StageFailed,
)
from collab.link.links import Links
from collab.link.suspicion import Health
from collab.transport.aio import timeout
from collab.updates.health.agreement import finite
from collab.updates.health.gate import Failed, Served

log = logging.getLogger("collab.client")

LOOK_S: Final = 2.0
"""Between two looks for a trial while there are requests."""
_FIRST_LOOK_S: Final = 0.2
"""After the first request: a process that is done by then would see nothing of a trial."""
_UNKNOWN_S: Final = 60.0
"""Until a node is asked again that does not know of trials, or does not tell."""
_LAST_S: Final = 1.0
"""For the last report, when the client is closed."""
_WARM: Final = 2
"""Requests to a candidate that has just been opened which are not counted: links open, caches fill."""
_TIMES: Final = 20.0
_AT_LEAST_S: Final = 1.0
_AT_MOST_S: Final = 30.0
"""A candidate's answer is waited for that many times as long as the old one's, within these bounds."""
_HERE_BYTES: Final = 64 * 1024
"""Answers over this are compared in another thread."""

Inputs = Mapping[str, Array]


class Candidate(Protocol):
    """A client of the candidate's plan."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...

    async def run(self, inputs: Inputs, deadline_s: float, priority: Priority) -> Result:
        """One inference."""
        ...


OpenCandidate = Callable[[Plan], Awaitable[Any]]
"""Gives a `Candidate`, with room for one request at a time."""
ReleaseCandidate = Callable[[Any], Awaitable[None]]


class Old(Protocol):
    """A request as it is without trials."""

    async def __call__(
        self, inputs: Inputs, deadline_s: float, priority: Priority, went: list[Plan]
    ) -> Result:
        """Answers it; the plans that it was sent to are added to ``went``, the last to answer last."""
        ...


class Participant:
    """One requester's part in the trials of one plan.  `close` in the end.

    Args:
        links: to the plan's nodes.
        open_candidate, release: a client of a candidate's plan.
    """

    def __init__(self, links: Links, open_candidate: OpenCandidate, release: ReleaseCandidate) -> None:
        self._links, self._open, self._release = links, open_candidate, release
        self._witness = Witness()
        self._candidate: Candidate | None = None
        self._plan: Plan | None = None
        """Of the candidate that is open."""
        self._running: Plan | None = None
        """What the last request went to."""
        self._asked = False
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reported: object = None
        self._not_before_s: dict[NodeName, float] = {}

    async def close(self) -> None:
        """Report what was seen last, and let go of the candidate; never raises."""
        if self._watching is not None:
            self._watching.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *filter(None, [self._watching]), return_exceptions=True)
        if self._news:
            with suppress(TimeoutError, asyncio.TimeoutError):
                async with timeout(_LAST_S):
                    await self._look()
        await self._drop()

    # --- what nodes say -----------------------------------------------------------

    def heed(self, plan: Plan) -> bool:
        """Whether the next request to a plan is part of a trial; called for each, it has nodes asked."""
        self._asked, self._running = True, plan
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        return self._witness.active

    @property
    def _news(self) -> bool:
        counts = self._witness.counts
        return counts is not None and counts != self._reported

    async def _watch(self) -> None:
        """Ask as long as there are requests, something to report, or a candidate to let go of."""
        try:
            await asyncio.sleep(_FIRST_LOOK_S)
            while self._asked or self._news or self._candidate is not None:
                self._asked = False
                await self._look()
                await self._tidy()
                await asyncio.sleep(LOOK_S)
        finally:
            self._watching = None

    async def _look(self) -> None:
        """Report to a node of the plan, and hear of its trial; what fails is tried at the next look."""
        plan = self._running
        if plan is None:
            return
        now_s, me = asyncio.get_running_loop().time(), self._links.identity.name
        known, counts = self._witness.trial, self._witness.counts
        for name in _in_turn(me, (ref.name for ref in plan.nodes)):
            link = self._links.get(name)
            if link is None or link.health is Health.SUSPECTED or now_s < self._not_before_s.get(name, 0.0):
                continue
            try:
                trial = await Control(link).observe(plan.name, known, counts)
            except (ProtocolError, Refused) as error:
                self._not_before_s[name] = now_s + _UNKNOWN_S
                log.debug("node %s does not tell of trials: %s", name, error)
            except CollabError as error:
                log.debug("node %s does not tell of trials now: %s", name, error)
            else:
                self._reported = counts
                self._witness.told(trial)
            return

    async def _tidy(self) -> None:
        """Let go of a candidate that is asked no longer."""
        if self._witness.wants != self._plan:
            await self._drop()

    async def _drop(self) -> None:
        candidate, self._candidate, self._plan = self._candidate, None, None
        if candidate is not None:
            self._witness.closed()
            with suppress(CollabError):
                await self._release(candidate)

    # --- requests -------------------------------------------------------------------

    async def run(self, inputs: Inputs, deadline_s: float, priority: Priority, old: Old) -> Result:
        """One request while there is a trial; raises what ``old`` raises."""
        ask = self._witness.route(asyncio.get_running_loop().time())
        if ask is not None and ask.way == "alone":
            return await self._alone(ask, inputs, deadline_s, priority, old)
        if ask is None or ask.way == "old":
            return await old(inputs, deadline_s, priority, [])
        # The arrays are the requester's, who may write the next request into them.
        given = {name: array.copy() for name, array in inputs.items()}
        if ask.way == "first" and self._candidate is not None:
            return await self._first(ask, self._candidate, given, deadline_s, priority, old)
        try:
            result = await old(inputs, deadline_s, priority, [])
        except BaseException:
            self._witness.saw(ask, None)
            raise
        if result.via != PRIMARY or result.absent is not None:
            self._witness.saw(ask, None)
        elif ask.way == "open":
            self._spawn(self._try_to_open(ask, given, priority))
        else:
            self._spawn(self._copy(ask, given, result, priority))
        return result

    async def _alone(
        self, ask: Ask, inputs: Inputs, deadline_s: float, priority: Priority, old: Old
    ) -> Result:
        """What was committed answers, and nothing checks it but its own errors and numbers."""
        went: list[Plan] = []
        try:
            result = await old(inputs, deadline_s, priority, went)
        except (StageFailed, BackendError) as error:
            if went and self._witness.is_new(went[-1]):
                self._witness.saw(ask, Failed(str(error)))
            raise
        if result.via == PRIMARY and result.absent is None and went and self._witness.is_new(went[-1]):
            self._witness.saw(ask, Served(_finite(result)))
        return result

    async def _first(
        self,
        ask: Ask,
        candidate: Candidate,
        inputs: Inputs,
        deadline_s: float,
        priority: Priority,
        old: Old,
    ) -> Result:
        """Both begin at once; the candidate's answer is taken if it is finite and not much later."""
        now = asyncio.get_running_loop().time
        begun_s = now()
        new = asyncio.ensure_future(candidate.run(inputs, deadline_s, priority))
        kept = asyncio.ensure_future(old(inputs, deadline_s, priority, []))
        try:
            # Even if the candidate is sooner: the user's next request counts on the plan's credit.
            await asyncio.wait({kept})
            if _usable(kept) and not new.done():
                left_s = begun_s + ask.bounds.slow_factor * kept.result().total_ms / 1000 - now()
                await asyncio.wait({new}, timeout=max(left_s, 0.0))
        except asyncio.CancelledError:
            new.cancel()
            kept.cancel()
            await asyncio.gather(new, kept, return_exceptions=True)
            self._witness.saw(ask, None)
            raise
        self._spawn(self._settle(ask, kept, new))
        if _usable(new):
            via = f"{CANDIDATE}{candidate.plan.name}"
            return replace(new.result(), via=via, total_ms=(now() - begun_s) * 1000)
        return replace(kept.result(), total_ms=(now() - begun_s) * 1000)

    # --- behind the requests ------------------------------------------------------------

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try_to_open(self, ask: Ask, inputs: Inputs, priority: Priority) -> None:
        """Open the candidate, and warm it up with a request's inputs."""
        plan, seen, opened = self._witness.wants, None, False
        try:
            if plan is None:
                return
            seen = self._misfit(plan)
            if seen is not None:
                return
            self._candidate, self._plan = await self._open(plan), plan
            for _ in range(_WARM):
                await self._candidate.run(inputs, _AT_MOST_S, priority)
            opened = True
        except CollabError as error:
            seen = blame(error)
            log.info("candidate %r cannot be asked: %s", plan.name if plan is not None else "", error)
        finally:
            if opened and plan is not None:
                self._witness.opened(plan)
            elif seen is not None or plan is None:
                self._witness.saw(ask, seen)
            else:
                self._witness.postponed(asyncio.get_running_loop().time())
        if not opened:
            await self._drop()

    def _misfit(self, candidate: Plan) -> Failed | None:
        running = self._running
        if running is None or (running.inputs, running.outputs) == (candidate.inputs, candidate.outputs):
            return None
        return Failed("its inputs or outputs are not those of the plan that runs")

    async def _copy(self, ask: Ask, inputs: Inputs, old: Result, priority: Priority) -> None:
        """Ask the candidate what the plan has answered."""
        seen: Seen = None
        try:
            if self._candidate is not None:
                new = await _answer(self._candidate.run(inputs, _patience_s(old.total_ms), priority))
                seen = await _compared(old, new)
        finally:
            self._witness.saw(ask, seen)

    async def _settle(self, ask: Ask, kept: asyncio.Future[Result], new: asyncio.Future[Result]) -> None:
        """Compare, once both have answered."""
        seen: Seen = None
        try:
            old = await _answer(kept)
            if isinstance(old, CollabError) or old.via != PRIMARY or old.absent is not None:
                return
            try:
                async with timeout(_patience_s(old.total_ms)):
                    came = await _answer(new)
            except (TimeoutError, asyncio.TimeoutError):
                came = DeadlineExceeded("the candidate has not answered")
            seen = await _compared(old, came)
        finally:
            for task in (kept, new):
                task.cancel()
            await asyncio.gather(kept, new, return_exceptions=True)
            self._witness.saw(ask, seen)


def _in_turn(me: NodeName, names: Iterable[NodeName]) -> list[NodeName]:
    """Names in an order of which each requester has its own first, so that they spread over the nodes."""
    found = list(names)
    first = zlib.crc32(me.encode()) % len(found)
    return found[first:] + found[:first]


async def _answer(work: Awaitable[Result]) -> Result | CollabError:
    try:
        return await work
    except CollabError as error:
        return error


async def _compared(old: Result, new: Result | CollabError) -> Seen:
    """What one request says of the candidate; large answers are compared in another thread."""
    given = list(old.outputs.values())
    if isinstance(new, CollabError):
        return judged(given, _own_ms(old), new, 0.0)
    made = [new.outputs[name] for name in old.outputs if name in new.outputs]
    if sum(array.nbytes for array in given) > _HERE_BYTES:
        return await asyncio.to_thread(judged, given, _own_ms(old), made, _own_ms(new))
    return judged(given, _own_ms(old), made, _own_ms(new))


def _own_ms(result: Result) -> float:
    """What an answer took without waiting for others: the candidate's requests come one by one."""
    return result.total_ms - sum(hop.queue_us for hop in result.hops) / 1000


def _finite(result: Result) -> bool:
    return finite(list(result.outputs.values()))


def _usable(future: asyncio.Future[Result]) -> bool:
    """Whether there is an answer that may go to a user."""
    if not future.done() or future.cancelled() or future.exception() is not None:
        return False
    return future.result().absent is None and _finite(future.result())


def _patience_s(old_ms: float) -> float:
    return min(max(_TIMES * old_ms / 1000, _AT_LEAST_S), _AT_MOST_S)
