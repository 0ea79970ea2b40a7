"""Normal noise from a keyed stream."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collab.errors import ConfigError
from collab.federated.privacy.noise import KeyedNoise, rounded_noise

KEY = bytes(range(32))


def test_a_key_gives_the_same_noise_again_and_another_key_another():
    first = KeyedNoise(KEY).normal(1001)
    assert (first == KeyedNoise(KEY).normal(1001)).all()
    assert not (first == KeyedNoise(bytes(32)).normal(1001)).any()


def test_calls_go_on_in_the_stream():
    noise = KeyedNoise(KEY)
    assert not (noise.normal(100) == noise.normal(100)).any()


def test_the_first_numbers_are_box_muller_of_the_stream():
    # The stream of RFC 8439 appendix A.1 for a key of zeros, as two numbers of 53 bits.
    one, two = (
        int.from_bytes(bytes.fromhex(text), "little") >> 11
        for text in ("76b8e0ada0f13d90", "405d6ae55386bd28")
    )
    radius, angle = math.sqrt(-2 * math.log((one + 1) / 2**53)), 2 * math.pi * two / 2**53
    expected = [radius * math.cos(angle), radius * math.sin(angle)]
    assert KeyedNoise(bytes(32)).normal(2).tolist() == pytest.approx(expected, rel=1e-14)


def test_it_is_normal():
    numbers = np.sort(KeyedNoise(KEY).normal(200_001))
    expected = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in numbers[::100]])
    at = np.arange(0, 200_001, 100) / 200_001
    # Kolmogorov–Smirnov at one in 10^7: 2.9 over the root of the count.
    assert np.abs(at - expected).max() < 2.9 / math.sqrt(200_001)
    assert abs(np.corrcoef(KeyedNoise(KEY).normal(200_000).reshape(-1, 2).T)[0, 1]) < 0.02


def test_rounded_noise_has_its_deviation_in_whole_numbers():
    numbers = rounded_noise(KeyedNoise(KEY), 1000.0, 100_000)
    assert numbers.dtype == np.int64
    assert numbers.std() == pytest.approx(1000, rel=0.02)
    assert not rounded_noise(KeyedNoise(KEY), 0.0, 10).any()
    with pytest.raises(ConfigError, match="has no room"):
        rounded_noise(KeyedNoise(KEY), 2.0**59, 1)
