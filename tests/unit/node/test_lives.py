"""Which epochs a node loads when it starts, and when one is proven: tables of cases."""

from __future__ import annotations

import pytest

from collab.core.ids import Epoch, NodeName, PlanName
from collab.core.plan import Plan
from collab.node.lives import (
    MAX_LIVES,
    PROVEN_ANSWERS,
    SETTLED_S,
    Kept,
    KeptPlan,
    Left,
    Trial,
    at_start,
    may_go_back,
    uncounted,
)
from tests.unit.node.plans import chain

NODE = NodeName("a")
HERE, SHARED, REPLICATED = chain("a", "a"), chain("a", "b"), chain(("a", "b"))
STAND_IN = HERE.replace(primary=PlanName("q"), without=(NodeName("b"),))


def kept(lives: int | None, before: KeptPlan | None = None, plan: Plan = HERE) -> Kept:
    return Kept(KeptPlan(plan, Epoch(7), lives), before)


def former(plan: Plan = HERE, lives: int | None = None) -> KeptPlan:
    return KeptPlan(plan, Epoch(6), lives)


@pytest.mark.parametrize(
    ("found", "counted", "not_counted"),
    [
        (kept(None), "load", "leave"),
        (kept(None, former()), "load", "go back"),
        (kept(0, former()), "count", "go back"),
        (kept(MAX_LIVES - 1, former()), "count", "go back"),
        (kept(MAX_LIVES, former()), "go back", "go back"),
        (kept(MAX_LIVES + 5, former()), "go back", "go back"),
        (kept(MAX_LIVES - 1), "count", "leave"),
        (kept(MAX_LIVES), "leave", "leave"),
        (kept(MAX_LIVES, former(lives=1)), "go back", "leave"),
        (kept(MAX_LIVES, former(SHARED), SHARED), "leave", "leave"),
        (kept(MAX_LIVES, former(SHARED)), "leave", "leave"),
        (kept(MAX_LIVES, former(), SHARED), "leave", "leave"),
        (kept(MAX_LIVES, former(), REPLICATED), "leave", "leave"),
        (kept(MAX_LIVES, former(STAND_IN), STAND_IN), "leave", "leave"),
    ],
)
def test_what_a_node_does_with_a_plan_when_it_starts(found: Kept, counted: str, not_counted: str):
    assert at_start(found, NODE) == counted
    assert uncounted(found, NODE) == not_counted


def test_another_nodes_plan_is_never_gone_back_from():
    assert may_go_back(kept(9, former()), NODE)
    assert not may_go_back(kept(9, former()), NodeName("b"))


def test_the_newest_epoch_is_that_which_was_gone_back_from():
    assert kept(1, former()).newest == 7
    assert Kept(former(), left=Left(Epoch(7), 3)).newest == 7


def test_an_epoch_is_proven_by_its_results():
    trial = Trial()
    verdicts = [trial.computed(0.01 * i) for i in range(PROVEN_ANSWERS)]
    assert verdicts == ["wait"] * (PROVEN_ANSWERS - 1) + ["proven"]


def test_an_epoch_with_few_results_is_proven_by_time():
    trial = Trial()
    assert trial.computed(5.0) == "wait"
    assert trial.looked_at(SETTLED_S, busy=False) == "wait"
    assert trial.looked_at(5.0 + SETTLED_S, busy=False) == "proven"
    assert trial.computed(5.0 + SETTLED_S) == "proven"


@pytest.mark.parametrize(("busy", "resting", "verdict"), [(0, 0, "rest"), (1, 0, "wait"), (0, 1, "wait")])
def test_an_epoch_that_nobody_asks_rests_and_is_never_proven(busy: bool, resting: bool, verdict: str):
    trial = Trial()
    trial.resting = bool(resting)
    assert [trial.looked_at(t * SETTLED_S, bool(busy)) for t in (1, 100)] == [verdict] * 2
