"""Requests without end, so many at a time, each answer compared with the whole model's."""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from collab.client.actions import Resolve
from collab.client.failover import LadderClient
from collab.client.runner import PlanClient, Result
from collab.core.ids import NodeName
from collab.errors import CollabError
from collab.transport.aio import timeout
from tests.integration.models import Reference

RECENT = 512
LATE_S = 5.0
"""After its deadline a request that has not ended is lost."""
KEPT_ERRORS = 100


class Twice:
    """Counts how often clients end a request that has ended; made before the first request."""

    def __init__(self, clients: Iterable[PlanClient]) -> None:
        self.count = 0
        self._open: set[bytes] = set()
        for client in clients:
            self._watch(client)

    def _watch(self, client: PlanClient) -> None:
        submit, resolve = client._requester.submit, client._resolve

        def submitted(request: bytes, *arguments: Any, **named: Any) -> Any:
            actions = submit(request, *arguments, **named)
            self._open.add(request)
            return actions

        def resolved(action: Resolve) -> None:
            self.count += action.request not in self._open
            self._open.discard(action.request)
            resolve(action)

        client._requester.submit = submitted  # type: ignore[method-assign]
        client._resolve = resolved  # type: ignore[method-assign]


def _clients(client: Any) -> list[PlanClient]:
    """Those of single plans that requests of a client go to."""
    if isinstance(client, LadderClient):
        return list(client._clients.values())
    return [client] if isinstance(client, PlanClient) else []


@dataclass
class Answered:
    """What a load got; times in s."""

    asked: int = 0
    wrong: int = 0
    lost: int = 0
    """Neither an answer nor an error, long after the deadline."""
    late: int = 0
    """Answered after the deadline."""
    retried: int = 0
    hedged: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """By code."""
    first_errors: list[tuple[float, str]] = field(default_factory=list)
    """When, and what they said."""
    ends_s: array[float] = field(default_factory=lambda: array("d"))
    took_s: array[float] = field(default_factory=lambda: array("d"))
    most_attempts: int = 0
    """At one request that was answered."""
    paths: deque[tuple[NodeName, ...]] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Of the last answers."""
    vias: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Who gave them: the plan, an alternative or the local model."""

    @property
    def answers(self) -> int:
        """Requests that were answered, rightly or not."""
        return len(self.ends_s)

    @property
    def failed(self) -> int:
        """Requests that ended with an error."""
        return self.errors.total()

    @property
    def availability(self) -> float:
        """Right answers within the deadline, by requests that were asked."""
        return (self.answers - self.wrong - self.late) / max(1, self.asked)

    @property
    def longest_stall_s(self) -> float:
        """The longest time in which nothing was answered."""
        pairs = zip(self.ends_s, self.ends_s[1:], strict=False)
        return max((later - sooner for sooner, later in pairs), default=0.0)

    @property
    def slowest_s(self) -> float:
        """The longest that one request took."""
        return max(self.took_s, default=0.0)

    def quantile_s(self, share: float) -> float:
        """What so large a share of the answers was sooner than, or as soon."""
        ordered = sorted(self.took_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Load:
    """A closed loop of workers on one client; anything with its ``run`` will do."""

    def __init__(self, client: Any, reference: Reference, deadline_s: float = 10.0) -> None:
        self.got = Answered()
        self.stopping = False
        self.twice = Twice(_clients(client))
        self._client = client
        self._reference = reference
        self._deadline_s = deadline_s
        self._changed = asyncio.Event()
        self._now = asyncio.get_running_loop().time

    async def worker(self) -> None:
        """One request after the other until the load is stopping."""
        while not self.stopping:
            await self._ask(self.got.asked % len(self._reference.requests))
            self._changed.set()

    async def _ask(self, index: int) -> None:
        got, began_s = self.got, self._now()
        got.asked += 1
        try:
            async with timeout(self._deadline_s + LATE_S):
                result = await self._client.run(self._reference.requests[index], self._deadline_s)
        except (TimeoutError, asyncio.TimeoutError):
            got.lost += 1
        except CollabError as error:
            got.errors[error.code] += 1
            if len(got.first_errors) < KEPT_ERRORS:
                got.first_errors.append((self._now(), str(error)))
            await asyncio.sleep(0.001)  # what fails at once must not starve the loop
        else:
            self._answered(index, result, began_s)

    def _answered(self, index: int, result: Result, began_s: float) -> None:
        got, now_s = self.got, self._now()
        got.wrong += not self._reference.same(index, result.outputs)
        got.late += now_s - began_s > self._deadline_s
        got.retried += result.attempts > 1
        got.hedged += result.hedged
        got.ends_s.append(now_s)
        got.took_s.append(now_s - began_s)
        got.most_attempts = max(got.most_attempts, result.attempts)
        got.paths.append(result.path)
        got.vias.append(result.via)

    async def until(self, true: Callable[[], bool], within_s: float) -> None:
        """Wait until something is true, looked at after each request."""
        async with timeout(within_s):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    async def answers(self, more: int, within_s: float = 30.0) -> None:
        """Wait for so many more."""
        wanted = self.got.answers + more
        await self.until(lambda: self.got.answers >= wanted, within_s)

    async def uses(self, node: str, within_s: float = 15.0) -> None:
        """Wait until an answer went over a node."""
        self.got.paths.clear()
        await self.until(lambda: any(node in path for path in self.got.paths), within_s)

    async def answered_by(self, via: str, within_s: float = 15.0) -> None:
        """Wait until a later answer is given by somebody."""
        self.got.vias.clear()
        await self.until(lambda: via in self.got.vias, within_s)


@asynccontextmanager
async def under_load(load: Load, concurrency: int) -> AsyncIterator[Load]:
    """Run the workers meanwhile; every request has ended afterwards."""
    workers = [asyncio.ensure_future(load.worker()) for _ in range(concurrency)]
    try:
        yield load
    finally:
        load.stopping = True
        await asyncio.gather(*workers)
