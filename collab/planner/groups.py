"""Costs of stages on replicas: groups of devices in the place of devices.

What a stage costs on a group is exact.  What a move occupies depends on the shares of
both groups, so here it is the least that any shares can make it: a bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from collab.planner.chains import Move
from collab.planner.options import SLACK, Arcs, Costs, Spots
from collab.planner.subsets import Keys
from collab.planner.tables import Bools, Floats, best_threads, move_name

Group = tuple[int, ...]


@dataclass(frozen=True)
class Disjoint:
    """Groups that share no device: keys are sets of devices as bits."""

    groups: tuple[Group, ...]

    def grow(self, keys: Keys, device: int) -> tuple[Bools, int]:
        """Where a group may follow, and what that adds to the key."""
        bits = sum(1 << member for member in self.groups[device])
        free: Bools = (keys & bits) == 0
        return free, bits

    def complete(self, keys: Keys) -> Bools:
        """A chain may end anywhere."""
        return np.ones(keys.shape, bool)


@dataclass(frozen=True, eq=False)
class GroupArcs(Arcs):
    """As `Arcs`, over groups; costs are real."""

    groups: tuple[Group, ...] = ()

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(self.groups)

    @property
    def states(self) -> int:
        """Codecs are always states: the slowest of a group depends on them."""
        return len(self.tables.codecs)

    @property
    def separable(self) -> bool:
        """Never: the slowest of a group changes."""
        return False

    @property
    def infinite(self) -> complex:
        """What stands for impossible."""
        return math.inf

    @cached_property
    def firsts(self) -> Bools:
        """(g, p): where the first stage may be and end."""
        alone = [len(group) == 1 or self.tables.wants.first_on is None for group in self.groups]
        firsts: Bools = (
            np.array([self.tables.firsts[list(group)].all(axis=0) for group in self.groups])
            & np.array(alone)[:, None]
        )
        return firsts

    def stage(self, device: int) -> Costs:
        """(s, s, p, p): costs of a group's stages by the codecs of what comes and goes."""
        kept = self.memory.get(device)
        if kept is None:
            kept = self.memory[device] = self._stage(self.groups[device])
        cost: Costs = kept
        return cost

    def _stage(self, group: Group) -> Costs:
        t, members, limits = self.tables, list(group), self.limits
        fits = t.stages & (
            t.size[members] <= np.minimum(t.limit[members], limits.memory_bytes * (1 + SLACK))[:, None, None]
        ).all(axis=0)
        ways = []
        for times in self._times(group):
            total = self._totals(group, times)
            with np.errstate(divide="ignore", invalid="ignore"):
                busy = shared_ms(total)
                cost = self._group_cost(group, total, busy)
            ways.append(
                np.where(fits & np.isfinite(busy) & (busy <= limits.busy_ms * (1 + SLACK)), cost, math.inf)
            )
        least: Costs = np.minimum.reduce(ways)
        return least

    def _totals(self, group: Group, times: Floats) -> Floats:
        """(n, s, s, p, p): time of each member for decoding, computing and encoding."""
        members = list(group)
        decode, encode = self.tables.decode[members], self.tables.encode[members]
        total: Floats = decode[:, :, None, :, None] + times[:, None, None] + encode[:, None, :, None, :]
        return total

    def _times(self, group: Group) -> list[Floats]:
        """(n, p, p) for each number of threads that all members have."""
        if len(group) == 1 or not self.tables.wants.choose_threads:
            return [self.tables.ms[list(group)]]
        return [self._with_threads(group, threads) for threads in self.shared_threads(group)]

    def shared_threads(self, group: Group) -> list[int]:
        """Numbers of threads that all members know; 0 is each one's own."""
        known = [
            {m.threads for m in self.tables.costs.devices[self.tables.devices[d]].more_threads} for d in group
        ]
        return [0, *sorted(set.intersection(*known))]

    def _with_threads(self, group: Group, threads: int) -> Floats:
        costs, places = self.tables.costs, self.tables.places
        return np.array(
            [
                [
                    [
                        costs.stage_ms(costs.devices[self.tables.devices[d]], a, b, threads) if b > a else 0.0
                        for b in places
                    ]
                    for a in places
                ]
                for d in group
            ]
        )

    def _group_cost(self, group: Group, total: Floats, busy: Floats) -> Floats:
        if self.objective == "throughput":
            return busy
        if self.objective == "latency":
            return np.asarray(total.max(axis=0))
        if self.objective == "memory":
            return np.broadcast_to(self.tables.size[list(group)].max(axis=0), busy.shape)
        if self.objective == "bytes":
            return np.zeros(busy.shape)
        watts = self.tables.watts[list(group)].reshape(-1, 1, 1, 1, 1)
        return np.asarray((watts * shares(total) * total).sum(axis=0) / 1000)

    @cached_property
    def moves(self) -> Costs:
        """(s, g, g, p): the least that moving what crosses a place can cost."""
        t = self.tables
        return np.array(
            [
                np.minimum.reduce([self._between(r, s) for r in range(len(t.transports))])
                for s in range(self.states)
            ]
        )

    def _between(self, r: int, s: int) -> Floats:
        """(g, g, p) with the requester as the last group."""
        t = self.tables
        grid = tuple(np.ogrid[: t.end + 1, : t.end + 1, : len(t.places)])
        single = self._pairs(r, s, *grid)
        ends = [*(list(group) for group in self.groups), [t.end]]
        by_source = np.array([self._folded(single[source]) for source in ends])
        joined: Floats = np.array([self._folded(by_source[:, target].swapaxes(0, 1)) for target in ends])
        joined = joined.swapaxes(0, 1)
        if self.limits.busy_ms == math.inf:
            return joined
        busy = GroupArcs(t, "throughput", groups=self.groups)._between(r, s)
        return np.where(busy <= self.limits.busy_ms * (1 + SLACK), joined, math.inf)

    def _pairs(self, r: int, s: int, e: Spots, d: Spots, p: Spots) -> Floats:
        """Costs of moves between single ends."""
        # Limits hold for what shares leave of a pair, not for all of it.
        whole = Arcs(self.tables, self.objective).travel(r, s, e, d, p).real
        costs: Floats = np.where(self.tables.free[e, d], 0.0, whole)
        return costs

    def _folded(self, parts: Floats) -> Floats:
        """What moves by several pairs (first axis) cost at least; impossible where one of them is."""
        if self.objective == "throughput":
            # Shares can at best make all pairs equally busy.
            with np.errstate(divide="ignore"):
                joined = 1 / (1 / parts).sum(axis=0)
        elif self.objective in ("latency", "memory"):
            joined = parts.max(axis=0)
        else:
            joined = parts.min(axis=0)
        return np.where(np.isinf(parts).any(axis=0), math.inf, joined)

    def members(self, group: int) -> list[int]:
        """Devices of a group; of the one behind the last, the requester."""
        return list(self.groups[group]) if group < self.count else [self.tables.end]

    def busiest(
        self, ends: tuple[int, int], place: int, state: int, given: Floats, taken: Floats
    ) -> tuple[float, Move]:
        """How long the busiest link between two groups is occupied with these shares, and by which way.

        Of equals the way with the least time is taken.
        """
        sources, targets = np.array(self.members(ends[0])), np.array(self.members(ends[1]))
        t = self.tables
        if len(sources) == len(targets) == 1 and t.free[sources[0], targets[0]]:
            return 0.0, Move()
        ways = []
        grid = (sources[:, None], targets[None, :], np.array(place))
        for r in range(len(t.transports)):
            occupied = Arcs(t, "throughput").travel(r, state, *grid).real
            times = Arcs(t, "latency").travel(r, state, *grid)
            occupied = np.where(t.free[grid[0], grid[1]], 0.0, occupied)
            times = np.where(t.free[grid[0], grid[1]], 0.0, times)
            possible = np.isfinite(occupied).all()
            busy = float((occupied * given[:, None] * taken[None, :]).max()) if possible else math.inf
            first = (
                busy
                if self.objective == "throughput"
                else float(self._folded(self._folded(self._pairs(r, state, *grid))))
            )
            ways.append((first, float(times.max()), r, busy))
        best = min(ways)
        return best[3], move_name(t, best[2], state)

    def at(self, group: int, states: tuple[int, int], start: int, stop: int) -> list[tuple[int, Floats]]:
        """Numbers of threads and with each the time of every member of a stage, the best first."""
        members, t = self.groups[group], self.tables
        spot = (slice(None), states[0], states[1], start, stop)
        totals = [self._totals(members, times)[spot] for times in self._times(members)]
        if len(members) == 1 and t.wants.choose_threads:
            names = [t.devices[members[0]]]
            return [(best_threads(t.costs, names, t.places[start], t.places[stop]), totals[0])]
        threads = self.shared_threads(members) if len(totals) > 1 else [0]
        rated = self.objective == "throughput"
        ways = zip(threads, totals, strict=True)
        return sorted(ways, key=lambda way: float(shared_ms(way[1]) if rated else way[1].max()))


def shares(total: Floats) -> Floats:
    """Share of requests of each member (first axis), by its rate; equal where that is none."""
    odd = (total.min(axis=0) == 0) | np.isinf(total.max(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = 1 / total
        return np.where(odd, 1 / len(total), rates / rates.sum(axis=0))


def shared_ms(total: Floats) -> Floats:
    """How long the busiest member (first axis) is busy for each request."""
    return np.asarray(
        np.where(
            np.isinf(total.max(axis=0)),
            math.inf,
            (shares(total) * np.where(np.isinf(total), 0, total)).max(axis=0),
        )
    )
