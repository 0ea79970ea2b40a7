"""The best chain for a profile and what is wanted of it."""

from __future__ import annotations

import math
from dataclasses import replace

from collab.core.ids import NodeName
from collab.core.profile import Profile
from collab.errors import PlanError
from collab.planner.chains import Option, Solution, Wants
from collab.planner.evaluate import Evaluator
from collab.planner.exact import Pool, optimum, within_deadline
from collab.planner.ground import Ground, ground_for
from collab.planner.labels import Compromises
from collab.planner.refuse import allowed_devices, check, check_memory, check_reach, explain
from collab.planner.replicas import field_for, with_replicas
from collab.planner.revisit import with_revisits
from collab.planner.search import Found, search
from collab.planner.tables import tables_for
from collab.planner.threshold import work_ms

_SETS = 2**12
"""Sets of devices over which a search is always exact: those of 12 different ones."""
_ELEMENTS = 20_000_000
"""Costs that an exact search over more sets may keep, 8 bytes each."""
_ALONE = 32
"""Devices that are compared in one pass: sets of them are numbers of 64 bits."""


def solve(profile: Profile, wants: Wants, runners_up: int = 5) -> Solution:
    """The best chain; of equals the one with the least latency, then with the fewest stages.

    Exact for up to 12 different devices that hold one range each, and else where a bound
    proves it: `Solution.method` and `Solution.bound` tell.  Its costs are those of `Evaluator`.
    Raises `PlanError` if the wants contradict each other or nothing can keep them.
    """
    costs = Evaluator(profile)
    check(costs, wants)
    ground = ground_for(costs, wants)
    check_memory(ground.tables)
    check_reach(ground.tables)
    pool = Pool(wants.objective, math.inf if wants.deadline_ms is None else wants.deadline_ms)
    found = _found(ground, wants, pool, runners_up)
    if found.best is None:
        raise _why(ground, wants)
    single = best_single(costs, wants)
    others = pool.others(found.best, runners_up)
    return Solution(
        found.best, others, single, found.method, min(found.bound, found.best.costs.of(wants.objective))
    )


def _found(ground: Ground, wants: Wants, pool: Pool, others: int) -> Found:
    """The best chain by the search that fits what is wanted."""
    if any(len(names) > 1 for names in wants.assign or ()):
        return _replicated(ground, wants, pool)
    if wants.max_replicas > 1 and wants.objective == "throughput" and wants.assign is None:
        found = _replicated(ground, wants, pool)
        if not wants.revisit:
            return found
        _revisiting(ground, wants, pool)
        return Found(
            pool.leader, work_ms(ground), "search over replicas and over revisits, with a certified bound"
        )
    if wants.revisit:
        return _revisiting(ground, wants, pool)
    if not _small(ground):
        return _large(ground, wants, pool)
    return _exact(ground, wants, pool, others)


def _small(ground: Ground) -> bool:
    return ground.sets <= _SETS or ground.elements <= _ELEMENTS


def _why(ground: Ground, wants: Wants) -> PlanError:
    """Why there is no chain."""
    if wants.deadline_ms is not None:
        free = replace(wants, deadline_ms=None, objective="latency")
        found = _found(ground, free, Pool("latency"), 0)
        if found.best is not None:
            return _too_late(wants, found.best)
    return explain(ground.tables, ground.space, ground.max_stages, _small(ground))


def _too_late(wants: Wants, fastest: Option) -> PlanError:
    return PlanError(
        f"deadline_ms: {wants.deadline_ms:g} ms cannot be met; "
        f"the best possible latency is {fastest.costs.latency_ms:.6g} ms"
    )


def _large(ground: Ground, wants: Wants, pool: Pool) -> Found:
    if wants.at is None and (single := best_single(ground.costs, wants)) is not None:
        pool.add([single])
    if wants.deadline_ms is not None and wants.objective != "latency":
        search(ground, "latency", pool)
    found = search(ground, wants.objective, pool)
    if pool.leader is None:
        return Found(None, found.bound, "")
    return replace(found, best=pool.leader)


def _replicated(ground: Ground, wants: Wants, pool: Pool) -> Found:
    every = allowed_devices(ground.costs, wants)
    if wants.assign is not None:
        every = [name for name in every if any(name in names for names in wants.assign)]
    return with_replicas(field_for(tables_for(ground.costs, wants, every)), wants.objective, pool)


def _revisiting(ground: Ground, wants: Wants, pool: Pool) -> Found:
    names = [name for group in ground.types for name in group]
    return with_revisits(tables_for(ground.costs, wants, names), wants.objective, pool)


def _exact(ground: Ground, wants: Wants, pool: Pool, others: int) -> Found:
    best = optimum(ground, wants.objective, pool, others)
    method = "exact: dynamic programming over sets of devices"
    if best is None or best.costs.latency_ms <= pool.deadline_ms:
        return Found(best, best.costs.of(wants.objective) if best else math.inf, method)
    fastest = optimum(ground, "latency", pool, others)
    if fastest is None or fastest.costs.latency_ms > pool.deadline_ms:
        return Found(None, math.inf, "")
    if wants.objective in ("throughput", "memory"):
        found = within_deadline(ground, wants.objective, pool, fastest)
        return Found(found, found.costs.of(wants.objective), method + " under ever smaller limits")
    search = Compromises(ground, wants.objective, "latency", list(pool.found.values()), pool.deadline_ms)
    pool.add(search.run())
    bound = best.costs.of(wants.objective)
    if pool.leader is not None and search.complete:
        return Found(pool.leader, pool.leader.costs.of(wants.objective), "exact: labels with dominance")
    return Found(pool.leader, bound, "labels with dominance, cut off, with a certified bound")


def best_single(costs: Evaluator, wants: Wants) -> Option | None:
    """The whole model on the best one device: what a plan has to beat.

    ``at``, ``assign``, ``first_ops`` and the deadline do not count here, for they are about other
    plans; the device must be allowed and, where it is given, be ``first_on``.
    """
    names: list[NodeName] = [name for name in costs.devices if name not in wants.forbidden]
    if wants.first_on is not None:
        names = [wants.first_on]
    alone = replace(wants, at=(), assign=None, first_ops=0, deadline_ms=None, max_stages=1)
    pool = Pool(wants.objective)
    for low in range(0, len(names), _ALONE):
        optimum(ground_for(costs, alone, names[low : low + _ALONE]), wants.objective, pool, 0)
    return pool.leader
