"""How sure a tensor of scores is, and which edge its value takes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.core.plan import Guard
from collab.runtime.guards import measure, passes

MEASURES = ("max", "margin", "entropy")


def guard(kind: str, when: str = "below", threshold: float = 0.5) -> Guard:
    return Guard(tensor="p", measure=kind, when=when, threshold=threshold)


@pytest.mark.parametrize(
    ("kind", "scores", "value"),
    [
        ("max", [[0.1, 0.7, 0.2]], 0.7),
        ("margin", [[0.1, 0.7, 0.2]], 0.5),
        ("margin", [[0.4, 0.4, 0.2]], 0.0),
        ("margin", [0.3], 0.3),
        ("entropy", [[0.5, 0.5]], math.log(2)),
        ("entropy", [[1.0, 0.0, 0.0]], 0.0),
        ("entropy", [[0.25] * 4], math.log(4)),
        ("max", [[0.1, 0.2], [0.9, 0.9]], 0.2),
        ("margin", [[[0.1, 0.4], [0.0, 1.0]]], 0.3),
        ("max", 0.25, 0.25),
        ("margin", 0.25, 0.25),
    ],
)
def test_a_measure_is_taken_over_the_last_axis_of_the_first_row(kind, scores, value):
    assert measure(guard(kind), np.array(scores, np.float32)) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        ([[0.1, 0.9], [0.2, 0.8]], 1),
        ([[0.1, 0.9], [np.nan, 0.8]], 0.75),
        ([[np.inf, -np.inf]], 0),
        ([[]], 1),
        (np.nan, 0),
    ],
)
def test_what_is_finite_is_counted_over_all_rows(scores, share):
    array = np.array(scores, np.float32)
    assert measure(guard("finite"), array) == share
    assert passes(guard("finite", "at_least", 1.0), array) is (share == 1)
    assert passes(guard("finite", "below", 1.0), array) is (share < 1)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float16", "float64", "bool"])
def test_scores_of_any_real_dtype_can_be_measured(dtype):
    scores = np.array([[0, 1, 1]], dtype)
    assert measure(guard("max"), scores) == 1
    assert measure(guard("margin"), scores) == 0


def test_quantised_scores_do_not_overflow():
    assert measure(guard("margin"), np.array([[127, -128]], np.int8)) == 255


@pytest.mark.parametrize(("value", "below"), [(0.4, True), (0.5, False), (0.6, False), (np.inf, False)])
def test_below_and_at_least_share_no_value_and_miss_none(value, below):
    scores = np.array([[value, -9.0]])
    assert passes(guard("max", "below"), scores) is below
    assert passes(guard("max", "at_least"), scores) is not below


@pytest.mark.parametrize(("kind", "unsure"), [("max", "below"), ("margin", "below"), ("entropy", "at_least")])
@pytest.mark.parametrize(
    "scores",
    [
        np.array([[np.nan, 0.9]], np.float32),
        np.array([[0.9, np.nan, 0.05]], np.float32),
        np.array([[np.nan, np.nan]], np.float32),
        np.array([np.nan]),
        np.zeros((1, 0), np.float32),
        np.zeros((0, 3), np.float32),
    ],
    ids=["nan first", "nan between", "all nan", "one nan", "no scores", "no row"],
)
def test_scores_that_say_nothing_never_count_as_sure(kind, unsure, scores):
    for when in ("below", "at_least"):
        assert passes(guard(kind, when, 0.01), scores) is (when == unsure)


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6),
    st.sampled_from(MEASURES),
    st.floats(-1, 2, width=32),
)
def test_exactly_one_of_two_opposite_guards_lets_a_value_through(scores, kind, threshold):
    array = np.array([scores])
    ways = [passes(guard(kind, when, threshold), array) for when in ("below", "at_least")]
    assert sorted(ways) == [False, True]
