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
from collab.federated.update import Update

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


def upd(delta: dict[str, np.ndarray]) -> Update:
    return Update(round=1, client="a", samples=7, delta=delta)


def test_without_noise_it_is_the_mean_of_clipped_updates_over_the_cohort():
    mean = PrivateMean(SHAPES, QuantileClip(bound=3.0), KeyedNoise(KEY), noise_multiplier=0.0, cohort=5)
    for update in updates(4):
        mean.add(upd(update))
    noisy = mean.combined()
    expected = sum(clip(update, 3.0).delta["w"] for update in updates(4)) / 5
    np.testing.assert_allclose(noisy["w"], expected, atol=4 * 2.0**-32)
    assert mean.clipping == QuantileClip(bound=3.0)
    with pytest.raises(ValueError, match="once"):
        mean.combined()


def test_the_order_of_updates_does_not_change_a_bit():
    given = updates(6)
    results = []
    for order in (given, given[::-1]):
        mean = PrivateMean(SHAPES, QuantileClip(bound=3.0), KeyedNoise(KEY), noise_multiplier=1.0, cohort=6)
        for update in order:
            mean.add(upd(update))
        results.append(mean.combined())
    assert all((results[0][name] == results[1][name]).all() for name in SHAPES)


def test_the_noise_has_the_deviation_that_the_multiplier_says_however_few_come():
    for came in (0, 3):
        mean = PrivateMean(
            {"w": (50_000,)}, QuantileClip(bound=2.0), KeyedNoise(KEY), noise_multiplier=1.5, cohort=10
        )
        for _ in range(came):
            mean.add(upd({"w": np.zeros(50_000, np.float32)}))
        noisy = mean.combined()["w"]
        assert noisy.std() == pytest.approx(1.5 * 2.0 / 10, rel=0.02)
        assert abs(noisy.mean()) < 0.01


def test_no_client_moves_the_sum_by_more_than_the_bound():
    for scale in (1e-3, 1.0, 1e6):
        mean = PrivateMean(SHAPES, QuantileClip(bound=0.5), KeyedNoise(KEY), noise_multiplier=0.0, cohort=1)
        mean.add(upd(updates(1, scale)[0]))
        moved = mean.combined()
        flat = [value for array in moved.values() for value in array.reshape(-1).tolist()]
        assert math.fsum(value * value for value in flat) <= 0.25


def test_what_is_not_finite_is_refused_and_leaves_no_trace():
    mean = PrivateMean(SHAPES, QuantileClip(bound=1.0), KeyedNoise(KEY), noise_multiplier=0.0, cohort=2)
    bad = updates(1)[0]
    bad["b"][3] = np.nan
    with pytest.raises(TensorError, match="finite"):
        mean.add(upd(bad))
    assert mean.clients == 0
    assert not mean.combined()["w"].any()


def test_how_many_come_does_not_change_what_the_sum_is_divided_by():
    means = []
    for cohort in (1, 4):
        mean = PrivateMean(
            SHAPES, QuantileClip(bound=1.0), KeyedNoise(KEY), noise_multiplier=0.0, cohort=cohort
        )
        for one in updates(2):
            mean.add(upd(one))
        means.append(mean.combined()["w"])
        with pytest.raises(ValueError, match="takes no more"):
            mean.add(upd(updates(1)[0]))
    assert (means[0] == 4 * means[1]).all()


def test_more_updates_than_can_be_summed_are_refused():
    bound = 2.0**20
    mean = PrivateMean(SHAPES, QuantileClip(bound=bound), KeyedNoise(KEY), noise_multiplier=0.0, cohort=1)
    room = (1 << 31) // 2**20
    with pytest.raises(ConfigError, match="do not fit 64 bits"):
        mean.add_vector(np.zeros(2011, np.uint64), room)


def test_the_bound_adapts_by_a_noisy_count_and_weights_carry_more_noise():
    clipping = QuantileClip(bound=50.0, count_noise=2.0)
    mean = PrivateMean(SHAPES, clipping, Fixed(1.0), noise_multiplier=1.0, cohort=4, adaptive=True)
    for scale in (1.0, 1.0, 1.0, 100.0):
        mean.add(upd(updates(1, scale)[0]))
    noisy = mean.combined()
    # Norms are 45, 45, 45, 4,500: 3 of 4 within; one deviation of noise on that.
    assert mean.clipping == clipping.following(2, 4, 1.0)
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
        PrivateMean(SHAPES, clipping, KeyedNoise(KEY), noise_multiplier=1.0, cohort=5, adaptive=adaptive)
        for _ in range(2)
    )
    for one in given:
        plain.add(upd(one))
    secure.add_vector(np.add.reduce(vectors), 5)
    one, other = plain.combined(), secure.combined()
    assert plain.clipping == secure.clipping
    assert all((one[name] == other[name]).all() for name in SHAPES)


def test_local_noise_is_on_every_update_by_itself():
    zeros = {"w": np.zeros((100, 500), np.float32)}
    noisy = locally_private(zeros, 2.0, 1.5, KeyedNoise(KEY))["w"]
    assert noisy.shape == (100, 500)
    assert noisy.std() == pytest.approx(3.0, rel=0.02)
    # On the grid of whole steps, so the last bits say nothing of what the noise was added to.
    steps = noisy * 2.0**32
    assert (steps == np.rint(steps)).all()
