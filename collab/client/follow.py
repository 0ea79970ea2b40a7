"""A client that goes along when its plan is deployed anew.

Requests under way finish on the epoch that admitted them.  One that an epoch refuses,
because it was retired or unloaded, has not been answered, so it is made again on the
epoch that came after: stages keep nothing between requests.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from collab.client.metrics import RequesterMetrics
from collab.client.participant import Participant
from collab.client.runner import DEFAULT_DEADLINE_S, PRIMARY, Result
from collab.codec.tensors import Array
from collab.core.ids import Epoch
from collab.core.plan import Plan
from collab.core.token import Priority
from collab.errors import CollabError, NodeLost, NotLoaded, Overloaded, PeerError, RequestError
from collab.telemetry.context import TraceContext


class Opened(Protocol):
    """A client of one epoch of a plan, or of one and what stands in for it."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...

    @property
    def epoch(self) -> Epoch:
        """Its epoch."""
        ...

    @property
    def granted(self) -> int:
        """Requests that may be under way at a time."""
        ...

    async def run(
        self,
        inputs: Mapping[str, Array],
        deadline_s: float = DEFAULT_DEADLINE_S,
        priority: Priority = Priority.NORMAL,
        *,
        trace: TraceContext | None = None,
        only: str = "",
    ) -> Result:
        """One inference; ``only`` by the path of that name, where it is not empty."""
        ...


OpenPlan = Callable[[Plan], Awaitable[Opened]]
ReleaseClient = Callable[[Opened], Awaitable[None]]
FetchPlan = Callable[[Plan], Awaitable["Plan | None"]]
"""From a plan that runs no longer to the one of its name that does; None where none is known."""

_AGAIN_S: Final = 0.05
"""Between two tries to open an epoch that is not committed everywhere yet."""
_LOOK_S: Final = 1.0
"""While the primary does not answer: between two looks whether another plan has taken its place."""


def takes_the_place(newer: Plan, plan: Plan, *, same_model: bool) -> bool:
    """Whether requests of a plan may go to another: of its models, or of what came of training them."""

    def models(one: Plan) -> list[tuple[str, str]]:
        return [(m.id, m.sha256 if same_model else m.lineage) for m in one.models]

    same = (newer.name, newer.inputs, newer.outputs) == (plan.name, plan.inputs, plan.outputs)
    between = not same_model or newer.built_in == plan.built_in
    return same and models(newer) == models(plan) and between


