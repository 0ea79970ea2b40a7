"""Least squares find again what times, links and memory were made from."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.planner.fit import (
    PowerSample,
    TimedRange,
    fit_link,
    fit_memory,
    fit_power,
    fit_stages,
    nnls,
    prediction_error,
)


def _stationary(a, b, x) -> bool:
    """The Karush-Kuhn-Tucker conditions of the least squares with no negative variable."""
    slope = a.T @ (a @ x - b)
    scale = 1e-6 * (1 + np.abs(a.T @ b).max())
    return bool((x >= 0).all() and (slope > -scale).all() and (np.abs(slope[x > 1e-6]) < scale).all())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 2**31))
def test_nnls_ends_where_no_step_improves(n: int, extra: int, seed: int):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n + extra, n)), rng.normal(size=n + extra)
    assert _stationary(a, b, nnls(a, b))


def test_nnls_of_what_wants_to_be_negative_is_zero():
    assert nnls(np.eye(3), np.array([1.0, -2.0, 3.0])) == pytest.approx([1.0, 0.0, 3.0])
    assert nnls(np.array([[1.0], [1.0]]), np.array([-1.0, -1.0])) == pytest.approx([0.0])


def _ranges(places, op_ms, stage_ms, rng, noise=0.0):
    """Every piece, and all longer ranges."""
    found = []
    for start, stop in itertools.combinations(places, 2):
        ms = sum(op_ms[start:stop]) + stage_ms
        found.append(TimedRange(start, stop, ms * (1 + rng.uniform(-noise, noise))))
    return found


def test_times_that_are_sums_are_found_again():
    rng = random.Random(1)
    op_ms = [0.5, 0.0, 2.0, 1.0, 0.25, 3.0]
    timed = _ranges(range(7), op_ms, 0.1, rng)
    fitted = fit_stages(tuple(range(7)), timed)
    assert fitted.op_ms == pytest.approx(op_ms, abs=1e-4)
    assert fitted.stage_ms == pytest.approx(0.1, abs=1e-4)
    assert prediction_error(fitted, timed) == pytest.approx(0.0, abs=1e-3)


def test_operators_with_no_cut_between_them_share_their_time():
    timed = _ranges((0, 3, 4), [1.0, 2.0, 3.0, 4.0], 0.0, random.Random(0))
    fitted = fit_stages((0, 3, 4), timed)
    assert fitted.op_ms[:3] == pytest.approx([2.0, 2.0, 2.0], rel=1e-3)


def test_longer_ranges_correct_single_stages_that_say_too_much():
    rng = random.Random(2)
    n, op_ms = 20, [rng.uniform(0.5, 2.0) for _ in range(20)]
    timed = [TimedRange(k, k + 1, 2.2 * op_ms[k]) for k in range(n)]
    longer = [e for e in _ranges(range(n + 1), op_ms, 0.05, rng, 0.02) if e.stop - e.start > 1]
    rng.shuffle(longer)
    seen, held = longer[:60], longer[60:]
    fitted = fit_stages(tuple(range(n + 1)), timed + seen)
    assert (prediction_error(fitted, held) or 1.0) < 0.05
    naive = sum(e.ms for e in timed) / sum(op_ms)
    assert naive > 2, "the sums of single stages would be twice too much"


def test_no_range_has_no_error():
    assert prediction_error(fit_stages((0, 1), [TimedRange(0, 1, 1.0)]), []) is None


def test_the_time_of_a_model_without_cuts_is_kept():
    fitted = fit_stages((0, 2), [TimedRange(0, 2, 5.0)])
    assert fitted.predict(0, 2) == pytest.approx(5.0, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 200), st.floats(0.1, 9000), st.integers(0, 1000))
def test_a_link_is_found_again_from_noisy_moves(latency_ms: float, mbit_s: float, seed: int):
    rng = random.Random(seed)
    sizes = (0, 1_000, 16_384, 65_536, 262_144, 1_048_576, 4_000_000)
    samples = [(b, (latency_ms + 8 * b / (1000 * mbit_s)) * rng.uniform(0.98, 1.02)) for b in sizes]
    latency, rate = fit_link(samples)
    for size, ms in samples:
        assert latency + 8 * size / (1000 * rate) == pytest.approx(ms, rel=0.1)


def test_a_link_on_which_size_does_not_matter_has_a_finite_rate():
    latency, rate = fit_link([(0, 1.0), (1_000_000, 1.0)])
    assert latency == pytest.approx(1.0, rel=1e-3)
    assert 1e5 < rate <= 1e6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_memory_bounds_what_was_measured(seed: int):
    rng = random.Random(seed)
    n = rng.randint(1, 12)
    weights = [rng.choice([0, rng.randint(0, 1_000_000)]) for _ in range(n)]
    working = [rng.randint(0, 500_000) for _ in range(n)]
    spans = list(itertools.combinations(range(n + 1), 2))
    measured = [
        (a, b, int(1.9 * sum(weights[a:b]) + max(working[a:b]) + rng.randint(20_000, 60_000)))
        for a, b in spans
    ]
    op_bytes, stage_bytes = fit_memory(weights, working, measured)
    for a, b, size in measured:
        assert sum(op_bytes[a:b]) + stage_bytes >= size


def test_a_long_chain_is_not_charged_every_arena():
    n = 40
    measured = [(a, b, 1_000_000 + 30_000) for a, b in itertools.combinations(range(n + 1), 2)]
    op_bytes, stage_bytes = fit_memory([0] * n, [1_000_000] * n, measured)
    assert sum(op_bytes) + stage_bytes < 1_200_000


def test_memory_that_was_not_measured_is_taken_from_sizes():
    assert fit_memory([10, 20], [100, 300], []) == ((20, 40), 300)


def test_power_is_the_slope_over_the_share_of_busy_time():
    rng = np.random.default_rng(3)
    samples = [PowerSample(b, 2.0 + 5.0 * b + rng.normal(0, 0.05), 0.1) for b in np.linspace(0.05, 0.5, 40)]
    assert fit_power(samples) == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [PowerSample(0.5, 0.0, 1.0)] * 20,
        [PowerSample(0.5, 3.0, 1.0)] * 20,
        [PowerSample(b / 20, 5.0 - b / 20, 1.0) for b in range(20)],
    ],
    ids=["none", "not counted", "all alike", "falling"],
)
def test_no_power_is_made_up(samples):
    assert fit_power(samples) is None
