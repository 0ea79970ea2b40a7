"""Means under differential privacy, where the noise is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collab.errors import ConfigError, TensorError
from collab.federated.privacy import fixed_point
from collab.federated.privacy.clipping import QuantileClip, clip
from collab.federated.privacy.noise import KeyedNoise
from collab.federated.privacy.private_mean import (
    PrivateMean,
    clipped_update,
    locally_private,
    private_encoding,
    private_shapes,
)

SHAPES = {"w": (200, 10), "b": (10,)}
KEY = bytes(range(32))


class Fixed:
    """Noise of one value everywhere."""

    def __init__(self, value: float) -> None:
        self.value = value

    def normal(self, count: int) -> np.ndarray:
        return np.full(count, self.value)


def updates(count: int, scale: float = 1.0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(6)
    return [
        {name: rng.normal(size=shape).astype(np.float32) * scale for name, shape in SHAPES.items()}
        for _ in range(count)
    ]


def test_without_noise_it_is_the_mean_of_clipped_updates_over_the_cohort():
    mean = PrivateMean(SHAPES, QuantileClip(bound=3.0), noise_multiplier=0.0, cohort=5)
    for update in updates(4):
        mean.add(update)
    noisy, clipping = mean.finish(KeyedNoise(KEY))
    expected = sum(clip(update, 3.0).delta["w"] for update in updates(4)) / 5
    np.testing.assert_allclose(noisy["w"], expected, atol=4 * 2.0**-32)
    assert clipping == QuantileClip(bound=3.0)


def test_the_order_of_updates_does_not_change_a_bit():
    given = updates(6)
    results = []
    for order in (given, given[::-1]):
        mean = PrivateMean(SHAPES, QuantileClip(bound=3.0), noise_multiplier=1.0, cohort=6)
        for update in order:
            mean.add(update)
        results.append(mean.finish(KeyedNoise(KEY)).mean)
    assert all((results[0][name] == results[1][name]).all() for name in SHAPES)


def test_the_noise_has_the_deviation_that_the_multiplier_says_however_few_come():
    for came in (0, 3):
        mean = PrivateMean({"w": (50_000,)}, QuantileClip(bound=2.0), noise_multiplier=1.5, cohort=10)
        for _ in range(came):
            mean.add({"w": np.zeros(50_000, np.float32)})
        noisy = mean.finish(KeyedNoise(KEY)).mean["w"]
        assert noisy.std() == pytest.approx(1.5 * 2.0 / 10, rel=0.02)
        assert abs(noisy.mean()) < 0.01


def test_no_client_moves_the_sum_by_more_than_the_bound():
    for scale in (1e-3, 1.0, 1e6):
        mean = PrivateMean(SHAPES, QuantileClip(bound=0.5), noise_multiplier=0.0, cohort=1)
        mean.add(updates(1, scale)[0])
        moved = mean.finish(Fixed(0)).mean
        flat = [value for array in moved.values() for value in array.reshape(-1).tolist()]
        assert math.fsum(value * value for value in flat) <= 0.25


def test_what_is_not_finite_is_refused_and_leaves_no_trace():
    mean = PrivateMean(SHAPES, QuantileClip(bound=1.0), noise_multiplier=0.0, cohort=2)
    bad = updates(1)[0]
    bad["b"][3] = np.nan
    with pytest.raises(TensorError, match="finite"):
        mean.add(bad)
    assert mean.clients == 0
    assert not mean.finish(Fixed(0)).mean["w"].any()


def test_more_updates_than_the_cohort_are_refused():
    mean = PrivateMean(SHAPES, QuantileClip(bound=1.0), noise_multiplier=0.0, cohort=1)
    mean.add(updates(1)[0])
    with pytest.raises(ConfigError, match="than the 1 of the cohort"):
        mean.add(updates(1)[0])


def test_the_bound_adapts_by_a_noisy_count_and_weights_carry_more_noise():
    clipping = QuantileClip(bound=50.0, count_noise=2.0)
    mean = PrivateMean(SHAPES, clipping, noise_multiplier=1.0, cohort=4, adaptive=True)
    for scale in (1.0, 1.0, 1.0, 100.0):
        mean.add(updates(1, scale)[0])
    noisy, following = mean.finish(Fixed(1.0))
    # Norms are 45, 45, 45, 4,500: 3 of 4 within; one deviation of noise on that.
    assert following == clipping.following(2, 4, 1.0)
    assert set(noisy) == set(SHAPES)
    update = updates(1)[0]["b"]
    clipped = clipped_update(updates(1, 100.0)[0], 50.0)["b"]
    noise = clipping.weights_multiplier(1.0) * 50.0
    np.testing.assert_allclose(noisy["b"], (3.0 * update + clipped + noise) / 4, rtol=1e-6)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_secure_sum_gives_the_bits_of_the_plain_one(adaptive):
    clipping, given = QuantileClip(bound=3.0, count_noise=2.0), updates(5)
    shapes = private_shapes(SHAPES) if adaptive else SHAPES
    vectors = [
        fixed_point.encode(private_encoding(3.0), shapes, clipped_update(one, 3.0, adaptive=adaptive), 1)
        for one in given
    ]
    plain, secure = (
        PrivateMean(SHAPES, clipping, noise_multiplier=1.0, cohort=5, adaptive=adaptive) for _ in range(2)
    )
    for one in given:
        plain.add(one)
    secure.add_vector(np.add.reduce(vectors), 5)
    one, other = plain.finish(KeyedNoise(KEY)), secure.finish(KeyedNoise(KEY))
    assert one.clipping == other.clipping
    assert all((one.mean[name] == other.mean[name]).all() for name in SHAPES)


def test_local_noise_is_on_every_update_by_itself():
    zeros = {"w": np.zeros((100, 500), np.float32)}
    noisy = locally_private(zeros, 2.0, 1.5, KeyedNoise(KEY))["w"]
    assert noisy.shape == (100, 500)
    assert noisy.std() == pytest.approx(3.0, rel=0.02)
    # On the grid of whole steps, so the last bits say nothing of what the noise was added to.
    steps = noisy * 2.0**32
    assert (steps == np.rint(steps)).all()
