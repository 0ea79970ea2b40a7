"""What stands in for a lost node: what is covered, what it may cost, and what need not be sent."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from collab.core.alternatives import alternative_name
from collab.core.ids import check_name
from collab.errors import PlanError
from collab.planner.alternatives import CLOSE, MOST_DEVICES, needed, standbys, used
from collab.planner.chains import Wants
from collab.planner.evaluate import Evaluator
from collab.planner.solve import solve
from tests.unit.planner.instances import instance
from tests.unit.planner.profiles import chain, device, meshed, profile

FAST, SLOW = (1, 1, 1, 1), (10, 10, 10, 10)


def trio(memory=10**9, c=FAST):
    devices = [device("a", FAST, memory), device("b", FAST, memory), device("c", c, memory)]
    return profile(devices, meshed("r", "a", "b", "c"), requester="r")


def test_every_node_that_is_needed_has_a_plan_without_it():
    primary = chain((1, "a"), (2, "b"), (4, "c"))
    found = standbys(trio(), Wants(), primary, solve)
    assert found.missing == {}
    assert {name for standby in found.chosen for name in standby.without} == {"a", "b", "c"}
    for standby in found.chosen:
        assert not set(standby.without) & set(standby.nodes)
    costs = [standby.option.costs.latency_ms for standby in found.chosen]
    assert costs == sorted(costs)


def test_a_plan_on_one_node_serves_for_the_loss_of_several():
    found = standbys(trio(c=SLOW), Wants(), chain((1, "a"), (2, "b"), (4, "c")), solve)
    assert [(s.without, s.nodes) for s in found.chosen] == [(("b", "c"), ("a",)), (("a",), ("b",))] or [
        (s.without, s.nodes) for s in found.chosen
    ] == [(("a", "c"), ("b",)), (("b",), ("a",))]


def test_a_node_with_replicas_needs_none():
    assert needed(chain((2, "a+b"), (4, "c"))) == ("c",)
    found = standbys(trio(), Wants(max_replicas=2), chain((2, "a+b"), (4, "c")), solve)
    assert {name for s in found.chosen for name in s.without} == {"c"}


@pytest.mark.parametrize("slower", [1.02, 1.5])
def test_of_close_ones_that_is_taken_for_which_nodes_have_most(slower):
    # d alone would be a little better than a and b as they are with d in c's place.
    devices = [device("a", (2, 2, 9, 9)), device("b", (9, 9, 2 * slower, 2)), device("d", (9, 9, 2, 2))]
    given = profile([*devices, device("c", (9, 9, 1, 1))], meshed("a", "b", "c", "d", latency_ms=0.001))
    primary = chain((2, "a"), (4, "c"))
    held = chain((2, "a"), (4, "b"))
    found = standbys(given, Wants(), primary, solve)
    (without_c,) = (s for s in found.chosen if "c" in s.without)
    assert (2, "a") in {(stage.stop, stage.nodes[0]) for stage in without_c.option.chain.stages}
    assert used(held)[0] in without_c.nodes


def test_a_first_stage_that_must_stay_on_the_lost_node_has_no_alternative():
    primary = chain((2, "a"), (4, "b"))
    found = standbys(trio(), Wants(first_on="a"), primary, solve)
    assert found.missing == {"a": "first_on: the first stage must be on 'a'"}
    assert all(s.option.chain.stages[0].nodes == ("a",) for s in found.chosen)


def test_memory_that_the_plan_takes_is_not_there_for_its_alternatives():
    found = standbys(trio(memory=4000), Wants(), chain((2, "a"), (4, "b")), solve)
    assert found.missing == {}
    assert {s.nodes for s in found.chosen} == {("c",)}
    tight = standbys(trio(memory=2000), Wants(), chain((2, "a"), (4, "b")), solve)
    assert set(tight.missing) == {"a", "b"}
    assert tight.chosen == ()


def test_a_node_alone_comes_last_and_is_for_the_loss_of_all_others():
    primary = chain((2, "a"), (3, "b"), (4, "c"))
    given = trio(c=SLOW)
    found = standbys(given, Wants(), primary, solve, ["c"])
    last = found.chosen[-1]
    assert (last.nodes, last.without, last.offline) == (("c",), ("a", "b"), True)
    assert len(found.chosen) == 3


def test_a_plan_that_is_on_one_node_anyway_may_serve_as_the_one_for_a_node_alone():
    primary = chain((2, "a"), (4, "b"))
    found = standbys(trio(c=SLOW), Wants(), primary, solve, ["a"])
    (alone,) = (s for s in found.chosen if s.offline)
    assert alone.nodes == ("a",)
    assert sum(s.nodes == ("a",) for s in found.chosen) == 1
    whole = standbys(trio(), Wants(), chain((4, "a")), solve, ["a"])
    assert whole.missing == {"a": "the plan is on 'a' alone already"}


def test_of_many_devices_only_chains_like_the_primary_and_whole_models_are_compared():
    names = [f"d{i}" for i in range(MOST_DEVICES + 1)]
    given = profile([device(name, FAST) for name in names], meshed(*names))

    def never(*_):
        raise AssertionError

    found = standbys(given, Wants(), chain((2, "d0"), (4, "d1")), never)
    assert found.missing == {}


def without_memory(given):
    devices = (msgspec.structs.replace(d, memory_bytes=1 << 50) for d in given.devices)
    return msgspec.structs.replace(given, devices=tuple(devices))


@pytest.mark.parametrize("seed", range(16))
def test_alternatives_keep_the_wants_and_are_close_to_the_best(seed):
    made = instance(seed)
    given = without_memory(made.profile)
    try:
        primary = solve(given, made.wants).best.chain
    except PlanError:
        return
    found = standbys(given, made.wants, primary, solve)
    covered = {name for standby in found.chosen for name in standby.without}
    assert covered | set(found.missing) == set(needed(primary))
    for standby in found.chosen:
        assert not made.wants.forbidden & set(standby.nodes)
        for lost in standby.without:
            wants = replace(made.wants, forbidden=made.wants.forbidden | {lost}, at=None, assign=None)
            plain = replace(wants, revisit=False, max_replicas=1)
            best = solve(given, plain, 0).best.costs.of(wants.objective)
            value = Evaluator(given).evaluate(standby.option.chain).costs.of(wants.objective)
            assert value <= best * (1 + CLOSE) + 1e-9
            assert lost not in standby.nodes


def test_names_are_bounded_and_differ():
    assert alternative_name("digits", ["b"]) == "digits.without.b"
    long = {alternative_name("p" * 60, [node]) for node in ("a" * 60, "b" * 60)}
    assert len(long) == 2
    for name in long:
        check_name(name, "name:")