class Follower:
    """Requests of one client to whatever epoch of a plan is current.

    ``start`` before use, ``close`` after; many `run` may be under way at a time.  With
    ``same_model`` a plan of other weights is not gone to: the answers would be others.  The
    ``participant`` takes part in trials of the plan, ``metrics`` counts its requests.
    """

    def __init__(
        self,
        open_plan: OpenPlan,
        release: ReleaseClient,
        fetch_plan: FetchPlan,
        *,
        same_model: bool = False,
        participant: Participant | None = None,
        metrics: RequesterMetrics | None = None,
    ) -> None:
        self._open_plan = open_plan
        self._participant = participant
        self._metrics = metrics
        self._release = release
        self._fetch_plan = fetch_plan
        self._same_model = same_model
        self._current: Opened | None = None
        self._under_way: Counter[Opened] = Counter()
        self._switching = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    # --- life --------------------------------------------------------------------

    async def start(self, plan: Plan) -> Follower:
        """Open a plan; raises what opening raises.

        From here on it is followed.  One that is not current now is not what its user has
        seen deployed, and is refused.
        """
        self._current = await self._open_plan(plan)
        return self

    async def go_to(self, plan: Plan) -> None:
        """Have new requests go to a plan; raises what opening it raises, and nothing has changed then."""
        async with self._switching:
            before, self._current = self._current, await self._open_plan(plan)
            if before is not None and not self._under_way[before]:
                self._let_go(before)

    async def close(self) -> None:
        """Release every epoch's client; cancels what is under way."""
        if self._participant is not None:
            await self._participant.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*self._leaving, return_exceptions=True)
        clients = {*self._under_way, *([self._current] if self._current is not None else [])}
        self._current = None
        self._under_way.clear()
        await asyncio.gather(*map(self._release, clients))

    @property
    def client(self) -> Opened:
        """The client of the epoch that new requests go to."""
        assert self._current is not None, "start it first"
        return self._current

    @property
    def plan(self) -> Plan:
        """The plan that new requests go to."""
        return self.client.plan

    @property
    def epoch(self) -> Epoch:
        """The epoch that new requests go to."""
        return self.client.epoch

    @property
    def granted(self) -> int:
        """Requests that may be under way at a time."""
        return self.client.granted

    # --- requests ------------------------------------------------------------------

    async def run(
        self,
        inputs: Mapping[str, Array],
        deadline_s: float = DEFAULT_DEADLINE_S,
        priority: Priority = Priority.NORMAL,
        *,
        trace: TraceContext | None = None,
        only: str = "",
    ) -> Result:
        """One inference, as `LadderClient.run`; on the next epoch where the one at hand is gone."""
        participant, ask = self._participant, partial(self._ask, trace=trace, only=only)
        if participant is None or only or not participant.heed(self.client.plan):
            work = ask(inputs, deadline_s, priority, [])
        else:
            work = participant.run(inputs, deadline_s, priority, ask)
        return await (work if self._metrics is None else self._metrics.counted(self.plan.name, work))

    async def _ask(
        self,
        inputs: Mapping[str, Array],
        deadline_s: float,
        priority: Priority,
        went: list[Plan],
        *,
        trace: TraceContext | None = None,
        only: str = "",
    ) -> Result:
        """As `run` without trials; adds the plans that it was sent to to ``went``."""
        now = asyncio.get_running_loop().time
        start_s = now()
        until_s, tries = start_s + deadline_s, 0
        while True:
            client, tries = self.client, tries + 1
            self._under_way[client] += 1
            went.append(client.plan)
            try:
                left_s = deadline_s if tries == 1 else max(until_s - now(), 0.0)
                result = await client.run(inputs, left_s, priority, trace=trace, only=only)
                if result.via != PRIMARY and self._looking is None:
                    self._looking = asyncio.ensure_future(self._look(client))
                return result if tries == 1 else replace(result, total_ms=(now() - start_s) * 1000)
            except (NotLoaded, NodeLost, Overloaded) as error:
                if isinstance(error, Overloaded) and client.granted:
                    raise
                await self._leave(client, error, until_s)
            finally:
                self._done(client)

    async def _leave(self, client: Opened, error: RequestError, until_s: float) -> None:
        """Go to the epoch after a client's; raises its error if there is none."""
        async with self._switching:
            if self._current is not client:
                return
            plan = await self._successor(client.plan, error)
            self._current = await self._open(plan, error, until_s)

    async def _look(self, client: Opened) -> None:
        """Go to the plan that has taken the place of one whose primary does not answer, if there is one."""
        try:
            await asyncio.sleep(_LOOK_S)
            with suppress(CollabError):
                gone = NodeLost(f"plan {client.plan.name!r} is answered by what stands in for it")
                newer = await self._successor(client.plan, gone)
                async with self._switching:
                    if self._current is client:
                        self._current = await self._open_plan(newer)
                        if not self._under_way[client]:
                            self._let_go(client)
        finally:
            self._looking = None

    async def _successor(self, plan: Plan, error: CollabError) -> Plan:
        """Another plan of the name that may take the place; raises the error if none is known."""
        newer = await self._fetch_plan(plan)
        if newer is None or newer.digest == plan.digest:
            raise error
        if not takes_the_place(newer, plan, same_model=self._same_model):
            raise NotLoaded(
                f"plan {plan.name!r} was replaced by one for another model; run it with its own plan file"
            ) from error
        return newer

    async def _open(self, plan: Plan, error: RequestError, until_s: float) -> Opened:
        now = asyncio.get_running_loop().time
        while True:
            try:
                return await self._open_plan(plan)
            except (RequestError, PeerError):
                if now() + _AGAIN_S >= until_s:
                    raise error from None
            await asyncio.sleep(_AGAIN_S)

    def _done(self, client: Opened) -> None:
        """Release a client that was left when its last request is over."""
        self._under_way[client] -= 1
        if self._under_way[client] > 0:
            return
        del self._under_way[client]
        if self._current is not None and client is not self._current:
            self._let_go(client)

    def _let_go(self, client: Opened) -> None:
        self._under_way.pop(client, None)
        task = asyncio.ensure_future(self._release(client))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
