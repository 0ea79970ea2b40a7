"""Counting durations and reading quantiles off the buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.telemetry.histogram import BOUNDS_US, Histogram, quantile_us


def test_a_bound_belongs_to_its_bucket_and_what_is_longer_to_the_last():
    histogram = Histogram()
    for duration_us in (0, 100, 101, 10_000_000, 10_000_001):
        histogram.observe(duration_us)
    buckets = histogram.counts.buckets
    assert (buckets[0], buckets[1], buckets[-2], buckets[-1]) == (2, 1, 1, 1)
    assert histogram.counts.number == 5
    assert histogram.counts.total_us == 20_000_202


def test_no_durations_have_no_quantile():
    assert quantile_us(Histogram().counts.buckets, 0.5) is None


def test_what_is_above_all_bounds_counts_as_the_last():
    histogram = Histogram()
    histogram.observe(10**9)
    assert quantile_us(histogram.counts.buckets, 0.5) == BOUNDS_US[-1]


@given(st.lists(st.integers(0, BOUNDS_US[-1]), min_size=1), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(durations, share):
    histogram = Histogram()
    for duration_us in durations:
        histogram.observe(duration_us)
    ordered = sorted(durations)
    # The smallest duration with at least that share at or under it, without rounding of the product.
    rank = next(n for n in range(1, len(ordered) + 1) if n >= share * len(ordered))
    true_us = ordered[rank - 1]
    index = next(i for i, bound in enumerate(BOUNDS_US) if true_us <= bound)
    lower = BOUNDS_US[index - 1] if index else 0
    estimate = quantile_us(histogram.counts.buckets, share)
    assert estimate is not None
    assert estimate == pytest.approx(min(max(estimate, lower), BOUNDS_US[index]))
