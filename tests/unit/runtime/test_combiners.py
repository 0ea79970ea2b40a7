"""Combiners: members' tensors by name, merged into one answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import PlanError
from collab.runtime.combiners import COMBINERS, combiner, first, mean


def members(*values, dtype="float32"):
    return [{"p": np.array(value, dtype)} for value in values]


def test_first_takes_the_first_members_tensors():
    one, other = {"p": np.ones(2), "q": np.zeros(1)}, {"p": np.zeros(2)}
    assert first([one, other]) == one
    assert first([one, other]) is not one


def test_mean_is_taken_element_by_element_for_every_tensor():
    made = mean(
        [{"p": np.array([1.0, 2]), "q": np.array([5.0])}, {"p": np.array([3.0, 6]), "q": np.array([6.0])}]
    )
    assert made["p"].tolist() == [2, 4]
    assert made["q"].tolist() == [5.5]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("float32", ([1], [2], [4]), [7 / 3]),
        ("float16", ([60000], [60000]), [60000]),
        ("int8", ([127], [127], [126]), [127]),
        ("int8", ([-128], [-127]), [-128]),
        ("uint8", ([255], [254], [255]), [255]),
        ("int32", ([0], [1]), [0]),
        ("int32", ([1], [2]), [2]),
        ("bool", ([True], [False], [False]), [False]),
        ("bool", ([True], [True], [False]), [True]),
        ("complex64", ([1 + 2j], [3 - 4j]), [2 - 1j]),
    ],
)
def test_mean_keeps_the_dtype_and_rounds_what_has_no_fractions(dtype, values, expected):
    made = mean(members(*values, dtype=dtype))["p"]
    assert made.dtype == np.dtype(dtype)
    np.testing.assert_allclose(made, np.array(expected, dtype), rtol=1e-6)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=5), st.integers(1, 5))
def test_the_mean_of_equal_members_is_each_of_them(values, count):
    for dtype in ("int8", "float32", "int32"):
        made = mean(members(*[values] * count, dtype=dtype))["p"]
        assert made.tolist() == values


def test_members_are_left_alone():
    given_members = members([1], [3])
    mean(given_members)["p"][:] = 9
    assert [m["p"].tolist() for m in given_members] == [[1], [3]]


def test_an_unknown_combiner_is_a_plan_error_that_lists_those_known():
    with pytest.raises(PlanError, match=r"combine: 'vote' is not known; use one of first, mean"):
        combiner("vote")
    assert combiner("mean") is COMBINERS["mean"]
