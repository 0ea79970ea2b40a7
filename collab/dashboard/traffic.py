"""Latencies and refusals of the last seconds, from what only grows at nodes and requesters; pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from collab.core.plan import Plan
from collab.dashboard.looks import AnswersLook
from collab.dashboard.timeline import Bar
from collab.telemetry import catalogue
from collab.telemetry.catalogue import Value
from collab.telemetry.histogram import Counts, quantile_us
from collab.telemetry.recent import Recent

WINDOW_S: Final = 5.0
"""Quantiles are of what was answered within so long."""
_MAX_KEYS: Final = 2_048
SHARES: Final = (("p50", 0.5), ("p95", 0.95))


class Windows:
    """Durations of the last seconds by name, from histograms that each of several tellers counts."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], tuple[int, ...]] = {}
        self._tellers: set[str] = set()
        self._fresh: dict[str, deque[tuple[float, tuple[int, ...]]]] = {}

    def take(self, teller: str, histograms: Iterable[tuple[str, tuple[int, ...]]], now_s: float) -> None:
        """What one teller has counted since it began; what it did not name before began at 0."""
        known = teller in self._tellers
        self._tellers.add(teller)
        for name, buckets in histograms:
            self._take((teller, name), buckets, known, now_s)

    def _take(self, key: tuple[str, str], buckets: tuple[int, ...], known: bool, now_s: float) -> None:
        old = self._told.get(key)
        if old is None and len(self._told) >= _MAX_KEYS:
            return
        self._told[key] = buckets
        if old is None and known:
            old = (0,) * len(buckets)
        if old is None or len(old) != len(buckets):
            return
        more = tuple(now - then for now, then in zip(buckets, old, strict=True))
        if min(more, default=0) < 0:  # it was started again
            more = buckets
        if any(more):
            self._fresh.setdefault(key[1], deque()).append((now_s, more))

    def forget(self, teller: str) -> None:
        """It is lost: its counts begin anew."""
        self._told = {key: buckets for key, buckets in self._told.items() if key[0] != teller}
        self._tellers.discard(teller)

    def ms(self, now_s: float) -> Iterator[tuple[str, str, float]]:
        """Name, which share and the duration that it stays under, of what was answered lately."""
        for name in list(self._fresh):
            entries = self._fresh[name]
            while entries and entries[0][0] < now_s - WINDOW_S:
                entries.popleft()
            if not entries:
                del self._fresh[name]
                continue
            summed = [sum(column) for column in zip(*(buckets for _, buckets in entries), strict=True)]
            for word, share in SHARES:
                found = quantile_us(summed, share)
                if found is not None:
                    yield name, word, found / 1000


class Growth:
    """What several counters have grown by since it was last asked, by name."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], int] = {}
        self._tellers: set[str] = set()
        self._more: dict[str, int] = {}

    def take(self, teller: str, counters: Iterable[tuple[str, int]]) -> None:
        """What one teller has counted since it began; what it did not name before began at 0.

        Of a teller that was not heard before nothing is known to be new.
        """
        known = teller in self._tellers
        self._tellers.add(teller)
        for name, value in counters:
            old = self._told.get((teller, name), 0 if known else value)
            if len(self._told) < _MAX_KEYS or (teller, name) in self._told:
                self._told[teller, name] = value
                self._more[name] = self._more.get(name, 0) + (value - old if value >= old else value)

    def forget(self, teller: str) -> None:
        """It is lost: its counts begin anew."""
        self._told = {key: value for key, value in self._told.items() if key[0] != teller}
        self._tellers.discard(teller)

    def spent(self) -> dict[str, int]:
        """Growth since the last call, of every name that was ever told."""
        found = self._more
        self._more = dict.fromkeys(found, 0)
        return found


class Traffic:
    """What is answered, how soon, and what is not."""

    def __init__(self) -> None:
        self._in_nodes = Windows()
        self._asked = Windows()
        self._refused = Growth()
        self._seen: set[str] = set()
        """Refusals that happened at all."""
        self._ticked_s: float | None = None

    def see(
        self, node: str, counters: Mapping[str, int], answers: Sequence[AnswersLook], now_s: float
    ) -> None:
        """What a node has counted."""
        causes = [(f"nodes: {cause}", counters.get(cause, 0)) for cause in catalogue.REFUSAL_CAUSES]
        failed = [(f"{one.plan}: failed in nodes", one.failed) for one in answers]
        self._refused.take(node, [*causes, *failed])
        self._in_nodes.take(node, ((one.plan, one.buckets) for one in answers), now_s)

    def hear(self, requester: str, values: Iterable[Value], now_s: float) -> None:
        """What a requester has counted of its own requests."""
        refused: list[tuple[str, int]] = []
        asked: list[tuple[str, tuple[int, ...]]] = []
        for metric, labels, value in values:
            if metric is catalogue.CLIENT_SECONDS and isinstance(value, Counts):
                asked.append((labels[0], value.buckets))
            elif metric is catalogue.CLIENT_FAILURES and not isinstance(value, Counts):
                refused.append((f"{labels[0]}: {labels[1]}", int(value)))
        self._asked.take(requester, asked, now_s)
        self._refused.take(requester, refused)

    def forget(self, node: str) -> None:
        """A node is lost."""
        self._in_nodes.forget(node)
        self._refused.forget(node)

    def points(self, now_s: float) -> Iterator[tuple[str, float]]:
        """Series and their values now; refusals that never happened have none."""
        for kind, windows in (("nodes_ms", self._in_nodes), ("asked_ms", self._asked)):
            for plan, word, ms in windows.ms(now_s):
                yield f"{kind}:{plan} {word}", ms
        before_s, self._ticked_s = self._ticked_s, now_s
        grown = self._refused.spent()
        if before_s is not None and now_s > before_s:
            for name, more in grown.items():
                if more or name in self._seen:
                    self._seen.add(name)
                    yield f"refused:{name}", more / (now_s - before_s)


def request_bars(request: Recent, plan: Plan) -> list[Bar]:
    """When each part of an answered request was under way, on its critical path.

    Each hop was timed on its node's clock.  What they leave of the requester's time was the
    network's; it is shared out equally, as in traces.
    """
    bars: list[Bar] = []
    at_ms = request.encode_ms
    wire_ms = request.wire_ms / (len(request.hops) + 1)
    for stage, node, ms in request.hops:
        name = plan.stages[stage].id if stage < len(plan.stages) else f"stage {stage}"
        bars.append(Bar("", f"to {node}", "edge", at_ms, wire_ms))
        at_ms += wire_ms
        bars.append(Bar(node, name, "stage", at_ms, ms))
        at_ms += ms
    bars.append(Bar("", "to the requester", "edge", at_ms, wire_ms))
    return bars
