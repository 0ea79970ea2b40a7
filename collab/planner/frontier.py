"""The best compromises between two objectives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from collab.core.profile import Profile
from collab.errors import PlanError
from collab.planner.chains import Objective, Option, Wants
from collab.planner.evaluate import Evaluator
from collab.planner.exact import Pool, best_path, optimum
from collab.planner.ground import Ground, ground_for, tightest
from collab.planner.labels import Compromises
from collab.planner.options import SLACK, Arcs, Limits, possible_values
from collab.planner.refuse import check, check_memory, check_reach, explain

MAXIMA = ("throughput", "memory")
"""Objectives that are the largest of parts; the others are sums."""


def frontier(profile: Profile, wants: Wants, x: Objective, y: Objective) -> tuple[Option, ...]:
    """All chains that no other beats in both objectives, sorted by ``x``; one chain for each pair of costs.

    Where one objective is a maximum, the other is minimised under ever smaller limits of it
    (the ε-constraint method, Haimes et al. 1971); two sums go by labels.  Raises `PlanError`
    for wants that cannot be kept, and for ones of which no frontier can be made.
    """
    costs = Evaluator(profile)
    check(costs, wants)
    if wants.revisit or wants.max_replicas > 1 or any(len(nodes) > 1 for nodes in wants.assign or ()):
        raise PlanError(
            "revisit, max_replicas: a frontier is of chains with one range on each node; leave them out"
        )
    if wants.deadline_ms is not None and "latency" not in (x, y):
        raise PlanError("deadline_ms: a frontier has a deadline only where latency is one of its objectives")
    ground = ground_for(costs, wants)
    check_memory(ground.tables)
    check_reach(ground.tables)
    found = list(_compromises(ground, x, y))
    deadline = wants.deadline_ms if wants.deadline_ms is not None else math.inf
    kept = undominated((option for option in found if option.costs.latency_ms <= deadline), x, y)
    if not found:
        raise explain(ground.tables, ground.space, ground.max_stages)
    if not kept:
        best = min(option.costs.latency_ms for option in found)
        raise PlanError(
            f"deadline_ms: {deadline:g} ms cannot be met; the best possible latency is {best:.6g} ms"
        )
    return kept


def _compromises(ground: Ground, x: Objective, y: Objective) -> Iterable[Option]:
    if x in MAXIMA or y in MAXIMA:
        return _limited(ground, *((x, y) if x in MAXIMA else (y, x)))
    pools = [Pool(objective) for objective in dict.fromkeys((x, y))]
    known = [option for pool in pools if (option := optimum(ground, pool.objective, pool, 5)) is not None]
    if not known or x == y:
        return known
    known += [option for pool in pools for option in pool.found.values()]
    return Compromises(ground, x, y, known, math.inf).run()


def _limited(ground: Ground, maximum: Objective, other: Objective) -> Iterator[Option]:
    """The least of one objective under every useful limit of a maximum, downwards."""
    values = possible_values(Arcs(ground.tables, maximum))
    limits = Limits()
    while True:
        arcs = Arcs(ground.tables, other, limits)
        _, path = best_path(ground, arcs)
        if path is None:
            return
        option = ground.option(arcs, path)
        yield option
        below = int(np.searchsorted(values, option.costs.of(maximum) * (1 - 10 * SLACK))) - 1
        if below < 0:
            return
        limits = tightest(float(values[below]), maximum)


def undominated(options: Iterable[Option], x: Objective, y: Objective) -> tuple[Option, ...]:
    """Those that no other beats, sorted by ``x``; of equals the first."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.costs.of(x), o.costs.of(y))):
        if not kept or option.costs.of(y) < kept[-1].costs.of(y) * (1 - SLACK):
            kept.append(option)
    return tuple(kept)
