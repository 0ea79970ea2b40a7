"""Which requests are begun: those that can be answered within their deadline.

A requester sees the whole path, which no node does: how long an answer takes when nothing
is ahead, and how much longer for each request that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from collab.client.actions import Answer
from collab.client.latency import LatencyWindow
from collab.client.policy import Counters
from collab.client.tries import Asked
from collab.core.token import Fault, Priority
from collab.errors import DeadlineExceeded, Overloaded

_SMOOTH: Final = 1 / 8
_SMOOTH_DEVIATION: Final = 1 / 4
_DEVIATIONS: Final = 2.0
"""How many mean deviations an answer may be later than expected; the mean alone would make half of those
that are begun at the limit too late (Jacobson, SIGCOMM 1988)."""
FADE_US: Final = 2_000_000
"""What was learned counts half after this time: with nothing ahead nothing is learned."""


@dataclass(slots=True)
class _Slope:
    """Time for each request ahead, of one priority."""

    us: float
    deviation_us: float
    at_us: int


class Admission:
    """Counts requests under way, and refuses what its deadline leaves too little time for.

    ``ahead`` of a request are those under way of its own and higher priorities.  Latency is taken
    as linear in them: ``base + slope * ahead``, with the least of recent latencies as base.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._under_way = dict.fromkeys(Priority, 0)
        self._latencies = LatencyWindow()
        self._slopes: dict[Priority, _Slope] = {}

    def ahead(self, priority: Priority) -> int:
        """Requests under way that a new one would wait for."""
        return sum(count for other, count in self._under_way.items() if other >= priority)

    def expected_us(self, priority: Priority, ahead: int, now_us: int) -> float:
        """How long an answer takes, as far as that was learned; 0 where it was not."""
        slope = self._slopes.get(priority)
        if slope is None:
            return float(self._latencies.least_us or 0)
        fading: float = 0.5 ** (max(0, now_us - slope.at_us) / FADE_US)
        late_us = slope.us * ahead + _DEVIATIONS * slope.deviation_us
        return (self._latencies.least_us or 0) + fading * late_us

    def check(self, priority: Priority, budget_us: int, now_us: int) -> None:
        """Raise `Overloaded` if an answer is not to be expected in time.

        A request with nothing ahead is never refused, so that what was learned wrongly is
        learned anew.
        """
        ahead = self.ahead(priority)
        if not ahead or budget_us <= 0:
            return
        expected_us = self.expected_us(priority, ahead, now_us)
        if expected_us > budget_us:
            self._counters.hopeless += 1
            raise Overloaded(
                f"{ahead} requests are ahead: an answer would take about {expected_us / 1000:.0f} ms, the "
                f"deadline is {budget_us / 1000:g} ms; try again later, lower the load or raise the deadline"
            )

    def enter(self, priority: Priority) -> int:
        """A request begins; how many are ahead of it."""
        ahead = self.ahead(priority)
        self._under_way[priority] += 1
        return ahead

    def leave(self, request: Asked, outcome: Answer | Fault, now_us: int) -> None:
        """It is over: learn how long an answer took, or that it would have taken longer than the deadline.

        Not from one that met a fault on its way, or had no credit.
        """
        self._under_way[request.priority] -= 1
        if isinstance(outcome, Answer):
            if request.last_fault is None:
                self.answered(request.priority, request.ahead, now_us - request.start_us, now_us)
        elif outcome.code in (DeadlineExceeded.code, Overloaded.code) and outcome.granted is None:
            self.missed(request.priority, request.ahead, request.deadline_us - request.start_us, now_us)

    def answered(self, priority: Priority, ahead: int, latency_us: int, now_us: int) -> None:
        """Learn from an answer."""
        self._latencies.add(latency_us)
        self._learn(priority, ahead, latency_us, now_us)

    def missed(self, priority: Priority, ahead: int, budget_us: int, now_us: int) -> None:
        """Learn that no answer came, or was to come, within a budget: it takes at least that long."""
        slope = self._slopes.get(priority)
        base_us = self._latencies.least_us
        if base_us is not None and (slope is None or base_us + slope.us * ahead < budget_us):
            self._learn(priority, ahead, budget_us, now_us)

    def _learn(self, priority: Priority, ahead: int, latency_us: int, now_us: int) -> None:
        base_us = self._latencies.least_us
        if not ahead or base_us is None:
            return
        sample_us = max(0, latency_us - base_us) / ahead
        slope = self._slopes.get(priority)
        if slope is None:
            self._slopes[priority] = _Slope(sample_us, sample_us * ahead / 2, now_us)
            return
        error_us = latency_us - base_us - slope.us * ahead
        slope.deviation_us += _SMOOTH_DEVIATION * (abs(error_us) - slope.deviation_us)
        slope.us += _SMOOTH * (sample_us - slope.us)
        slope.at_us = now_us
