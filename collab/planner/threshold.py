"""Smallest bottleneck for many devices of few types: how far can so many of each get within a time?

If a cut's move fits the time between all types or between none, it never hurts to reach
further, so the furthest place for each number of devices used decides.  Where it fits
between some, "all" gives a chain and "some" a bound.  O(types · product of counts) for
each time that is tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from collab.planner.ground import Ground
from collab.planner.options import SLACK, Arcs, Limits, possible_values
from collab.planner.subsets import Step
from collab.planner.tables import Bools, Floats, Tables

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Threshold:
    """The search for one ground; its codecs must be raw alone."""

    ground: Ground

    @cached_property
    def arcs(self) -> Arcs:
        """Costs of stages and moves."""
        return Arcs(self.ground.tables, "throughput")

    @cached_property
    def layers(self) -> list[tuple[Ints, list[tuple[Bools, Ints]]]]:
        """Counts of devices used, by their sum; by type where it may be last, and the counts before."""
        counts = [len(group) for group in self.ground.types]
        weights: Ints = np.cumprod([1, *(count + 1 for count in counts[:-1])])
        keys = np.arange(math.prod(count + 1 for count in counts), dtype=np.int64)
        digits = [keys // weight % (count + 1) for weight, count in zip(weights, counts, strict=True)]
        total = np.sum(digits, axis=0)
        order = np.argsort(total, kind="stable")
        bounds = np.searchsorted(total[order], np.arange(self.ground.max_stages + 2))
        layers = []
        for i in range(1, self.ground.max_stages + 1):
            layer = order[bounds[i] : bounds[i + 1]]
            steps = [
                (digits[d][layer] > 0, layer[digits[d][layer] > 0] - weights[d]) for d in range(len(counts))
            ]
            layers.append((layer, steps))
        return layers

    def solve(self) -> tuple[list[Step] | None, float]:
        """A path with a small bottleneck, None if none is known, and what none can be below."""
        values = possible_values(self.arcs)
        low = int(np.searchsorted(values, work_ms(self.ground) * (1 - SLACK)))
        high = self._first(values, low, len(values), lambda value: self.path(value, every=True) is not None)
        some = self._first(values, low, high, lambda value: self.path(value, every=False) is not None)
        path = self.path(float(values[high]), every=True) if high < len(values) else None
        return path, float(values[some]) if some < len(values) else math.inf

    @staticmethod
    def _first(values: Floats, low: int, high: int, holds: Callable[[float], bool]) -> int:
        """Index of the first value that holds, ``high`` if none before it does."""
        while low < high:
            middle = (low + high) // 2
            if holds(float(values[middle])):
                high = middle
            else:
                low = middle + 1
        return low

    def path(self, limit_ms: float, every: bool) -> list[Step] | None:
        """A path with no part longer than a time; with ``every`` cuts must fit all types, else some."""
        furthest, entering = self._furthest(limit_ms, every)
        last = self.ground.tables.last
        reach = np.full(math.prod(len(group) + 1 for group in self.ground.types), -1, np.int64)
        reach[0] = 0
        for i, (layer, steps) in enumerate(self.layers):
            best = np.full(len(layer), -1, np.int64)
            for device, (where, before) in enumerate(steps):
                table = entering[device] if i == 0 else furthest[device]
                best[where] = np.maximum(best[where], table[reach[before]])
            reach[layer] = best
            done = np.flatnonzero(best == last)
            if len(done):
                return self._back(reach, int(layer[done[0]]), i, furthest, entering)
            if not (best > 0).any():
                return None
        return None

    def _furthest(self, limit_ms: float, every: bool) -> tuple[Ints, Ints]:
        """(d, p + 1) each: the furthest place by where a stage starts, also for the first; -1 for none."""
        t = self.ground.tables
        possible = np.isfinite(Arcs(t, "throughput", Limits(busy_ms=limit_ms)).base)
        fits = self.arcs.moves[0] <= limit_ms * (1 + SLACK)
        pairs = fits[: t.end, : t.end][self._pairs]
        good = pairs.all(axis=0) if every else pairs.any(axis=0)
        if not len(pairs):
            good = np.zeros(len(t.places), bool)
        stops = np.repeat(good[None], t.end, axis=0)
        stops[:, t.last] = fits[: t.end, t.end, t.last]
        tables = []
        for which in (possible & stops[:, None, :], possible & (stops & t.firsts)[:, None, :]):
            far = np.where(which.any(axis=2), t.last - which[:, :, ::-1].argmax(axis=2), -1)
            # Index -1 stands for nothing reached, and leads nowhere.
            tables.append(np.concatenate([far, np.full((t.end, 1), -1)], axis=1))
        tables[1] = np.where(fits[t.end, : t.end, 0][:, None], tables[1], -1)
        return tables[0], tables[1]

    @cached_property
    def _pairs(self) -> Bools:
        """(d, d): types of which one device may come after the other."""
        alone = np.array([len(group) == 1 for group in self.ground.types])
        return ~np.diag(alone)

    def _back(self, reach: Ints, key: int, layer: int, furthest: Ints, entering: Ints) -> list[Step]:
        path, stop = [], int(reach[key])
        for i in range(layer, -1, -1):
            keys, steps = self.layers[i]
            row = int(np.flatnonzero(keys == key)[0])
            for device, (where, before) in enumerate(steps):
                if not where[row]:
                    continue
                prior = int(before[np.count_nonzero(where[:row])])
                start = int(reach[prior])
                if (entering if i == 0 else furthest)[device, start] == stop:
                    path.append(Step(device, start, stop, 0))
                    key, stop = prior, start
                    break
        return path[::-1]


def work_ms(ground: Ground) -> float:
    """No bottleneck is below all work shared by all devices, with replicas or without."""
    counts = np.array([float(len(group)) for group in ground.types])
    return shared_work_ms(ground.tables, counts)


def shared_work_ms(tables: Tables, counts: Floats) -> float:
    """The same for so many devices of each kind (d,).

    Weak duality: devices weigh by their speed, each piece of the model goes where it costs
    least for its weight.
    """
    wholes = tables.ms[:, 0, tables.last]
    if not (wholes > 0).all():
        return 0.0
    return float((pieces_ms(tables) / wholes[:, None]).min(axis=0).sum() / (counts / wholes).sum())


def pieces_ms(tables: Tables) -> Floats:
    """(d, p - 1): the least time of what is between two neighbouring places, in whatever stage."""
    pieces = np.array([np.diagonal(ms, 1) for ms in tables.ms])
    fixed = [
        max(d.stage_ms, *(w.stage_ms for w in d.more_threads), 0.0)
        for d in map(tables.costs.devices.__getitem__, tables.devices)
    ]
    least: Floats = np.maximum(pieces - np.array(fixed)[:, None], 0)
    return least
