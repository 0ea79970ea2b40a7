"""Drift of inputs from counts alone, beside exact statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import InputError
from collab.updates.policies.drift import (
    MIN_OBSERVED,
    Stream,
    ks,
    ks_p_value,
    psi,
    reference_of,
    worst_p_value,
)
from collab.updates.policies.state import FeatureCounts

RNG = np.random.default_rng(0)
TRAINED = RNG.normal(size=5_000)


def seen(shift=0.0, count=500, bins=10, seed=1):
    values = np.random.default_rng(seed).normal(shift, size=count)
    return Stream(reference_of("x", TRAINED, bins), 10_000).seen(values).counts(), values


def p_value(counts):
    """Where it is known that there are enough values."""
    found = ks_p_value(counts)
    assert found is not None
    return found


def test_bins_of_the_training_split_hold_equal_shares():
    reference = reference_of("x", TRAINED, 10)
    assert len(reference.edges) == 9
    assert sum(reference.counts) == 5_000
    assert all(abs(count - 500) <= 1 for count in reference.counts)


@pytest.mark.parametrize(
    ("values", "bins", "said"),
    [
        ([1.0] * 50, 10, "do not differ"),
        ([1.0, 2.0], 10, "at least 10"),
        ([1.0, math.nan] * 20, 10, "finite"),
        (TRAINED, 1, "bins: 1"),
        (TRAINED, 65, "bins: 65"),
    ],
)
def test_a_reference_that_says_nothing_is_refused(values, bins, said):
    with pytest.raises(InputError, match=said):
        reference_of("x", values, bins)


def test_frequent_values_share_a_bin():
    reference = reference_of("x", [0.0] * 80 + list(range(1, 21)), 10)
    assert len(reference.edges) < 9
    assert sum(reference.counts) == 100
    assert all(reference.counts)


def test_the_index_of_known_shares_is_what_its_formula_gives():
    feature = FeatureCounts(name="x", reference=(5e6, 5e6), observed=(2e6, 8e6))
    expected = (0.2 - 0.5) * math.log(0.2 / 0.5) + (0.8 - 0.5) * math.log(0.8 / 0.5)
    assert psi(feature) == pytest.approx(expected, rel=1e-4)
    assert ks(feature) == pytest.approx(0.3)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0, 0.06), (0.3, 0.05, 0.2), (1.0, 0.6, 2)])
def test_the_index_grows_with_the_shift(shift, low, high):
    assert low <= psi(seen(shift)[0]) <= high


def test_binned_distance_is_at_most_the_exact_one_and_near_it():
    for shift in (0.0, 0.2, 0.5, 1.0):
        counts, values = seen(shift, 500, 32)
        both = np.concatenate([TRAINED, values])
        trained = np.searchsorted(np.sort(TRAINED), both, side="right") / len(TRAINED)
        other = np.searchsorted(np.sort(values), both, side="right") / len(values)
        exact = np.abs(trained - other).max()
        assert exact - 0.05 <= ks(counts) <= exact + 1e-12


@pytest.mark.parametrize(
    ("distance", "count", "p"),
    # Kolmogorov's distribution at x = 0.5, 1.0, 1.36 and 1.63: 0.9639, 0.27, 0.049, 0.0099.
    [(0.5, 1, 0.9639), (1.0, 1, 0.27), (1.36, 1, 0.0494), (1.63, 1, 0.0098)],
)
def test_p_values_are_those_of_kolmogorov(distance, count, p):
    many = 1e12
    share = distance / math.sqrt(many / 2)
    half = many / 2
    feature = FeatureCounts(
        name="x", reference=(half, half), observed=(half - share * many, half + share * many)
    )
    assert ks_p_value(feature) == pytest.approx(p, rel=0.01)


def test_false_alarms_are_no_more_frequent_than_promised():
    found = [p_value(seen(0.0, 200, seed=seed)[0]) for seed in range(200)]
    assert sum(p < 0.05 for p in found) <= 18
    assert p_value(seen(0.5, 200)[0]) < 1e-4


def test_the_least_p_value_counts_as_often_as_there_are_features():
    one, other = seen(0.4)[0], seen(0.0)[0]
    assert worst_p_value([one, other, other]) == pytest.approx(3 * p_value(one))
    assert worst_p_value([]) is None


def test_few_values_say_nothing():
    counts, _ = seen(3.0, MIN_OBSERVED - 1)
    assert psi(counts) is ks(counts) is ks_p_value(counts) is None
    assert psi(seen(3.0, MIN_OBSERVED)[0]) is not None


def test_a_stream_forgets_and_never_grows():
    stream = Stream(reference_of("x", TRAINED), window=100)
    for shift in (0.0, 5.0, 5.0):
        for _ in range(10):
            stream = stream.seen(RNG.normal(shift, size=10))
            assert sum(stream.counts().observed) <= 200
    assert (psi(stream.counts()) or 0) > 2
    assert stream.counts().observed[0] == 0


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30))
def test_every_value_is_counted_once(values):
    counts = Stream(reference_of("x", TRAINED[:200])).seen(values).counts()
    assert sum(counts.observed) == len(values)
