"""Good plans for many different devices, and what none can be better than.

The bound comes from chains that may use devices again (`layered`) and, for a bottleneck,
from sharing all work among all devices.  Plans come from the exact optimum over few
promising devices and from a local search over orders, each with its best cuts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from collab.planner.chains import Objective, Option
from collab.planner.exact import Pool, best_path, fastest_within, rank
from collab.planner.ground import Ground, ground_for, paths, tightest
from collab.planner.layered import completions, relaxed
from collab.planner.options import SLACK, Arcs, Costs
from collab.planner.subsets import devices_of
from collab.planner.threshold import Threshold, work_ms

_TRIES = 4_000
"""Orders of devices that the local search prices at most."""
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
    if objective == "throughput" and _few(ground):
        steps, least = Threshold(ground).solve()
        lowest = max(lowest, least)
        starts = [devices_of(steps)] if steps else starts
    return _local(ground, arcs, [*starts, *core], lowest, pool)


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


def along(arcs: Arcs, order: Sequence[int]) -> float:
    """The least costs of a chain over devices in an order."""
    t = arcs.tables
    into: Costs = np.full((arcs.states, len(t.places)), arcs.infinite)
    into[:, 0] = arcs.moves[:, t.end, order[0], 0]
    for i, device in enumerate(order):
        ways = arcs.join(into[:, None, :, None], _stage(arcs, device))
        out = ways.min(axis=(0, 2))
        if i == 0:
            out = np.where(t.firsts[device], out, arcs.infinite)
        if i + 1 < len(order):
            into = arcs.join(out, arcs.moves[:, device, order[i + 1]])
    return float(arcs.join(out[:, t.last], arcs.moves[:, order[-1], t.end, t.last]).min().real)


def _stage(arcs: Arcs, device: int) -> Costs:
    if ("stage", device) not in arcs.memory:
        arcs.memory["stage", device] = arcs.stage(device)
    kept: Costs = arcs.memory["stage", device]
    return kept


def _local(ground: Ground, arcs: Arcs, starts: list[Path], bound: float, pool: Pool) -> Found:
    """Improve orders until none of their neighbours is better, or enough were tried."""
    best: tuple[float, Path] | None = None
    tries = _TRIES
    for start in (_repaired(ground, order) for order in starts):
        value = along(arcs, start) if start else math.inf
        if math.isfinite(value) and (best is None or value < best[0]):
            best = value, start
    while best is not None and tries > 0 and not _reached(best[0], bound):
        better = None
        for order in _neighbours(ground, best[1]):
            tries -= 1
            value = along(arcs, order)
            if value < best[0] * (1 - SLACK):
                better = value, order
                break
            if tries <= 0:
                break
        if better is None:
            break
        best = better
    option = None if best is None else _priced(ground, arcs, best[1])
    if option is None:
        return Found(None, bound, "")
    pool.add([option])
    option = min(pool.found.values(), key=lambda o: rank(o, arcs.objective), default=option)
    value = option.costs.of(arcs.objective)
    if _reached(value, bound):
        return Found(option, value, "exact: found by search, as good as the bound")
    return Found(option, bound, "search over orders of devices, with a certified bound")


def _repaired(ground: Ground, order: Path) -> Path:
    """An order without devices that there are not."""
    used: Counter[int] = Counter()
    kept: list[int] = []
    for device in order:
        if used[device] < len(ground.types[device]) and len(kept) < ground.max_stages:
            used[device] += 1
            kept.append(device)
    return tuple(kept)


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


def _neighbours(ground: Ground, order: Path) -> Iterator[Path]:
    """Orders with one device more, less, another, or two swapped."""
    used = Counter(order)
    spare = [d for d, group in enumerate(ground.types) if used[d] < len(group)]
    if len(order) < ground.max_stages:
        for i in range(len(order), -1, -1):
            for device in spare:
                yield (*order[:i], device, *order[i:])
    for i in range(len(order)):
        for device in spare:
            if device != order[i]:
                yield (*order[:i], device, *order[i + 1 :])
    for i in range(len(order)):
        for j in range(i):
            if order[i] != order[j]:
                swapped = list(order)
                swapped[i], swapped[j] = order[j], order[i]
                yield tuple(swapped)
        if len(order) > 1:
            yield (*order[:i], *order[i + 1 :])
