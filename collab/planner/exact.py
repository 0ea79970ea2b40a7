"""Exact plans where each device holds one range: one or two passes over sets of devices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from collab.core.ids import NodeName
from collab.planner.chains import Chain, Objective, Option
from collab.planner.ground import Ground, paths, tightest
from collab.planner.options import Arcs, Limits, possible_values
from collab.planner.subsets import Counts, Step, Sweep, along, devices_of
from collab.planner.threshold import Threshold

_MANY = 1_000_000
"""Costs from which on a first look at what is possible pays."""
_ROOM = 1.25
"""How much worse than what is possible other plans may be."""

Place = tuple[tuple[tuple[NodeName, ...], int, int], ...]


def rank(option: Option, objective: Objective) -> tuple[float, float, int]:
    """What options are ordered by: the objective, then the latency, then the number of stages."""
    return option.costs.of(objective), option.costs.latency_ms, len(option.chain.stages)


@dataclass
class Pool:
    """Distinct plans that were met, each with the best moves that were met for it."""

    objective: Objective
    deadline_ms: float = math.inf
    found: dict[Place, Option] = field(default_factory=dict)
    leader: Option | None = None
    """The best so far."""

    def add(self, options: Iterable[Option]) -> None:
        """Keep what is possible."""
        for option in options:
            if not option.costs.latency_ms <= self.deadline_ms or math.isinf(option.costs.latency_ms):
                continue
            place = where(option.chain)
            known = self.found.get(place)
            if known is None or rank(option, self.objective) < rank(known, self.objective):
                self.found[place] = option
                if self.leader is None or rank(option, self.objective) < rank(self.leader, self.objective):
                    self.leader = option

    def others(self, best: Option, count: int) -> tuple[Option, ...]:
        """The next best: other sets or orders of devices first, then other cuts; best first."""
        ranked = sorted(self.found.values(), key=lambda option: rank(option, self.objective))
        ranked = [option for option in ranked if where(option.chain) != where(best.chain)]
        seen = {nodes(best.chain)}
        new: list[Option] = []
        same: list[Option] = []
        for option in ranked:
            (same if nodes(option.chain) in seen else new).append(option)
            seen.add(nodes(option.chain))
        return tuple(sorted((new + same)[:count], key=lambda option: rank(option, self.objective)))


def where(chain: Chain) -> Place:
    """What makes a plan another one: ranges and their nodes."""
    return tuple((stage.nodes, stage.start, stage.stop) for stage in chain.stages)


def nodes(chain: Chain) -> tuple[tuple[NodeName, ...], ...]:
    """The nodes of the stages."""
    return tuple(stage.nodes for stage in chain.stages)


def best_path(ground: Ground, arcs: Arcs) -> tuple[Sweep, list[Step] | None]:
    """The best chain of one pass."""
    found = ground.run(arcs)
    index = found.best()
    return found, None if index is None else found.path(index)


def fastest_within(ground: Ground, limits: Limits) -> Option | None:
    """The chain with the least latency that keeps to limits."""
    arcs = Arcs(ground.tables, "latency", limits)
    _, path = best_path(ground, arcs)
    return None if path is None else ground.option(arcs, path)


def optimum(ground: Ground, objective: Objective, pool: Pool, others: int) -> Option | None:
    """The best chain without a deadline; of equals the one with the least latency, then fewest stages."""
    arcs = Arcs(ground.tables, objective, _narrowed(ground, objective, others))
    found, path = best_path(ground, arcs)
    if path is None:
        return None
    pool.add(_candidates(ground, found, others))
    if arcs.add:
        best = ground.option(arcs, path)
    else:
        index = found.best()
        assert index is not None  # there is a path
        faster = fastest_within(ground, tightest(float(found.finals[index]), objective))
        best = faster or ground.option(arcs, path)
    pool.add([best])
    return best


def _narrowed(ground: Ground, objective: Objective, others: int) -> Limits:
    """Limits that leave out what is far from a bottleneck that is known to be possible."""
    many = objective == "throughput" and ground.elements > _MANY and ground.max_stages > 2
    if not many or len(ground.tables.codecs) > 1 or not isinstance(ground.space, Counts):
        return Limits()
    path, _ = Threshold(ground).solve()
    if path is None:
        return Limits()
    value = ground.option(Arcs(ground.tables, objective), path).costs.bottleneck_ms
    return Limits(busy_ms=value * (_ROOM if others else 1.0))


def _candidates(ground: Ground, found: Sweep, count: int) -> Iterable[Option]:
    """Other plans of a pass; where a maximum counts, each as fast as it can be with that maximum."""
    limited: dict[float, Arcs] = {}
    objective = found.arcs.objective
    for path in islice(paths(found, count + 1), count + 1):
        faster = None
        if not found.arcs.add:
            value = along(found.arcs, path)
            arcs = limited.setdefault(value, Arcs(ground.tables, "latency", tightest(value, objective)))
            _, faster = best_path(ground.within(devices_of(path)), arcs)
        yield ground.option(found.arcs, path) if faster is None else ground.option(arcs, faster)


def within_deadline(ground: Ground, objective: Objective, pool: Pool, latency: Option) -> Option:
    """The smallest maximum with a latency within the pool's deadline, by bisection over what it can be.

    ``latency`` is the chain with the least latency; it keeps the deadline.
    """
    arcs = Arcs(ground.tables, objective)
    values = possible_values(arcs)
    best, high = latency, int(np.searchsorted(values, latency.costs.of(objective) * (1 + 1e-12), "right")) - 1
    low = -1
    while high - low > 1:
        middle = (low + high) // 2
        option = fastest_within(ground, tightest(float(values[middle]), objective))
        if option is not None and option.costs.latency_ms <= pool.deadline_ms:
            best, high = option, middle
        else:
            low = middle
    pool.add([best])
    return best
