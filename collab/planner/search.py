"""Good plans for many different devices, and what none can be better than.

The bound comes from chains that may use devices again (`layered`) and, for a bottleneck,
from sharing all work among all devices.  Plans come from the exact optimum over few
promising devices and from a local search over orders, each with its best cuts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from collab.planner.chains import Objective, Option
from collab.planner.exact import Pool, best_path, fastest_within
from collab.planner.ground import Ground, ground_for, paths, tightest
from collab.planner.layered import completions, relaxed
from collab.planner.options import SLACK, Arcs, Costs
from collab.planner.product import product
from collab.planner.subsets import devices_of
from collab.planner.threshold import Threshold, work_ms

_WORK = 600_000_000
"""Sums that the local search makes at most."""
_ROUNDS = 60
"""Prices that are tried for a bound."""
_CORE = 8
"""Devices over which the first plan is exact."""
_STATES = 1_500_000
"""Numbers of devices by type that a search by thresholds keeps."""

Path = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """A plan and what none can be better than."""

    best: Option | None
    bound: float
    method: str


def search(ground: Ground, objective: Objective, pool: Pool) -> Found:
    """A good plan for a ground that is too large for an exact search."""
    arcs = Arcs(ground.tables, objective)
    bound, path = relaxed(arcs, completions(arcs))
    lowest = float(bound.real)
    if objective == "throughput":
        lowest = max(lowest, work_ms(ground))
    core = list(_core(ground, objective, pool))
    order = tuple(device for device, _, _ in path)
    if path and _possible(ground, order):
        best = _priced(ground, arcs, order)
        if best is not None and _reached(best.costs.of(objective), lowest):
            pool.add([best])
            return Found(
                best,
                best.costs.of(objective),
                "exact: the best chain with devices used again uses none again",
            )
    starts = [order] if order else []
    if len(ground.tables.codecs) > 1 and objective == "throughput" and "raw" in ground.tables.wants.codecs:
        starts += _without_codecs(ground, pool)
    elif objective == "throughput" and _few(ground):
        steps, least = Threshold(ground).solve()
        lowest = max(lowest, least)
        starts = [devices_of(steps)] if steps else starts
        best = _priced(ground, arcs, starts[0]) if steps else None
        if best is not None and _reached(best.costs.of(objective), lowest):
            pool.add([best])
            return Found(best, best.costs.of(objective), "exact: found by thresholds, as good as the bound")
    starts += [*core, *_prefixes(ground)]
    found = _local(ground, arcs, starts, lowest, pool)
    if not arcs.add or found.best is None or found.method.startswith("exact"):
        return found
    better, orders = _priced_bound(ground, objective, found.best.costs.of(objective))
    again = _local(ground, arcs, [*orders, *(_order(ground, found.best),)], max(lowest, better), pool)
    return again if again.best is not None else found


def _without_codecs(ground: Ground, pool: Pool) -> list[Path]:
    """The order of a plan that sends everything raw."""
    raw = ground_for(ground.costs, replace(ground.tables.wants, codecs=("raw",)))
    found = search(raw, pool.objective, pool)
    if found.best is None:
        return []
    return [_order(ground, found.best)]


def _order(ground: Ground, option: Option) -> Path:
    index = {name: d for d, group in enumerate(ground.types) for name in group}
    return tuple(index[stage.nodes[0]] for stage in option.chain.stages)


def _priced_bound(ground: Ground, objective: Objective, upper: float) -> tuple[float, list[Path]]:
    """A better bound for sums, and orders of devices that come close to it.

    Using a device more often than there are ones has a price; the best chain with prices,
    less what all devices together may earn, is a bound for any prices (Held and Karp, "The
    traveling-salesman problem and minimum spanning trees", 1971).
    """
    t = ground.tables
    counts = np.array([float(len(group)) for group in ground.types])
    prices, bound = np.zeros(t.end), 0.0
    orders: list[Path] = []
    scale = 1.0
    for _ in range(min(_ROUNDS, _WORK // (t.end * len(t.places) ** 2))):
        arcs = Arcs(t, objective, prices=prices)
        value, path = relaxed(arcs, completions(arcs))
        order = tuple(device for device, _, _ in path)
        now = float(value.real) - float(prices @ counts)
        if now > bound:
            bound = now
            orders.append(order)
        else:
            scale *= 0.8
        over = np.bincount(order, minlength=t.end) - counts
        over[(prices == 0) & (over < 0)] = 0
        if not over.any() or not math.isfinite(now):
            break
        prices = np.maximum(0, prices + scale * max(upper - now, 0.0) * over / float(over @ over))
    return bound, orders[-_CORE:]


def _few(ground: Ground) -> bool:
    return len(ground.tables.codecs) == 1 and math.prod(len(group) + 1 for group in ground.types) <= _STATES


def _reached(value: float, bound: float) -> bool:
    return value <= bound * (1 + 1e-9)


def _possible(ground: Ground, order: Sequence[int]) -> bool:
    """Whether there are as many devices of each type, and stages are allowed."""
    counts = Counter(order)
    return len(order) <= ground.max_stages and all(n <= len(ground.types[d]) for d, n in counts.items())


def _priced(ground: Ground, arcs: Arcs, order: Sequence[int]) -> Option | None:
    """The best chain over devices in an order."""
    _, path = best_path(ground.within(order), arcs)
    if path is None:
        return None
    option = ground.option(arcs, path)
    if not arcs.add:
        limits = tightest(option.costs.of(arcs.objective), arcs.objective)
        option = fastest_within(ground.within(order), limits) or option
    return option


class Neighbourhood:
    """An order of devices with its costs from both ends, so that a change costs only what it changes."""

    def __init__(self, arcs: Arcs, order: Path) -> None:
        self.arcs, self.order, t = arcs, order, arcs.tables
        self.heads: list[Costs] = []
        for i, device in enumerate(order):
            self.heads.append(self._stage(self._into(i, (), device), device, first=i == 0))
        self.tails = [np.zeros(0)] * len(order)
        last = arcs.moves[:, order[-1], t.end, t.last]
        behind: Costs = np.full((arcs.states, len(t.places)), arcs.infinite)
        behind[:, t.last] = last
        for i in range(len(order) - 1, -1, -1):
            ways = arcs.join(_stage(arcs, order[i]), behind[None, :, None, :])
            self.tails[i] = ways.min(axis=(1, 3))
            behind = arcs.join(arcs.moves[:, order[i - 1], order[i]], self.tails[i]) if i else behind
        self.value = float(arcs.join(self.heads[-1][:, t.last], last).min().real)

    def _into(self, kept: int, middle: Path, device: int, so_far: Costs | None = None) -> Costs:
        """(s, p): costs of arriving at a device behind the first ``kept`` devices and some others."""
        t = self.arcs.tables
        if not kept and not middle:
            into: Costs = np.full((self.arcs.states, len(t.places)), self.arcs.infinite)
            into[:, 0] = self.arcs.moves[:, t.end, device, 0]
            return into
        source = middle[-1] if middle else self.order[kept - 1]
        costs = so_far if so_far is not None else self.heads[kept - 1]
        return self.arcs.join(costs, self.arcs.moves[:, source, device])

    def _stage(self, into: Costs, device: int, first: bool) -> Costs:
        if self.arcs.separable:
            out = product(self.arcs, into[None], device)[0]
        else:
            out = self.arcs.join(into[:, None, :, None], _stage(self.arcs, device)).min(axis=(0, 2))
        return np.where(self.arcs.tables.firsts[device], out, self.arcs.infinite) if first else out

    def changed(self, kept: int, middle: Path, tail: int) -> float:
        """Costs of the first ``kept`` devices, then others, then those from ``tail`` on."""
        t = self.arcs.tables
        if not kept and not middle:
            # Whoever becomes first has to keep the rules for the first stage.
            middle, tail = (self.order[tail],), tail + 1
        out: Costs | None = None
        for i, device in enumerate(middle):
            into = self._into(kept, middle[:i], device, out)
            out = self._stage(into, device, first=not kept and i == 0)
        if tail < len(self.order):
            into = self._into(kept, middle, self.order[tail], out)
            return float(self.arcs.join(into, self.tails[tail]).min().real)
        source = middle[-1] if middle else self.order[kept - 1]
        ends = out if out is not None else self.heads[kept - 1]
        return float(self.arcs.join(ends[:, t.last], self.arcs.moves[:, source, t.end, t.last]).min().real)


def _stage(arcs: Arcs, device: int) -> Costs:
    if ("stage", device) not in arcs.memory:
        arcs.memory["stage", device] = arcs.stage(device)
    kept: Costs = arcs.memory["stage", device]
    return kept


def _local(ground: Ground, arcs: Arcs, starts: list[Path], bound: float, pool: Pool) -> Found:
    """Improve an order until none of its neighbours is better, or enough were tried."""
    tried = [Neighbourhood(arcs, order) for start in starts if (order := _repaired(ground, start))]
    near = min((one for one in tried if math.isfinite(one.value)), key=lambda one: one.value, default=None)
    if near is None:
        return Found(None, bound, "")
    seen, left = [near.order], _WORK
    while not _reached(near.value, bound):
        better: Path | None = None
        for kept, middle, tail in _changes(ground, near.order):
            left -= (len(middle) + 1) * (20_000 + (arcs.states * len(arcs.tables.places)) ** 2)
            if near.changed(kept, middle, tail) < near.value * (1 - SLACK):
                better = (*near.order[:kept], *middle, *near.order[tail:])
                break
            if left <= 0:
                break
        if better is None:
            break
        near = Neighbourhood(arcs, better)
        seen.append(better)
    pool.add(option for order in seen[-_CORE:] if (option := _priced(ground, arcs, order)) is not None)
    best = pool.leader
    if best is None:
        return Found(None, bound, "")
    value = best.costs.of(arcs.objective)
    if _reached(value, bound):
        return Found(best, value, "exact: found by search, as good as the bound")
    return Found(best, bound, "search over orders of devices, with a certified bound")


def _repaired(ground: Ground, order: Path) -> Path:
    """An order without devices that there are not."""
    used: Counter[int] = Counter()
    kept: list[int] = []
    for device in order:
        if used[device] < len(ground.types[device]) and len(kept) < ground.max_stages:
            used[device] += 1
            kept.append(device)
    return tuple(kept)


def _prefixes(ground: Ground) -> Iterator[Path]:
    """More and more of the fastest devices: enough of them where memory is tight."""
    t = ground.tables
    ranked = [int(d) for d in np.argsort(t.ms[:, 0, t.last], kind="stable") for _ in ground.types[int(d)]]
    first = t.devices.index(t.wants.first_on) if t.wants.first_on in t.devices else ranked[0]
    ranked.remove(first)
    count = 1
    while count < ground.max_stages:
        yield (first, *ranked[: count - 1])
        count += 1 + count // 4
    yield (first, *ranked[: ground.max_stages - 1])


def _core(ground: Ground, objective: Objective, pool: Pool) -> Iterator[Path]:
    """The exact optimum over the fastest devices."""
    t = ground.tables
    ranked = np.argsort(t.ms[:, 0, t.last], kind="stable")
    first = t.wants.first_on
    chosen = [t.devices.index(first)] if first in t.devices else []
    chosen += [int(d) for d in ranked if int(d) not in chosen]
    names = [name for d in chosen for name in ground.types[d]][:_CORE]
    small = ground_for(ground.costs, t.wants, names)
    arcs = Arcs(small.tables, objective)
    index = {name: d for d, group in enumerate(ground.types) for name in group}
    for path in islice(paths(small.run(arcs), _CORE), _CORE):
        pool.add([small.option(arcs, path)])
        yield tuple(index[small.types[step.device][0]] for step in path)


def _changes(ground: Ground, order: Path) -> Iterator[tuple[int, Path, int]]:
    """One device more, another, two swapped, one less: what is kept, what follows, where the tail starts."""
    used = Counter(order)
    spare = [d for d, group in enumerate(ground.types) if used[d] < len(group)]
    count = len(order)
    if count < ground.max_stages:
        yield from ((i, (device,), i) for i in range(count, -1, -1) for device in spare)
    yield from ((i, (device,), i + 1) for i in range(count) for device in spare if device != order[i])
    for i in range(count):
        if count > 1:
            yield i, (), i + 1
        for j in range(i + 1, count):
            if order[i] != order[j]:
                yield i, (order[j], *order[i + 1 : j], order[i]), j + 1
