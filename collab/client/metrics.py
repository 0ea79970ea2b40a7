"""What requesters of one process count of their requests, for long-lived clients."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from typing import Final

from collab.client.runner import PRIMARY, Result
from collab.core.ids import PlanName
from collab.errors import CollabError
from collab.telemetry import catalogue as metrics
from collab.telemetry.catalogue import OTHERS, Value
from collab.telemetry.histogram import Histogram
from collab.telemetry.recent import Recent

MAX_PLANS: Final = 256
"""Plans that are counted apart; the rest are counted together."""
KEPT: Final = 16
"""Answered requests that are kept as they went, the newest."""
PARTS: Final = ("nodes", "encode", "decode", "wire")


class _PlanCounts:
    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], int] = {}
        """By outcome and kind of path."""
        self.causes: dict[str, int] = {}
        self.attempts = 0
        self.seconds = Histogram()
        self.parts = tuple(Histogram() for _ in PARTS)


class RequesterMetrics:
    """Counts requests in the event loop, and gives the series."""

    def __init__(self) -> None:
        self._plans: dict[str, _PlanCounts] = {}
        self._recent: deque[Recent] = deque(maxlen=KEPT)

    @property
    def recent(self) -> tuple[Recent, ...]:
        """The requests that were answered last, the oldest first."""
        return tuple(self._recent)

    async def counted(self, plan: str, work: Awaitable[Result]) -> Result:
        """The result of a request, counted however it ends."""
        try:
            result = await work
        except CollabError as error:
            self.failed(plan, error)
            raise
        except asyncio.CancelledError:
            self.withdrawn(plan)
            raise
        self.answered(plan, result)
        return result

    def answered(self, plan: str, result: Result) -> None:
        """A request was answered."""
        counts = self._of(plan)
        outcome = "ok" if result.absent is None else "absent"
        # The name of the alternative may be anything; there are three kinds.
        key = (outcome, result.via.partition(":")[0])
        counts.outcomes[key] = counts.outcomes.get(key, 0) + 1
        counts.attempts += result.attempts
        counts.seconds.observe(int(result.total_ms * 1000))
        nodes_ms = sum(hop.total_us for hop in result.hops) / 1000
        durations_ms = (nodes_ms, result.encode_ms, result.decode_ms, result.wire_ms)
        for histogram, duration_ms in zip(counts.parts, durations_ms, strict=True):
            histogram.observe(int(duration_ms * 1000))

        hops = tuple((hop.stage, hop.node, hop.total_us / 1000) for hop in result.hops)
        times = (result.total_ms, result.encode_ms, result.decode_ms, result.wire_ms)
        own = result.via == PRIMARY
        self._recent.append(
            Recent(PlanName(plan), result.epoch, time.time(), *times, own, result.attempts, hops)
        )

    def failed(self, plan: str, error: CollabError) -> None:
        """A request ended with an error."""
        counts = self._of(plan)
        counts.outcomes["failed", ""] = counts.outcomes.get(("failed", ""), 0) + 1
        counts.causes[error.code] = counts.causes.get(error.code, 0) + 1

    def withdrawn(self, plan: str) -> None:
        """Nobody waits for the answer of a request any more."""
        counts = self._of(plan)
        counts.outcomes["withdrawn", ""] = counts.outcomes.get(("withdrawn", ""), 0) + 1

    def values(self) -> list[Value]:
        """All series as they are now."""
        found: list[Value] = []
        for plan, counts in self._plans.items():
            for (outcome, via), number in counts.outcomes.items():
                found.append(metrics.CLIENT_REQUESTS.at(plan, outcome, via, value=number))
            for cause, number in counts.causes.items():
                found.append(metrics.CLIENT_FAILURES.at(plan, cause, value=number))
            found.append(metrics.CLIENT_ATTEMPTS.at(plan, value=counts.attempts))
            found.append(metrics.CLIENT_SECONDS.at(plan, value=counts.seconds.counts))
            for part, histogram in zip(PARTS, counts.parts, strict=True):
                found.append(metrics.CLIENT_PARTS.at(plan, part, value=histogram.counts))
        return found

    def _of(self, plan: str) -> _PlanCounts:
        if plan not in self._plans and len(self._plans) >= MAX_PLANS:
            plan = OTHERS
        return self._plans.setdefault(plan, _PlanCounts())
