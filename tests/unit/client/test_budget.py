"""Extra attempts are paid for by requests and by time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collab.client.budget import RetryBudget
from collab.client.policy import BURST, RetryPolicy
from tests.unit.node.plans import chain


def test_a_budget_starts_full_and_is_empty_after_its_burst():
    budget = RetryBudget(0.0, 0.0, 3)
    assert [budget.take(0) for _ in range(5)] == [True, True, True, False, False]


def test_ten_requests_earn_one_attempt():
    budget = RetryBudget(0.1, 0.0, 1)
    assert budget.take(0)
    for _ in range(9):
        budget.earn()
    assert not budget.covers(0)
    budget.earn()
    budget.earn()
    assert budget.take(0)
    assert not budget.take(0)


def test_time_earns_the_floor():
    budget = RetryBudget(0.0, 10.0, 1)
    assert budget.take(0)
    assert not budget.take(99_000)
    assert budget.take(100_000)


def test_a_budget_never_holds_more_than_its_burst():
    budget = RetryBudget(0.5, 1000.0, 2)
    budget.covers(0)
    for _ in range(100):
        budget.earn()
    assert [budget.take(60_000_000) for _ in range(3)] == [True, True, False]


def test_a_clock_that_goes_back_earns_nothing_twice():
    budget = RetryBudget(0.0, 10.0, 1)
    assert budget.take(1_000_000)
    assert not budget.take(0)
    assert not budget.take(1_000_000)


@given(
    ratio=st.sampled_from([0.0, 0.1, 0.5]),
    floor=st.sampled_from([0.0, 1.0, 10.0]),
    burst=st.integers(0, 20),
    steps=st.lists(st.tuples(st.sampled_from("et"), st.integers(0, 300_000)), max_size=300),
)
def test_attempts_keep_to_what_was_earned(ratio, floor, burst, steps):
    budget, now, earned, taken = RetryBudget(ratio, floor, burst), 0, 0, 0
    budget.covers(0)
    for what, by in steps:
        now += by
        if what == "e":
            budget.earn()
            earned += 1
        else:
            taken += budget.take(now)
    assert taken <= burst + floor * now / 1e6 + ratio * earned + 1e-6


def test_a_budget_pays_for_all_that_one_lost_node_can_take_along():
    for credits, attempts in ((500, 500), (4, BURST)):
        budget = RetryPolicy().budget(chain("a", credits=credits))
        assert sum(budget.take(0) for _ in range(600)) == attempts
