"""Chains whose stages may run on replicas: exact over groups of devices where shares allow it.

A group's stage is priced exactly; a move between groups depends on the shares of both, so
the dynamic program takes its least, and branch and bound closes what gap that leaves.
Replicas can be better for throughput alone: of any chain with replicas, one with a single
device of each group needs no more time, memory, energy or metered bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from collab.planner.chains import Chain, Objective, Option, StageChoice
from collab.planner.exact import Pool, rank
from collab.planner.ground import tightest
from collab.planner.groups import Disjoint, Group, GroupArcs, shares
from collab.planner.options import SLACK, Limits
from collab.planner.search import Found
from collab.planner.subsets import Order, Space, Step, Sweep, sweep
from collab.planner.tables import Floats, Tables
from collab.planner.threshold import shared_work_ms

_VISITS = 20_000
"""Stages that branch and bound looks at, at most."""
_ELEMENTS = 40_000_000
"""Costs that the dynamic program may keep."""


@dataclass(frozen=True, eq=False)
class Field:
    """Groups and the order in which they may follow each other."""

    tables: Tables
    groups: tuple[Group, ...]
    space: Space
    max_stages: int

    def arcs(self, objective: Objective, limits: Limits = Limits()) -> GroupArcs:
        """Costs over the groups."""
        return GroupArcs(self.tables, objective, limits, groups=self.groups)

    def option(self, arcs: GroupArcs, path: Sequence[Step], entering: int | None = None) -> Option:
        """The chain of a path with its costs; ``entering`` is the state of the input if it is known."""
        first = path[0]
        into = arcs.moves[:, arcs.count, first.device, 0]
        options = arcs.join(into, arcs.stage(first.device)[:, first.state, 0, first.stop])
        states = [int(np.argmin(options)) if entering is None else entering, *(step.state for step in path)]
        stages, given, t = [], [np.ones(1)], self.tables
        for i, step in enumerate(path):
            ways = arcs.at(step.device, (states[i], states[i + 1]), step.start, step.stop)
            threads, total = next((way for way in ways if way[0] == step.threads), ways[0])
            names = tuple(t.devices[d] for d in self.groups[step.device])
            stages.append(StageChoice(t.places[step.start], t.places[step.stop], names, threads))
            given.append(shares(total))
        given.append(np.ones(1))
        ends = [arcs.count, *(step.device for step in path), arcs.count]
        places = [*(step.start for step in path), t.last]
        moves = [
            arcs.busiest((ends[i], ends[i + 1]), place, states[i], given[i], given[i + 1])[1]
            for i, place in enumerate(places)
        ]
        chain = Chain(tuple(stages), tuple(moves))
        return Option(chain, t.costs.evaluate(chain).costs)


def field_for(tables: Tables) -> Field:
    """Groups of a profile's devices, no larger than the search can keep."""
    wants, count = tables.wants, tables.end
    if wants.assign is not None:
        index = {name: d for d, name in enumerate(tables.devices)}
        groups = tuple(tuple(index[name] for name in nodes) for nodes in wants.assign)
        return Field(tables, groups, Order(tuple(range(len(groups)))), len(groups))
    size = min(wants.max_replicas, count)
    while size > 1 and _elements(tables, size) > _ELEMENTS:
        size -= 1
    groups = tuple(group for n in range(1, size + 1) for group in combinations(range(count), n))
    stages = min(count, tables.last, wants.max_stages or count)
    return Field(tables, groups, Disjoint(groups), stages)


def _elements(tables: Tables, size: int) -> int:
    groups = sum(math.comb(tables.end, n) for n in range(1, size + 1))
    return int(2**tables.end * groups * len(tables.codecs) * len(tables.places))


def with_replicas(field: Field, objective: Objective, pool: Pool) -> Found:
    """The best chain over groups, and a bound."""
    arcs = field.arcs(objective)
    found = sweep(arcs, field.space, field.max_stages)
    index = found.best()
    if index is None:
        return Found(None, math.inf, "")
    bound = float(found.finals[index].real)
    for i in np.argsort(found.finals, kind="stable")[:20]:
        if (path := found.path(int(i))) is not None:
            pool.add([field.option(arcs, path)])
    if math.isfinite(pool.deadline_ms):
        bound = max(bound, _in_time(field, objective, pool))
    closed = _close(found, field, pool, bound) if objective == "throughput" else False
    # Branch and bound follows one way to move for each codec; a deadline may ask for another.
    closed = closed and math.isinf(pool.deadline_ms)
    best = min(pool.found.values(), key=lambda option: rank(option, objective), default=None)
    if best is None:
        return Found(None, bound, "")
    value = best.costs.of(objective)
    if not arcs.add:
        _faster(field, objective, value, pool)
        best = min(pool.found.values(), key=lambda option: rank(option, objective))
    full = not isinstance(field.space, Disjoint) or max(map(len, field.groups)) == min(
        field.tables.wants.max_replicas, field.tables.end
    )
    if not full:
        # Larger groups were left out, so the dynamic program bounds nothing.
        bound, closed = shared_work_ms(field.tables, np.ones(field.tables.end)), False
    if closed or value <= bound * (1 + SLACK):
        return Found(best, best.costs.of(objective), "exact: dynamic programming over groups of devices")
    return Found(best, bound, "dynamic programming over groups of devices, with a certified bound")


