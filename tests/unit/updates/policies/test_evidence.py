"""The test on labelled answers: right when the model is worse, and silent when it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.updates.policies.evidence import log_evidence
from collab.updates.policies.state import Tally


def days(accuracy, count, seed, labelled=5):
    rng = np.random.default_rng(seed)
    right = rng.binomial(labelled, accuracy, count)
    return [Tally(labelled=labelled, correct=int(each)) for each in right]


def alarm(found, alpha=0.01, kept=64):
    """The first day of an alarm, None without one."""
    for day in range(1, len(found) + 1):
        evidence = log_evidence(found[max(0, day - kept) : day], 0.9, 0.1)
        if evidence is not None and evidence >= -math.log(alpha):
            return day
    return None


def test_one_period_gives_the_likelihood_ratio_itself():
    ratio = 7 * math.log(0.8 / 0.9) + 3 * math.log(0.2 / 0.1)
    assert log_evidence([Tally(labelled=10, correct=7)], 0.9, 0.1) == pytest.approx(ratio)


def test_two_periods_sum_over_both_beginnings():
    one, two = math.log(0.8 / 0.9), math.log(0.2 / 0.1)
    found = log_evidence([Tally(labelled=1, correct=1), Tally(labelled=1, correct=0)], 0.9, 0.1)
    assert math.exp(found) == pytest.approx(math.exp(one + two) + math.exp(two))


def test_a_drop_is_found_and_its_absence_raises_few_alarms():
    # 100 devices for 64 days: one alarm in 100 days at most makes fewer than 64 by the bound.
    false = sum(alarm(days(0.9, 64, seed)) is not None for seed in range(100))
    assert false <= 40
    late = [alarm(days(0.75, 64, seed)) or 65 for seed in range(100)]
    assert np.median(late) <= 15
    assert max(late) <= 64


def test_good_days_before_a_drop_do_not_hide_it():
    found = [alarm(days(0.9, 100, seed) + days(0.6, 64, seed + 500), 1e-6) for seed in range(20)]
    assert all(day is not None and 100 < day <= 130 for day in found)


def test_without_labels_nothing_is_known():
    assert log_evidence([], 0.9, 0.1) is None
    assert log_evidence([Tally(labelled=0, correct=0)] * 5, 0.9, 0.1) is None


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 1)), min_size=1, max_size=64),
    st.floats(1e-6, 1),
    st.floats(1e-3, 1),
)
def test_it_is_finite_whatever_comes(pairs, baseline, drop):
    found = log_evidence([Tally(labelled=n, correct=int(n * share)) for n, share in pairs], baseline, drop)
    assert found is None or math.isfinite(found)
