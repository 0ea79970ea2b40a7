from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from collab.core.preprocessing import Quantisation
from collab.runtime.preprocessing.quantised import to_integers, to_reals


def test_halves_go_away_from_zero_and_what_is_just_below_does_not():
    unit = Quantisation(scale=1.0)
    below = np.nextafter(np.float32(0.5), np.float32(0))
    x = np.array([0.5, -0.5, 1.5, 2.5, -2.5, below, -below, 0.0], np.float32)
    assert to_integers(x, unit, "int8").tolist() == [1, -1, 2, 3, -3, 0, 0, 0]


def test_values_beyond_the_type_are_its_ends():
    x = np.array([-1e9, 1e9], np.float32)
    assert to_integers(x, Quantisation(scale=0.1, zero_point=3), "int8").tolist() == [-128, 127]
    assert to_integers(x, Quantisation(scale=0.1, zero_point=3), "uint8").tolist() == [0, 255]


def test_pixels_keep_their_number_in_a_model_of_bytes():
    pixels = np.arange(256, dtype=np.uint8)
    got = to_integers(
        pixels.astype(np.float32) / np.float32(255), Quantisation(scale=1 / 255, zero_point=-128), "int8"
    )
    assert np.array_equal(got.astype(int) + 128, pixels)


@given(st.floats(1e-4, 10), st.integers(-128, 127), st.integers(-128, 127))
def test_integers_come_back_as_they_were(scale, zero, q):
    quantisation = Quantisation(scale=scale, zero_point=zero)
    array = np.array([q], np.int8)
    assert to_integers(to_reals(array, quantisation), quantisation, "int8")[0] == q


def test_reals_without_a_quantisation_stay_what_they_are():
    assert to_reals(np.array([3], np.int32), None).tolist() == [3.0]
