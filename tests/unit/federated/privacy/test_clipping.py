"""Norms that are cut, and a bound that follows a quantile of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collab.errors import ConfigError, TensorError
from collab.federated.privacy.clipping import MAX_BOUND, MIN_BOUND, QuantileClip, clip, norm


def test_the_norm_is_of_all_parameters_together():
    assert norm({"a": np.array([[3.0]], np.float32), "b": np.array([0.0, 4.0], np.float32)}) == 5.0


def test_a_short_update_is_left_alone_and_a_long_one_keeps_its_direction():
    update = {"a": np.array([3.0], np.float32), "b": np.array([4.0], np.float32)}
    same, within = clip(update, 5.0)
    assert within
    assert (same["a"], same["b"]) == (3.0, 4.0)
    short, within = clip(update, 1.0)
    assert not within
    assert norm(short) == pytest.approx(1, abs=1e-11)
    assert short["b"] / short["a"] == pytest.approx(4 / 3)


def test_no_clipped_update_is_over_the_bound():
    rng = np.random.default_rng(3)
    for _ in range(200):
        bound = rng.uniform(1e-3, 10)
        clipped, _ = clip({"a": rng.normal(size=100).astype(np.float32) * 100}, bound)
        assert math.fsum(value * value for value in clipped["a"].tolist()) <= bound * bound


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_has_no_finite_norm_is_refused(bad):
    with pytest.raises(TensorError, match="no finite norm"):
        clip({"a": np.array([1.0, bad], np.float32)}, 1.0)


def test_one_step_is_that_of_the_paper():
    clipping = QuantileClip(bound=2.0, quantile=0.5, rate=0.2, count_noise=3.0)
    # 8 of 10 within: b is 0.8, with 0.5 deviations of noise 0.95.
    assert clipping.following(6, 10).bound == pytest.approx(2 * math.exp(-0.2 * 0.3))
    assert clipping.following(6, 10, noise=0.5).bound == pytest.approx(2 * math.exp(-0.2 * 0.45))
    # 4 of the 10 have not come: each counts as a half.
    assert clipping.following(6 - 0, 10).bound == clipping.following(7 - 1, 10).bound


def test_the_bound_finds_the_quantile_of_norms():
    rng = np.random.default_rng(4)
    clipping = QuantileClip(bound=0.1, quantile=0.8, rate=0.2, count_noise=5.0)
    bounds = []
    for _ in range(150):
        within = int((rng.lognormal(0, 1, 100) <= clipping.bound).sum())
        clipping = clipping.following(2 * within - 100, 100, float(rng.normal()))
        bounds.append(clipping.bound)
    # The 0.8 quantile of that distribution is exp(0.8416).
    assert np.median(bounds[75:]) == pytest.approx(math.exp(0.8416), rel=0.15)


def test_the_bound_stays_within_its_limits():
    high, low = QuantileClip(bound=MAX_BOUND), QuantileClip(bound=MIN_BOUND)
    assert high.following(-10, 10).bound == MAX_BOUND
    assert low.following(10, 10).bound == MIN_BOUND


def test_noise_on_weights_and_count_together_is_as_private_as_was_asked():
    clipping = QuantileClip(count_noise=5.0)
    weights = clipping.weights_multiplier(1.0)
    assert weights > 1
    assert weights**-2 + (2 * 5.0) ** -2 == pytest.approx(1.0)
    assert clipping.weights_multiplier(0) == 0
    with pytest.raises(ConfigError, match="more than half of the noise multiplier 10"):
        clipping.weights_multiplier(10.0)
