"""Which requests are begun, by what recent answers say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.client.admission import FADE_US, Admission
from collab.client.policy import Counters
from collab.core.token import Priority
from collab.errors import Overloaded

LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH
BASE_US, EACH_US = 50_000, 20_000


def taught(answers: int = 100, ahead: int = 8) -> Admission:
    """It has seen answers that took so long for each request ahead."""
    made = Admission(Counters())
    for number in range(answers):
        waits = number % (ahead + 1)
        made.answered(NORMAL, waits, BASE_US + EACH_US * waits, 0)
    return made


def fill(admission: Admission, priority: Priority, count: int) -> None:
    for _ in range(count):
        admission.enter(priority)


def test_a_request_that_would_be_late_is_refused_with_what_was_expected():
    admission = taught()
    fill(admission, NORMAL, 10)
    admission.check(NORMAL, BASE_US + 12 * EACH_US, 0)
    with pytest.raises(Overloaded, match=r"10 requests are ahead: .* about 2\d\d ms, the deadline is 200 ms"):
        admission.check(NORMAL, 200_000, 0)
    assert admission._counters.hopeless == 1


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 10**7), st.booleans()), max_size=50),
    st.integers(1, 10**6),
)
def test_with_nothing_ahead_nothing_is_refused_whatever_was_learned(history, budget_us):
    admission = Admission(Counters())
    for ahead, took_us, answered in history:
        (admission.answered if answered else admission.missed)(NORMAL, ahead, took_us, 0)
    admission.check(NORMAL, budget_us, 0)
    fill(admission, LOW, 5)
    admission.check(NORMAL, budget_us, 0)


def test_nothing_is_refused_before_anything_was_learned():
    admission = Admission(Counters())
    fill(admission, NORMAL, 1000)
    admission.check(NORMAL, 1, 0)


def test_a_higher_class_counts_only_what_is_ahead_of_it():
    admission = taught()
    for _ in range(50):
        admission.answered(HIGH, 1, BASE_US + EACH_US, 0)
    fill(admission, NORMAL, 50)
    fill(admission, HIGH, 1)
    assert (admission.ahead(LOW), admission.ahead(NORMAL), admission.ahead(HIGH)) == (51, 51, 1)
    admission.check(HIGH, 100_000, 0)
    with pytest.raises(Overloaded):
        admission.check(NORMAL, 100_000, 0)


def test_scatter_is_allowed_for():
    steady, shaky = taught(), Admission(Counters())
    for number in range(200):
        ahead = number % 9
        wobble = 30_000 if number % 2 else -30_000
        shaky.answered(NORMAL, ahead, max(BASE_US, BASE_US + EACH_US * ahead + wobble), 0)
    assert shaky.expected_us(NORMAL, 8, 10**7, 0) > steady.expected_us(NORMAL, 8, 10**7, 0) + 20_000


def test_answers_that_did_not_come_count_as_late_ones():
    admission = taught()
    before = admission.expected_us(NORMAL, 5, 10**7, 0)
    admission.missed(NORMAL, 5, 100_000, 0)
    assert admission.expected_us(NORMAL, 5, 10**7, 0) == before
    for _ in range(40):
        admission.missed(NORMAL, 5, 400_000, 0)
    assert admission.expected_us(NORMAL, 5, 10**7, 0) > 400_000


def test_what_was_learned_fades_so_that_one_bad_moment_does_not_last():
    admission = taught()
    for _ in range(20):
        admission.missed(NORMAL, 1, 2_000_000, 0)
    fill(admission, NORMAL, 1)
    with pytest.raises(Overloaded):
        admission.check(NORMAL, 200_000, 0)
    admission.check(NORMAL, 200_000, 6 * FADE_US)


def test_waiting_for_others_with_nothing_of_ones_own_ahead_is_not_taken_for_a_slope():
    admission = taught(1, 0)
    for number in range(100):
        ahead = number % 5
        admission.answered(NORMAL, ahead, 3 * BASE_US + EACH_US * ahead, 0)
    assert admission.expected_us(NORMAL, 8, 10**7, 0) == pytest.approx(3 * BASE_US + 8 * EACH_US, rel=0.2)


def test_where_answers_had_equally_many_ahead_the_slope_is_that_from_the_least_latency():
    admission = taught(1, 0)
    for _ in range(100):
        admission.answered(NORMAL, 10, BASE_US + 10 * EACH_US, 0)
    assert admission.expected_us(NORMAL, 20, 10**7, 0) == pytest.approx(BASE_US + 20 * EACH_US, rel=0.2)


def test_alone_for_a_while_it_begins_two_again():
    admission = taught()
    for _ in range(40):
        admission.missed(NORMAL, 1, 2_000_000, 0)
    for _ in range(100):
        admission.answered(NORMAL, 0, BASE_US, 0)
    fill(admission, NORMAL, 1)
    admission.check(NORMAL, 200_000, 0)
