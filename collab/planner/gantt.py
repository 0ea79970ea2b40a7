"""Who is busy when: one request of a chain, and a pipeline of several."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from collab.core.ids import NodeName
from collab.errors import PlanError
from collab.planner.chains import Chain, StageChoice
from collab.planner.evaluate import Evaluation, Evaluator, Span
from collab.planner.wording import place


@dataclass(frozen=True)
class Bar:
    """A piece of one request's time on one resource."""

    request: int
    what: str
    """``move``, ``decode``, ``compute`` or ``encode``."""
    stage: int
    start_ms: float
    duration_ms: float
    occupied_ms: float
    """How long it keeps its resource from others; the rest is a link's delay."""


@dataclass(frozen=True)
class Row:
    """What one node or directed link does."""

    where: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Gantt:
    """Rows in the order in which a request meets them."""

    rows: tuple[Row, ...]
    end_ms: float


def request_gantt(evaluation: Evaluation) -> Gantt:
    """The spans of one request by resource.

    Raises:
        PlanError: The chain is impossible, so that it has no times.
    """
    if not math.isfinite(evaluation.costs.latency_ms):
        raise PlanError("plan: it cannot run as it is, so there are no times to draw; plan again")
    return _chart([(span.where, _bar(0, span, span.start_ms)) for span in evaluation.spans])


def pipeline_gantt(evaluator: Evaluator, chain: Chain, requests: int) -> Gantt:
    """A pipeline that gets one request in every interval of its bottleneck.

    Each resource serves one request at a time, the oldest that waits first, and is never
    idle while one waits.  Replicas are asked in proportion to their rate.  Without
    replicas and without a node that is visited twice, no request waits, and the interval
    between answers is the bottleneck's time.

    Args:
        requests: how many, at least 1.

    Raises:
        PlanError: The chain is impossible, or there is no request.
    """
    whole = evaluator.evaluate(chain).costs
    if not math.isfinite(whole.latency_ms):
        raise PlanError(f"plan {place(chain)}: it cannot run as it is, so there are no times to draw")
    if requests < 1:
        raise PlanError(f"requests {requests}: give 1 or more")
    return _chart(_serve(_routes(evaluator, chain, requests), whole.bottleneck_ms))


def _bar(request: int, span: Span, start_ms: float) -> Bar:
    return Bar(request, span.what, span.stage, start_ms, span.duration_ms, span.occupied_ms)


def _chart(placed: Sequence[tuple[str, Bar]]) -> Gantt:
    """Bars by resource; the rows follow the chain."""
    rows: defaultdict[str, list[Bar]] = defaultdict(list)
    for where, bar in placed:
        rows[where].append(bar)
    # A move leads to its stage, so it comes before it.
    order = {where: min((bar.stage, bar.what != "move") for bar in bars) for where, bars in rows.items()}
    charted = tuple(
        Row(where, tuple(sorted(rows[where], key=lambda bar: (bar.start_ms, bar.request))))
        for where in sorted(rows, key=lambda where: (order[where], where))
    )
    end = max((bar.start_ms + bar.duration_ms for _, bar in placed), default=0.0)
    return Gantt(charted, end)


def _routes(evaluator: Evaluator, chain: Chain, requests: int) -> list[tuple[Span, ...]]:
    """What each request meets, its replicas chosen in turns by their rate."""
    found: dict[tuple[NodeName, ...], tuple[Span, ...]] = {}
    given: defaultdict[tuple[int, NodeName | None, NodeName], int] = defaultdict(int)
    taken = [{name: _stage_ms(evaluator, stage, name) for name in stage.nodes} for stage in chain.stages]

    def choose(index: int, before: NodeName | None) -> NodeName:
        """The replica that has the least to do by what this sender, then everybody, gave it."""

        def load(name: NodeName) -> tuple[float, float]:
            ms = taken[index][name]
            return (given[index, before, name] + 1) * ms, (given[index, None, name] + 1) * ms

        name = min(chain.stages[index].nodes, key=load)
        for sender in {before, None}:
            given[index, sender, name] += 1
        return name

    routes = []
    for _ in range(requests):
        nodes: list[NodeName] = []
        for index in range(len(chain.stages)):
            nodes.append(choose(index, nodes[-1] if nodes else None))
        route = tuple(nodes)
        if route not in found:
            stages = (replace(s, nodes=(n,)) for s, n in zip(chain.stages, route, strict=True))
            found[route] = evaluator.evaluate(replace(chain, stages=tuple(stages))).spans
        routes.append(found[route])
    return routes


def _stage_ms(evaluator: Evaluator, stage: StageChoice, name: NodeName) -> float:
    return evaluator.stage_ms(evaluator.devices[name], stage.start, stage.stop, stage.threads)


def _serve(routes: Sequence[tuple[Span, ...]], every_ms: float) -> list[tuple[str, Bar]]:
    """Let every resource serve the oldest request that waits for it; a request comes ``every_ms``."""
    events = [(request * every_ms, request, 0) for request in range(len(routes))]
    waiting: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    free: defaultdict[str, float] = defaultdict(float)
    wake: list[tuple[float, str]] = []
    placed: list[tuple[str, Bar]] = []
    while events or wake:
        now = min(queue[0][0] for queue in (events, wake) if queue)
        touched = set()
        while wake and wake[0][0] == now:
            touched.add(heapq.heappop(wake)[1])
        while events and events[0][0] == now:
            _, request, index = heapq.heappop(events)
            if index == len(routes[request]):
                continue
            where = routes[request][index].where
            heapq.heappush(waiting[where], (request, index))
            touched.add(where)
        for where in sorted(touched):
            while waiting[where] and free[where] <= now:
                request, index = heapq.heappop(waiting[where])
                span = routes[request][index]
                placed.append((where, _bar(request, span, now)))
                free[where] = now + span.occupied_ms
                heapq.heappush(events, (now + span.duration_ms, request, index + 1))
                heapq.heappush(wake, (free[where], where))
    return placed
