"""Quantiles of recent latencies."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.client.latency import ENOUGH, LatencyWindow


def test_of_few_answers_nothing_is_told():
    window = LatencyWindow()
    for number in range(ENOUGH - 1):
        window.add(number)
    assert window.quantile_us(0.95) is None
    window.add(0)
    assert window.quantile_us(0.95) is not None


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1), (0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)])
def test_a_quantile_is_the_smallest_that_so_many_keep_to(q, expected):
    window = LatencyWindow()
    for number in range(100, 0, -1):
        window.add(number)
    assert window.quantile_us(q) == expected


@given(
    latencies=st.lists(st.integers(0, 1000), min_size=ENOUGH, max_size=120),
    size=st.integers(ENOUGH, 60),
    percent=st.integers(1, 100),
)
def test_only_the_latest_count(latencies, size, percent):
    window = LatencyWindow(size)
    for latency in latencies:
        window.add(latency)
    latest = sorted(latencies[-size:])
    assert window.quantile_us(percent / 100) == latest[math.ceil(len(latest) * percent / 100 - 1e-9) - 1]
