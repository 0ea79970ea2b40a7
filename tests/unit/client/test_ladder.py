"""Which rung is next: order, losses, failures, the shared budget, and the whole model last."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.client.budget import RetryBudget
from collab.client.ladder import LOCAL, WAIT, Climb, Ladder
from collab.client.policy import RETRYABLE
from collab.client.standing import SHUN_US
from collab.errors import InputError

LATER = 10_000_000
ALL = (0, 1, 2)


def ladder(rungs: int = 3, burst: int = 100, max_attempts: int = 3, local: bool = False) -> Ladder:
    return Ladder(rungs, max_attempts, RetryBudget(0.1, 0.0, burst), local=local)


def fail(made: Ladder, climb: Climb, rung: int, code: str = "node_lost", attempts: int = 1, now: int = 0):
    made.started(rung)
    made.failed(climb, rung, code, attempts, now)


def test_the_primary_is_first_and_then_the_alternatives_in_their_order():
    made, climb = ladder(), Climb(LATER)
    assert made.next(climb, ALL, 0) == 0
    fail(made, climb, 0)
    assert made.next(climb, ALL, 1) == 1
    fail(made, climb, 1)
    assert made.next(climb, ALL, 2) == 2
    fail(made, climb, 2)
    assert made.next(climb, ALL, 3) is None


def test_a_rung_whose_nodes_are_lost_is_passed_over_without_being_paid_for():
    made = ladder(burst=0)
    assert made.next(Climb(LATER), (1, 2), 0) == 1
    assert made.next(Climb(LATER), (2,), 0) == 2
    assert made.next(Climb(LATER), (), 0) is None
    assert made.next(Climb(LATER), ALL, 0) == 0
    assert made.unpaid == 0


def test_after_the_alternatives_comes_the_whole_model_and_after_that_nothing():
    made, climb = ladder(local=True), Climb(LATER)
    assert made.next(climb, (), 0) == LOCAL
    fail(made, climb, LOCAL, "overloaded", 0)
    assert made.next(climb, (), 1) is None


@pytest.mark.parametrize("code", ["stage_failed", "deadline", "tensor", "cancelled", "backend"])
def test_what_other_nodes_would_meet_too_is_passed_on(code):
    made, climb = ladder(local=True), Climb(LATER)
    fail(made, climb, 0, code)
    assert code not in RETRYABLE
    assert made.next(climb, ALL, 1) is None


def test_a_full_primary_does_not_load_its_nodes_by_another_plan():
    made, climb = ladder(), Climb(LATER)
    fail(made, climb, 0, "overloaded", 0)
    assert made.next(climb, ALL, 1) is None
    made, climb = ladder(local=True), Climb(LATER)
    fail(made, climb, 0, "overloaded", 0)
    assert made.next(climb, ALL, 1) == LOCAL


def test_a_full_alternative_leads_to_the_next():
    made, climb = ladder(), Climb(LATER)
    fail(made, climb, 1, "overloaded", 0)
    assert made.next(climb, (1, 2), 1) == 2


def test_after_the_deadline_nothing_is_begun():
    made, climb = ladder(local=True), Climb(5)
    fail(made, climb, 0)
    assert made.next(climb, ALL, 5) is None


def test_attempts_are_counted_over_all_rungs():
    made, climb = ladder(max_attempts=2), Climb(LATER)
    fail(made, climb, 0, attempts=2)
    assert made.next(climb, ALL, 1) is None
    made, climb = ladder(max_attempts=2, local=True), Climb(LATER)
    fail(made, climb, 0, attempts=2)
    assert made.next(climb, ALL, 1) == LOCAL


def test_an_empty_budget_ends_the_walk_or_leads_to_the_whole_model():
    made = ladder(burst=1)
    one, other = Climb(LATER), Climb(LATER)
    for climb in (one, other):
        fail(made, climb, 0)
    assert made.next(one, ALL, 1) == 1
    assert made.next(other, ALL, 1) is None
    assert made.unpaid == 1
    made, climb = ladder(burst=0, local=True), Climb(LATER)
    fail(made, climb, 0)
    assert made.next(climb, ALL, 1) == LOCAL


def test_where_nobody_serves_a_request_waits_a_while_and_then_tries_again_what_failed():
    made, climb = ladder(), Climb(LATER, patient_until_us=100)
    assert made.next(climb, (), 0) == WAIT
    fail(made, climb, 0)
    assert made.next(climb, (0,), 50) == WAIT
    assert made.next(climb, (0,), 60) == 0
    fail(made, climb, 0, "link_lost")
    assert made.next(climb, (), 99) == WAIT
    assert made.next(climb, (), 100) is None


@pytest.mark.parametrize("code", ["not_loaded", "overloaded"])
def test_what_no_node_that_comes_back_can_help_is_not_waited_for(code):
    made, climb = ladder(), Climb(LATER, patient_until_us=LATER)
    fail(made, climb, 1, code, 0)
    assert made.next(climb, (), 1) is None


def test_nobody_waits_where_the_whole_model_is_here_or_no_attempt_is_left():
    made = ladder(local=True)
    assert made.next(Climb(LATER, patient_until_us=LATER), (), 0) == LOCAL
    made, climb = ladder(), Climb(LATER, patient_until_us=LATER)
    fail(made, climb, 0, attempts=3)
    assert made.next(climb, (), 1) is None


def test_a_rung_that_failed_is_shunned_and_then_tried_by_one_request_at_a_time():
    made = ladder()
    fail(made, Climb(LATER), 0, now=100)
    assert made.next(Climb(LATER), ALL, 100 + SHUN_US - 1) == 1
    assert made.next(Climb(LATER), (0,), 101) == 0, "where no other serves it is taken all the same"
    assert made.next(Climb(LATER), ALL, 100 + SHUN_US) == 0
    made.started(0)
    assert made.next(Climb(LATER), ALL, 100 + SHUN_US) == 1
    made.answered(0, 100 + SHUN_US)
    made.started(0)
    assert made.next(Climb(LATER), ALL, 100 + SHUN_US + 1) == 0


def test_a_request_that_is_withdrawn_leaves_room_for_the_next_try():
    made = ladder()
    fail(made, Climb(LATER), 0, now=0)
    made.started(0)
    made.withdrawn(0)
    assert made.next(Climb(LATER), ALL, SHUN_US) == 0


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.sets(st.integers(0, 3)), st.sampled_from(sorted(RETRYABLE)), st.integers(0, 2))),
    st.integers(0, 6),
    st.booleans(),
)
def test_no_request_goes_on_for_ever_nor_twice_to_one_rung(steps, burst, local):
    made, paid = ladder(4, burst, local=local), 0
    climb, now = Climb(LATER), 0
    went = []
    for serving, code, attempts in steps:
        rung = made.next(climb, serving, now)
        if rung is None:
            break
        paid += climb.attempts > 0 and rung != LOCAL
        assert rung == LOCAL or rung in serving
        went.append(rung)
        fail(made, climb, rung, code, attempts, now)
        now += 1000
    assert len(set(went)) == len(went)
    assert paid <= burst
    assert sum(rung != LOCAL for rung in went) <= 4


def test_a_request_may_ask_for_one_path_and_takes_no_other():
    made = ladder(local=True)
    assert made.next(Climb(LATER, only="primary"), ALL, 0) == 0
    assert made.next(Climb(LATER, only="primary"), (1, 2), 0) is None
    climb = Climb(LATER, only="alternative")
    assert made.next(climb, ALL, 0) == 1
    fail(made, climb, 1)
    assert made.next(climb, ALL, 1) == 2
    fail(made, climb, 2)
    assert made.next(climb, ALL, 2) is None
    assert made.next(Climb(LATER, only="local"), ALL, 0) == LOCAL


@pytest.mark.parametrize(("only", "rungs", "local"), [("alternative", 1, True), ("local", 3, False)])
def test_a_path_that_there_is_none_of_is_refused(only, rungs, local):
    with pytest.raises(InputError, match=f"path '{only}': this plan has none here"):
        ladder(rungs, local=local).check_path(only)
    for path in ("", "primary"):
        ladder(rungs, local=local).check_path(path)