def _faster(field: Field, objective: Objective, value: float, pool: Pool) -> None:
    """Look for a chain that is as good and has less latency."""
    arcs = field.arcs("latency", tightest(value, objective))
    found = sweep(arcs, field.space, field.max_stages)
    index = found.best()
    if index is not None and (path := found.path(index)) is not None:
        option = field.option(arcs, path)
        if option.costs.of(objective) <= value * (1 + SLACK):
            pool.add([option])


def _in_time(field: Field, objective: Objective, pool: Pool) -> float:
    """Find chains within the deadline; no chain within it is better than what is returned."""
    if objective not in ("throughput", "memory"):
        arcs = field.arcs("latency")
        _latency(field, arcs, pool)
        return 0.0
    arcs = field.arcs(objective)
    parts = [arcs.stage(group).ravel() for group in range(arcs.count)]
    values = np.unique(np.concatenate([*parts, arcs.moves.ravel()]))
    low, high = -1, int(np.isfinite(values).sum()) - 1
    while high - low > 1:
        middle = (low + high) // 2
        least = _latency(field, field.arcs("latency", tightest(float(values[middle]), objective)), pool)
        low, high = (low, middle) if least <= pool.deadline_ms * (1 + SLACK) else (middle, high)
    _latency(field, field.arcs("latency", tightest(float(values[high]), objective)), pool)
    return float(values[high])


def _latency(field: Field, arcs: GroupArcs, pool: Pool) -> float:
    found = sweep(arcs, field.space, field.max_stages)
    index = found.best()
    if index is None or (path := found.path(index)) is None:
        return math.inf
    pool.add([field.option(arcs, path)])
    return float(found.finals[index].real)


def _close(found: Sweep, field: Field, pool: Pool, bound: float) -> bool:
    """Search what the dynamic program's bound leaves open; True if nothing better is left."""
    search = _Backwards(found, field, pool, bound)
    search.run()
    return search.left > 0


class _Backwards:
    """Branch and bound from the end of chains, with the layers as exact bounds of what is before."""

    def __init__(self, found: Sweep, field: Field, pool: Pool, bound: float) -> None:
        self.found, self.field, self.pool, self.bound = found, field, pool, bound
        assert isinstance(found.arcs, GroupArcs)
        self.arcs: GroupArcs = found.arcs
        self.left = _VISITS

    @property
    def upper(self) -> float:
        """What has to be beaten."""
        leader = self.pool.leader
        return math.inf if leader is None else leader.costs.bottleneck_ms * (1 - SLACK)

    def run(self) -> None:
        """Visit everything that may be better than what is known."""
        arcs, last = self.arcs, self.field.tables.last
        for index in np.argsort(self.found.finals, kind="stable"):
            if self.found.finals[index] >= self.upper or self.left <= 0 or self.upper <= self.bound:
                return
            layer, row, group = (int(i) for i in self.found.ends[index])
            costs = self.found.layers[layer].costs[row, group, :, last]
            ends = arcs.join(costs, arcs.moves[:, group, arcs.count, last])
            for state in np.argsort(ends):
                if ends[state] < self.upper:
                    self._visit(
                        layer, row, Step(group, 0, last, int(state)), 0.0, (arcs.count, np.ones(1)), []
                    )

    def _visit(
        self, layer: int, row: int, step: Step, so_far: float, after: tuple[int, Floats], tail: list[Step]
    ) -> None:
        """All ways to start a stage whose end is fixed; ``after`` is the next group and its shares."""
        arcs, found = self.arcs, self.found
        into = found.arriving(layer, int(found.layers[layer].keys[row]), step.device)
        options = np.maximum(arcs.join(into, arcs.stage(step.device)[:, step.state, :, step.stop]), so_far)
        if layer == 0:
            options = np.where(np.arange(options.shape[1]) == 0, options, math.inf)
        for flat in np.argsort(options, axis=None):
            state, start = (int(i) for i in np.unravel_index(flat, options.shape))
            if options[state, start] >= self.upper or self.left <= 0:
                return
            self.left -= 1
            for threads, total in arcs.at(step.device, (state, step.state), start, step.stop):
                given = shares(total)
                busy, _ = arcs.busiest((step.device, after[0]), step.stop, step.state, given, after[1])
                now = max(so_far, busy, float((given * total).max()))
                if now < self.upper:
                    chosen = replace(step, start=start, threads=threads)
                    self._before(layer, row, chosen, state, now, given, tail)

    def _before(
        self, layer: int, row: int, step: Step, state: int, now: float, given: Floats, tail: list[Step]
    ) -> None:
        """All groups that may come before a stage."""
        arcs, found = self.arcs, self.found
        path = [step, *tail]
        if layer == 0:
            self.pool.add([self.field.option(arcs, path, state)])
            return
        _, weight = found.space.grow(np.zeros(0, np.int64), step.device)
        before = found.layers[layer - 1]
        prior = int(np.searchsorted(before.keys, int(found.layers[layer].keys[row]) - weight))
        came = arcs.join(
            before.costs[prior, :, state, step.start],
            arcs.moves[state, : arcs.count, step.device, step.start],
        )
        for group in np.argsort(came):
            if max(float(came[group]), now) >= self.upper or self.left <= 0:
                return
            ends = Step(int(group), 0, step.start, state)
            self._visit(layer - 1, prior, ends, now, (step.device, given), path)
