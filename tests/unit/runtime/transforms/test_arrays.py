"""Numbers: the largest, powers, scales and dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from collab.core.transforms import Dequantise, Normalise, Quantise
from collab.runtime.transforms.arrays import dequantise, normalise, quantise, saturated, softmax, top_k


@given(arrays(np.int8, st.tuples(st.integers(1, 3), st.integers(1, 12))), st.data())
def test_the_largest_come_first_and_of_equal_ones_the_earlier(values, data):
    k = data.draw(st.integers(1, values.shape[1]))
    made, places = top_k(values, k)
    for row, numbers in enumerate(values.tolist()):
        want = sorted(range(len(numbers)), key=lambda i: (-numbers[i], i))[:k]
        assert places[row].tolist() == want
        assert made[row].tolist() == [numbers[i] for i in want]
    assert (made.dtype.name, places.dtype.name) == ("int8", "int32")


def test_powers_sum_up_to_one_however_large_they_are():
    made = softmax(np.array([[1000, 1000, 0], [-5, 2, 3]], np.float32))
    assert np.allclose(made.sum(axis=-1), 1)
    assert np.allclose(made[0], [0.5, 0.5, 0])


def test_a_scale_may_be_one_for_each_channel():
    made = normalise(Normalise(scale=(1.0, 2.0), offset=(0.0, -1.0)), np.array([[3, 3]], np.uint8))
    assert (made.tolist(), made.dtype.name) == ([[3, 5]], "float32")


@pytest.mark.parametrize(
    ("values", "dtype", "want"),
    [
        ([-1.9, 1.9, 300.0, -300.0, np.nan, np.inf], "int8", [-1, 1, 127, -128, 0, 127]),
        ([-1.0, 255.9, 256.0], "uint8", [0, 255, 255]),
        ([2.0**70, -(2.0**70), 5.5], "int64", [2**63 - 1, -(2**63), 5]),
        ([2.0**70], "uint64", [2**64 - 1]),
        ([1e6, -1e6], "float16", [65504.0, -65504.0]),
        ([0.0, 0.5], "bool", [False, True]),
    ],
)
def test_a_cast_keeps_within_what_the_dtype_holds(values, dtype, want):
    assert saturated(np.array(values), dtype).tolist() == want


def test_a_cast_between_whole_numbers_keeps_their_ends():
    assert saturated(np.array([-300, 300], np.int16), "uint8").tolist() == [0, 255]
    assert saturated(np.array([2**64 - 1], np.uint64), "int64").tolist() == [2**63 - 1]
    assert saturated(np.array([-5], np.int8), "uint64").tolist() == [0]


def test_halves_are_rounded_away_from_zero():
    options = Quantise(scale=0.5, zero=3)
    made = quantise(options, np.array([0.25, -0.25, 0.24, 1.25, -1.25, 1e9, np.nan], np.float32))
    assert made.tolist() == [4, 2, 3, 6, 0, 127, 3]
    below = np.nextafter(np.float32(0.25), np.float32(0))
    assert quantise(options, np.array([below])).tolist() == [3]


@given(arrays(np.int8, 16), st.floats(1e-3, 10), st.integers(-128, 127))
def test_what_is_dequantised_and_quantised_again_is_the_same(values, scale, zero):
    options = {"scale": float(np.float32(scale)), "zero": zero}
    assert np.array_equal(quantise(Quantise(**options), dequantise(Dequantise(**options), values)), values)
