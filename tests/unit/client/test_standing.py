"""Who failed lately is shunned; who is slow is known as such, for a while."""

from __future__ import annotations

from typing import Any

from collab.client.standing import HALF_LIFE_US, MAX_SHUN_US, SHUN_US, STALE_US, Standing


def standing() -> Any:
    return Standing()


def test_a_node_that_failed_is_shunned_for_a_while_and_then_tried_by_one_attempt():
    s = standing()
    assert s.flawless
    s.failed("a", 0)
    assert not s.flawless
    assert s.shunned("a", 0, SHUN_US - 1)
    assert not s.shunned("a", 0, SHUN_US)
    assert s.shunned("a", 1, SHUN_US)
    assert not s.shunned("b", 1, 0)


def test_failing_again_doubles_the_time_up_to_a_bound():
    s, now, spans = standing(), 0, []
    for _ in range(20):
        s.failed("a", now)
        span = next(t for t in range(0, MAX_SHUN_US + 1, SHUN_US) if not s.shunned("a", 0, now + t))
        spans.append(span)
        now += span
    assert spans[:4] == [SHUN_US, 2 * SHUN_US, 4 * SHUN_US, 8 * SHUN_US]
    assert spans[-1] == MAX_SHUN_US


def test_many_failures_at_once_are_one():
    s = standing()
    for _ in range(50):
        s.failed("a", 0)
    assert not s.shunned("a", 0, SHUN_US)


def test_only_an_attempt_that_started_after_the_failure_clears_it():
    s = standing()
    s.failed("a", 100)
    s.succeeded("a", 50)
    assert s.shunned("a", 0, 101)
    s.succeeded("a", 101)
    assert s.flawless


def test_a_node_that_is_back_starts_anew():
    s = standing()
    s.failed("a", 0)
    s.measured(0, "a", 10, 10, 0)
    s.measured(0, "b", 10, 10, 0)
    s.forgive("a")
    assert s.flawless
    assert s.wait_us(0, "a", 0, 0) is None
    assert s.wait_us(0, "b", 0, 0) is not None


def test_a_wait_is_the_queue_that_fades_and_the_work_in_flight():
    s = standing()
    assert s.wait_us(0, "a", 0, 0) is None
    s.measured(0, "a", 1000, 200, 0)
    assert s.wait_us(0, "a", 0, 0) == 1200
    assert s.wait_us(0, "a", 3, 0) == 1800
    assert s.wait_us(0, "a", 0, HALF_LIFE_US) == 700
    assert s.wait_us(1, "a", 0, 0) is None


def test_new_measurements_move_the_estimate():
    s = standing()
    for at in range(50):
        s.measured(0, "a", 1000, 100, at)
    for at in range(50, 100):
        s.measured(0, "a", 0, 300, at)
    assert 290 < s.wait_us(0, "a", 0, 100) < 310


def test_what_was_measured_long_ago_says_nothing():
    s = standing()
    s.measured(0, "a", 1000, 200, 0)
    assert s.wait_us(0, "a", 0, STALE_US) is not None
    assert s.wait_us(0, "a", 0, STALE_US + 1) is None
    s.measured(0, "a", 0, 50, STALE_US + 1)
    assert s.wait_us(0, "a", 0, STALE_US + 1) == 50


def test_a_slow_node_waits_as_long_as_nothing_came_from_it():
    s = standing()
    s.slow(0, "a", 80_000, 0)
    s.measured(0, "b", 0, 1000, 0)
    assert s.wait_us(0, "a", 0, 0) > s.wait_us(0, "b", 5, 0)
