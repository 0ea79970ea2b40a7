"""Predicted costs against cases worked out by hand (design, section 8)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from collab.core.profile import LinkProfile
from collab.planner.cost import ChainCosts, Prediction

R, A, B, C = "r", "a", "b", "c"

COSTS: Any = ChainCosts(
    op_ms={A: [1, 2, 3, 4], B: [2, 2, 2, 2], C: [6, 6, 6, 6]},
    cut_bytes={1: 10_000, 2: 1_000_000, 3: 5_000},
    links={
        (R, A): LinkProfile(1, 100),
        (A, B): LinkProfile(2, 80),
        (B, A): LinkProfile(5, 40),
        (B, R): LinkProfile(3, 8),
        (A, R): LinkProfile(4, 10),
    },
    input_bytes=125_000,
    output_bytes=1_000,
    requester=R,
)
HALVES = [(0, 2), (2, 4)]


def test_latency_adds_stages_and_moves_and_the_bottleneck_is_the_busiest_of_them():
    # in: 1 + 8·125000/100000 = 11; a: 3; a to b: 2 + 8·10⁶/80000 = 102; b: 4; out: 3 + 8·1000/8000 = 4
    assert COSTS.predict(HALVES, [[A], [B]]) == Prediction(11 + 3 + 102 + 4 + 4, 100)


def test_a_node_can_be_the_bottleneck_too():
    slow = replace(COSTS, op_ms={**COSTS.op_ms, B: [0, 0, 70, 50]})
    assert slow.predict(HALVES, [[A], [B]]) == Prediction(11 + 3 + 102 + 120 + 4, 120)


def test_the_whole_model_on_one_node_moves_only_input_and_output():
    assert COSTS.predict([(0, 4)], [[A]]) == Prediction(11 + 10 + 4 + 0.8, 10)


def test_without_a_requester_nothing_comes_in_or_goes_out():
    assert replace(COSTS, requester=None).predict(HALVES, [[A], [B]]) == Prediction(3 + 102 + 4, 100)


def test_a_requester_that_is_a_node_is_not_dialled():
    assert replace(COSTS, requester=A).predict([(0, 4)], [[A]]) == Prediction(10, 10)
    # a to b as above, and back: 5 + 8·1000/40000 = 5.2
    assert replace(COSTS, requester=A).predict(HALVES, [[A], [B]]) == Prediction(3 + 102 + 4 + 5.2, 100)


def test_two_stages_on_one_node_move_nothing_and_their_times_add_up():
    assert replace(COSTS, requester=None).predict(HALVES, [[A], [A]]) == Prediction(10, 10)


def test_a_node_that_is_visited_again_adds_up_and_so_does_a_link():
    free = replace(COSTS, requester=None)
    # a: 1 + 3 + 4 (second visit: operators 2 and 3); b: 2; a to b: 2 + 1; b to a: 5 + 200
    assert free.predict([(0, 1), (1, 2), (2, 4)], [[A], [B], [A]]) == Prediction(8 + 2 + 3 + 205, 200)
    small = replace(free, cut_bytes={1: 0, 2: 0, 3: 0})
    assert small.predict([(0, 1), (1, 2), (2, 4)], [[A], [B], [A]]).bottleneck_ms == 8
    twice = replace(free, cut_bytes={1: 10_000, 2: 0, 3: 30_000}, op_ms={A: [0] * 4, B: [0] * 4})
    # a to b: 8·10000/80000 + 8·30000/80000 = 1 + 3
    ranges = [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert twice.predict(ranges, [[A], [B], [A], [B]]).bottleneck_ms == 4


def test_links_are_directed():
    assert COSTS.predict(HALVES, [[B], [A]]).latency_ms == math.inf  # no link from r to b
    back = replace(COSTS, links={**COSTS.links, (R, B): LinkProfile(0, 1000)})
    # in: 1; b: 4; b to a: 5 + 200; a: 7; out: 4 + 0.8
    assert back.predict(HALVES, [[B], [A]]) == Prediction(1 + 4 + 205 + 7 + 4.8, 200)


@pytest.mark.parametrize("nodes", [[[A], [C]], [[C], [A]], [[B], [C]]])
def test_where_no_link_is_listed_both_are_infinite(nodes):
    assert COSTS.predict(HALVES, nodes) == Prediction(math.inf, math.inf)


@pytest.mark.parametrize("rate", [0, -1])
def test_a_link_without_a_rate_is_no_link(rate):
    dead = replace(COSTS, links={**COSTS.links, (A, B): LinkProfile(2, rate)})
    assert dead.predict(HALVES, [[A], [B]]) == Prediction(math.inf, math.inf)


def test_replicas_share_the_work_and_the_slowest_gives_the_latency():
    light = replace(COSTS, cut_bytes={2: 0}, requester=None)
    # b takes 4, c 12: together one in 1 / (1/4 + 1/12) = 3
    made = light.predict(HALVES, [[A], [B, C]])
    assert made.latency_ms == 3 + 2 + 12
    assert made.bottleneck_ms == pytest.approx(3)
    assert light.predict(HALVES, [[A], [C, B]]).latency_ms == math.inf  # moves go to the first


def test_equal_replicas_halve_the_bottleneck():
    free = replace(COSTS, requester=None, op_ms={A: [8.0], B: [8.0], C: [8.0]}, cut_bytes={})
    assert free.predict([(0, 1)], [[A, B]]) == Prediction(8, 4)
    assert free.predict([(0, 1)], [[A, B, C]]).bottleneck_ms == pytest.approx(8 / 3)


def test_a_replica_that_also_runs_another_stage_is_busier():
    free = replace(COSTS, requester=None, op_ms={A: [6.0, 6.0], B: [6.0, 6.0]}, cut_bytes={1: 0})
    # a: 3 of the first stage's 6, and all of the second's
    assert free.predict([(0, 1), (1, 2)], [[A, B], [A]]).bottleneck_ms == 9


def test_a_stage_that_takes_no_time_is_no_bottleneck():
    idle = replace(COSTS, requester=None, op_ms={A: [0.0], B: [5.0]}, cut_bytes={})
    assert idle.predict([(0, 1)], [[A]]) == Prediction(0, 0)
    assert idle.predict([(0, 1)], [[A, B]]) == Prediction(5, 0)


def test_a_node_that_never_ends_is_a_bottleneck():
    stuck = replace(COSTS, requester=None, op_ms={A: [math.inf]}, cut_bytes={})
    assert stuck.predict([(0, 1)], [[A]]) == Prediction(math.inf, math.inf)


def test_every_range_needs_its_nodes():
    with pytest.raises(ValueError, match=r"zip\(\)"):
        COSTS.predict(HALVES, [[A]])
