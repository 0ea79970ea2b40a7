"""A frontier has every best compromise and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest

from collab.errors import PlanError
from collab.planner.chains import OBJECTIVES, Wants
from collab.planner.evaluate import Evaluator
from collab.planner.frontier import frontier
from tests.unit.planner import brute
from tests.unit.planner.instances import instance


def reference(points):
    kept: list[tuple[float, float]] = []
    for point in sorted(points):
        if not kept or point[1] < kept[-1][1] * (1 - 1e-9) - 1e-12:
            kept.append(point)
    return kept


@pytest.mark.parametrize(("x", "y"), list(combinations(OBJECTIVES, 2)))
def test_it_is_what_is_left_of_all_chains(x, y):
    longest = 0
    for seed in range(12):
        made = instance(seed, limit=150)
        wants = replace(made.wants, deadline_ms=None)
        every = brute.options(made.profile, wants)
        expected = reference([(o.costs.of(x), o.costs.of(y)) for o in every])
        longest = max(longest, len(expected))
        if not expected:
            with pytest.raises(PlanError):
                frontier(made.profile, wants, x, y)
            continue
        found = frontier(made.profile, wants, x, y)
        costs = Evaluator(made.profile)
        assert all(costs.evaluate(option.chain).costs == option.costs for option in found)
        points = [(option.costs.of(x), option.costs.of(y)) for option in found]
        assert len(points) == len(expected), f"seed {seed}: {points} for {expected}"
        for point, other in zip(points, expected, strict=True):
            assert all(
                math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) for a, b in zip(point, other, strict=True)
            ), f"seed {seed}: {points} for {expected}"
    assert longest > 1


def test_a_deadline_cuts_a_frontier_off():
    made = instance(3, "plain")
    wants = Wants()
    every = frontier(made.profile, wants, "latency", "memory")
    deadline = every[-1].costs.latency_ms
    assert frontier(made.profile, replace(wants, deadline_ms=deadline), "latency", "memory") == every
    with pytest.raises(PlanError, match="cannot be met; the best possible latency is"):
        frontier(made.profile, replace(wants, deadline_ms=every[0].costs.latency_ms / 2), "latency", "memory")


@pytest.mark.parametrize("wants", [Wants(revisit=True), Wants(max_replicas=2)])
def test_a_frontier_is_of_chains_with_one_range_on_each_node(wants):
    with pytest.raises(PlanError, match="a frontier is of chains with one range on each node"):
        frontier(instance(3, "plain").profile, wants, "latency", "throughput")


def test_a_deadline_needs_the_latency_among_the_objectives():
    with pytest.raises(PlanError, match="deadline_ms: a frontier has a deadline only where latency"):
        frontier(instance(3, "plain").profile, Wants(deadline_ms=5), "energy", "throughput")
