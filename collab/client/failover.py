"""Requests of one client to a plan and what stands in for it: performs what the ladder decides."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from collab.client.budget import RetryBudget
from collab.client.ladder import AGAIN_S, LOCAL, WAIT, Climb, Ladder
from collab.client.local import LocalModel
from collab.client.policy import RetryPolicy
from collab.client.runner import DEFAULT_DEADLINE_S, PRIMARY, PlanClient, Result
from collab.codec.tensors import Array
from collab.core.ids import Epoch
from collab.core.plan import Plan
from collab.core.token import Priority
from collab.errors import CollabError, NodeLost, PeerError
from collab.link.link import now_us
from collab.telemetry.context import TraceContext

if TYPE_CHECKING:
    from collab.telemetry.export import Tracer

log = logging.getLogger("collab.client")

OpenRung = Callable[[Plan, RetryPolicy, RetryBudget], Awaitable[PlanClient]]
ReleaseRung = Callable[[PlanClient], Awaitable[None]]

_AGAIN_S: Final = 0.5
_LONGEST_AGAIN_S: Final = 5.0
"""Between two tries to open what could not be opened; doubled each time, up to this."""


class LadderClient:
    """Requests to a plan, else to an alternative, else to the whole model here.

    ``open`` before use, ``close`` after; many `run` may be under way at a time.  All rungs are
    open from the start, with links and leases of their own, so that changing over costs nothing.
    """

    def __init__(
        self,
        plan: Plan,
        open_rung: OpenRung,
        release: ReleaseRung,
        retry: RetryPolicy = RetryPolicy(),
        local: LocalModel | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.plan = plan
        self._tracer = tracer
        self._plans = plan.family
        self._open_rung = open_rung
        self._release = release
        self._retry = retry
        self._local = local
        self._budget = retry.budget(plan)
        self._clients: dict[int, PlanClient] = {}
        self._ladder = Ladder(len(self._plans), retry.max_attempts, self._budget, local=local is not None)
        self._opening: asyncio.Task[None] | None = None

    # --- life --------------------------------------------------------------------

    async def open(self) -> LadderClient:
        """Open every rung that can be; the others are tried again later.

        Raises what opening the primary raises, unless it is that a node cannot be reached and
        something else serves.
        """
        unreachable: PeerError | None = None
        try:
            for rung in range(len(self._plans)):
                try:
                    self._clients[rung] = await self._opened(rung)
                except PeerError as error:
                    unreachable = unreachable or error
                except CollabError as error:
                    if not rung:
                        raise
                    log.warning("alternative %r cannot be used: %s", self._plans[rung].name, error)
            if unreachable is not None and not self._clients and self._local is None:
                raise unreachable
        except BaseException:
            await self.close()
            raise
        if len(self._clients) < len(self._plans):
            self._opening = asyncio.ensure_future(self._open_others())
        return self

    async def close(self) -> None:
        """Release all rungs; never raises."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        clients = tuple(self._clients.values())
        self._clients.clear()
        await asyncio.gather(*map(self._release, clients), return_exceptions=True)

    async def _opened(self, rung: int) -> PlanClient:
        """Where another rung is left, an answer that may still come is not waited for."""
        last = rung == len(self._plans) - 1 and self._local is None
        retry = self._retry if last else replace(self._retry, grace_us=0)
        return await self._open_rung(self._plans[rung], retry, self._budget)

    async def _open_others(self) -> None:
        pause_s = _AGAIN_S
        while len(self._clients) < len(self._plans):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_AGAIN_S)
            for rung in range(len(self._plans)):
                if rung not in self._clients:
                    try:
                        self._clients[rung] = await self._opened(rung)
                    except CollabError as error:
                        log.debug("plan %r cannot be opened yet: %s", self._plans[rung].name, error)

    # --- what it is ----------------------------------------------------------------

    @property
    def epoch(self) -> Epoch:
        """The primary's epoch; 0 where it could not be opened yet."""
        return self._clients[0].epoch if 0 in self._clients else Epoch(0)

    @property
    def granted(self) -> int:
        """Requests that may be under way at a time."""
        if 0 in self._clients:
            return self._clients[0].granted
        others = [client.granted for client in self._clients.values()]
        return max(others, default=self._local.granted if self._local is not None else 0)

    @property
    def counters(self) -> dict[str, int]:
        """As `PlanClient.counters`, of all rungs together."""
        total = Counter({"unpaid": self._ladder.unpaid})
        for client in self._clients.values():
            total.update(client.counters)
        return dict(total)

    # --- requests ------------------------------------------------------------------

    async def run(
        self,
        inputs: Mapping[str, Array],
        deadline_s: float = DEFAULT_DEADLINE_S,
        priority: Priority = Priority.NORMAL,
        *,
        only: str = "",
        trace: TraceContext | None = None,
    ) -> Result:
        """One inference, as `PlanClient.run`; a rung is done with it before the next begins.

        With ``only``, one of `PATHS`, it is answered there or not at all.
        """
        self._ladder.check_path(only)
        if self._tracer is None:
            return await self._climb(inputs, deadline_s, priority, only, trace)
        from collab.telemetry.spans import Span

        # What every rung does belongs under one span.
        context, start_ns, error = self._tracer.begin(trace), time.time_ns(), None
        try:
            return await self._climb(inputs, deadline_s, priority, only, context)
        except BaseException as failure:
            error = f"{type(failure).__name__}: {failure}"
            raise
        finally:
            parent = trace.span_id if trace is not None else None
            ids = (context.trace_id, context.span_id, parent)
            if context.sampled:
                name, about = f"inference {self.plan.name}", {"collab.plan": str(self.plan.name)}
                self._tracer.record([Span(name, *ids, start_ns, time.time_ns(), about, error=error)])

    async def _climb(
        self,
        inputs: Mapping[str, Array],
        deadline_s: float,
        priority: Priority,
        only: str,
        trace: TraceContext | None,
    ) -> Result:
        begun_us = start_us = now_us()
        patient_until_us = start_us + self._retry.patience_us
        climb = Climb(start_us + int(deadline_s * 1e6), patient_until_us, only=only)
        failure: CollabError | None = None
        while True:
            serving = [rung for rung, client in self._clients.items() if client.serves]
            rung = self._ladder.next(climb, serving, begun_us)
            if rung is None:
                raise failure or self._nobody()
            if rung == WAIT:
                await asyncio.sleep(AGAIN_S)
                begun_us = now_us()
                continue
            self._ladder.started(rung)
            try:
                result = await self._run_on(rung, inputs, climb, priority, trace)
            except CollabError as error:
                failure, ended_us = error, now_us()
                self._ladder.failed(climb, rung, error.code, error.attempts, ended_us)
                begun_us = ended_us
            except BaseException:
                self._ladder.withdrawn(rung)
                raise
            else:
                self._ladder.answered(rung, begun_us)
                if not rung and begun_us == start_us:
                    return result
                return self._told(rung, result, climb, start_us)

    async def _run_on(
        self,
        rung: int,
        inputs: Mapping[str, Array],
        climb: Climb,
        priority: Priority,
        trace: TraceContext | None,
    ) -> Result:
        left_s = max(0.0, (climb.deadline_us - now_us()) / 1e6)
        if rung == LOCAL:
            assert self._local is not None
            return await self._local.run(inputs, left_s)
        return await self._clients[rung].run(inputs, left_s, priority, climb.attempts, trace=trace)

    def _told(self, rung: int, result: Result, climb: Climb, start_us: int) -> Result:
        """The answer with the path that it took, over all rungs."""
        via = result.via if rung == LOCAL else f"alternative:{self._plans[rung].name}" if rung else PRIMARY
        attempts, total_ms = result.attempts + climb.attempts, (now_us() - start_us) / 1000
        return replace(result, via=via, attempts=attempts, total_ms=total_ms)

    def _nobody(self) -> NodeLost:
        others = f" and its {len(self._plans) - 1} alternatives" if len(self._plans) > 1 else ""
        return NodeLost(f"plan {self.plan.name!r}{others}: each needs a node that is lost; try again later")
