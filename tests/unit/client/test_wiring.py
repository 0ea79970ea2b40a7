"""What is derived from a plan: its entry, paths, and who can be done without."""

from __future__ import annotations

from itertools import pairwise

import pytest

from collab.client.wiring import OUTSIDE, entry, wire
from collab.core.plan import FireAll, FireAny, FireQuorum
from tests.unit.node.plans import GUARD, IN, UNSURE, chain, diamond, edge, ensemble, plan, stage


def test_the_entry_is_the_first_stage_in_plan_order_that_the_requester_feeds():
    p = plan(
        [stage("t", "b"), stage("s", "a"), stage("u", "c")],
        [edge("s", "t"), edge(IN, "u"), edge(IN, "s"), edge("t", IN)],
    )
    assert entry(p) == "s"
    wiring = wire(p)
    assert (wiring.entry, wiring.admission_edge, wiring.entry_edges, wiring.output_edge) == (1, 2, (1, 2), 3)
    assert wiring.order.index(1) < wiring.order.index(0)


def test_stages_and_edges_know_each_other_by_index():
    wiring = wire(diamond(FireQuorum(k=1, wait_ms=2.5)))
    assert wiring.stages[0].out_edges == (1, 2)
    assert wiring.stages[3].in_edges == (3, 4)
    assert (wiring.stages[3].need, wiring.stages[3].wait_us) == (1, 2500)
    assert (wiring.edges[4].source, wiring.edges[4].target, wiring.edges[4].slot) == (2, 3, 1)
    assert (wiring.edges[0].source, wiring.edges[5].target) == (OUTSIDE, OUTSIDE)


def test_a_path_leads_over_the_relays():
    p = plan(
        [stage("s", "a", "x"), stage("t", "b", "a", "y")],
        [edge(IN, "s", "y"), edge("s", "t", "x", "y"), edge("t", IN, "y")],
    )
    wiring = wire(p)
    assert wiring.path(0, "r", ("a", "b")) == ("r", "y", "a")
    assert wiring.path(1, "r", ("a", "b")) == ("a", "x", "y", "b")
    assert wiring.path(1, "r", ("x", "b")) == ("x", "y", "b")
    assert wiring.path(1, "r", ("a", "y")) == ("a", "x", "y")
    assert wiring.path(1, "r", ("a", "a")) == ("a",)
    assert wiring.path(2, "r", ("a", "b")) == ("b", "y", "r")


def test_a_route_names_one_of_its_nodes_for_every_stage():
    wiring = wire(chain("a", ("b", "c")))
    assert wiring.names_all(("a", "c"))
    assert not wiring.names_all(("a",))
    assert not wiring.names_all(("b", "c"))
    assert not wiring.names_all(("a", "b", "c"))


@pytest.mark.parametrize(
    ("fires", "lost", "survives"),
    [
        (FireAny(), "a", True),
        (FireAny(), "ab", True),
        (FireAny(), "abc", False),
        (FireAny(), "d", False),
        (FireQuorum(k=2), "a", True),
        (FireQuorum(k=2), "ab", False),
        (FireAll(), "a", False),
        (FireAll(), "z", True),
    ],
    ids=str,
)
def test_an_ensemble_survives_as_many_losses_as_its_rule_allows(fires, lost, survives):
    assert wire(ensemble(fires)).survives("r", ("a", "b", "c", "d"), set(lost)) is survives


def test_a_lost_relay_takes_its_edge_away():
    p = plan([stage("s", "a"), stage("t", "b")], [edge(IN, "s"), edge("s", "t", "x"), edge("t", IN)])
    assert not wire(p).survives("r", ("a", "b"), {"x"})


def test_members_race_where_the_answer_does_not_wait_for_all_of_them():
    assert wire(ensemble(FireAny())).races
    assert wire(ensemble(FireQuorum(k=2))).races
    assert not wire(ensemble(FireAll())).races
    assert not wire(diamond()).races


def test_a_stage_that_leads_nowhere_races():
    stages = [stage("s", "a"), stage("t", "b"), stage("u", "c")]
    assert wire(plan(stages, [edge(IN, "s"), edge("s", "t"), edge("s", "u"), edge("t", IN)])).races


@pytest.mark.parametrize(
    ("first", "second", "races"), [(GUARD, UNSURE, False), (GUARD, GUARD, True), (GUARD, None, True)]
)
def test_the_ways_of_a_cascade_are_alternatives(first, second, races):
    stages = [stage("s", "a"), stage("t", "b"), stage("u", "c", fires=FireAny())]
    edges = [
        edge(IN, "s"),
        edge("s", "u", guard=first),
        edge("s", "t", guard=second),
        edge("t", "u"),
        edge("u", IN),
    ]
    assert wire(plan(stages, edges)).races is races


@pytest.mark.parametrize(("length", "races"), [(2, False), (12, True)])
def test_a_cascade_with_too_many_guards_to_try_is_taken_to_race(length, races):
    names = [f"s{i}" for i in range(length)]
    stages = [*(stage(n, "a") for n in names), stage("u", "a", fires=FireAny())]
    on = [edge(a, b, guard=UNSURE) for a, b in pairwise(names)]
    out = [edge(n, "u", guard=GUARD) for n in names[:-1]]
    edges = [edge(IN, "s0"), *on, *out, edge(names[-1], "u"), edge("u", IN)]
    assert wire(plan(stages, edges)).races is races
