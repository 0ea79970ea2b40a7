"""Which requests are begun: those that can be answered within their deadline.

A requester sees the whole path, which no node does: how long an answer takes when nothing
is ahead, and how much longer for each request that is.
"""

from __future__ import annotations

from typing import Final

from collab.client.actions import Answer
from collab.client.latency import LatencyWindow
from collab.client.policy import Counters
from collab.client.tries import Asked
from collab.core.token import Fault, Priority
from collab.errors import DeadlineExceeded, Overloaded

_SMOOTH: Final = 1 / 16
"""Weight of the newest answer."""
_PRIOR: Final = 1 / 16
"""Variance of what was ahead with which the slope of the line counts as much as that from the base."""
_DEVIATIONS: Final = 4.0
"""How many mean deviations an answer may be later than the line says, as in TCP's timer (Jacobson, SIGCOMM
1988); by the line alone half of those that are begun at the limit would be late."""
_MARGIN: Final = 1 / 4
"""Most of a budget that is kept for that: where latency scatters by more, trying is better than refusing."""
FADE_US: Final = 2_000_000
"""What was learned counts half after this time, so that it is tried again."""


class _Line:
    """Latency over requests ahead, of one priority: a line by least squares that forget."""

    __slots__ = ("at_us", "deviation_us", "x", "xx", "xy", "y")

    def __init__(self, x: int, y: float, now_us: int) -> None:
        self.x, self.y = float(x), y
        self.xx, self.xy = self.x * x, self.x * y
        self.deviation_us = y / 4
        self.at_us = now_us

    def expected_us(self, x: int, base_us: int) -> float:
        """The line at a point; where answers had nearly as many ahead, with a slope from the base."""
        variance, covariance = max(0.0, self.xx - self.x**2), self.xy - self.x * self.y
        from_base = max(0.0, self.y - base_us) / self.x if self.x > 1 / 2 else 0.0
        slope = max(0.0, (covariance + _PRIOR * from_base) / (variance + _PRIOR))
        return max(float(base_us), self.y + slope * (x - self.x))

    def learn(self, x: int, y: int, base_us: int, now_us: int) -> None:
        """One more answer."""
        error_us = y - self.expected_us(x, base_us)
        self.deviation_us += _SMOOTH * (abs(error_us) - self.deviation_us)
        for name, value in (("x", x), ("y", y), ("xx", x * x), ("xy", x * y)):
            known = getattr(self, name)
            setattr(self, name, known + _SMOOTH * (value - known))
        self.at_us = now_us


class Admission:
    """Counts requests under way, and refuses what its deadline leaves too little time for.

    ``ahead`` of a request are those under way of its own and higher priorities.  Latency is taken
    as a line over them, and never less than the least of recent latencies.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._under_way = dict.fromkeys(Priority, 0)
        self._latencies = LatencyWindow()
        self._lines: dict[Priority, _Line] = {}

    def ahead(self, priority: Priority) -> int:
        """Requests under way that a new one would wait for."""
        return sum(count for other, count in self._under_way.items() if other >= priority)

    def expected_us(self, priority: Priority, ahead: int, budget_us: int, now_us: int) -> float:
        """How long an answer takes, with a margin, as far as that was learned; 0 where it was not."""
        line, base_us = self._lines.get(priority), self._latencies.least_us or 0
        if line is None:
            return float(base_us)
        fading: float = 0.5 ** (max(0, now_us - line.at_us) / FADE_US)
        waits_us = line.expected_us(ahead, base_us) - base_us
        margin_us = min(_DEVIATIONS * line.deviation_us, _MARGIN * budget_us)
        return base_us + fading * (waits_us + margin_us)

    def check(self, priority: Priority, budget_us: int, now_us: int) -> None:
        """Raise `Overloaded` if an answer is not to be expected in time.

        A request with nothing ahead is never refused, so that what was learned wrongly is
        learned anew.
        """
        ahead = self.ahead(priority)
        if not ahead or budget_us <= 0:
            return
        expected_us = self.expected_us(priority, ahead, budget_us, now_us)
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
        line, base_us = self._lines.get(priority), self._latencies.least_us
        if base_us is not None and (line is None or line.expected_us(ahead, base_us) < budget_us):
            self._learn(priority, ahead, budget_us, now_us)

    def _learn(self, priority: Priority, ahead: int, latency_us: int, now_us: int) -> None:
        line, base_us = self._lines.get(priority), self._latencies.least_us or 0
        if line is None:
            self._lines[priority] = _Line(ahead, latency_us, now_us)
        else:
            line.learn(ahead, latency_us, base_us, now_us)
