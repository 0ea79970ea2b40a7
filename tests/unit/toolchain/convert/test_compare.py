"""Answers of a converted model are compared number by number; what is no number is never close."""

from __future__ import annotations

import numpy as np
import pytest

from collab.toolchain.convert.compare import difference, differences

EXPECTED = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)


def test_equal_answers_are_within_nothing():
    found = difference("y", EXPECTED, EXPECTED.copy())
    assert (found.max_abs, found.agreement, found.varied) == (0.0, 1.0, True)
    assert found.within(0.0)


def test_the_largest_difference_counts_as_a_share_of_large_answers():
    found = difference("y", EXPECTED * 1000, EXPECTED * 1000 + np.float32(0.5))
    assert found.max_abs == pytest.approx(0.5, rel=1e-3)
    assert found.relative == pytest.approx(0.5 / 900, rel=1e-3)
    assert found.within(1e-3)
    assert not found.within(1e-4)


def test_another_largest_class_lowers_the_agreement():
    assert difference("y", EXPECTED, EXPECTED[:, ::-1]).agreement == 0.0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_in_one_place_only_is_infinitely_far(wrong):
    got = EXPECTED.copy()
    got[0, 0] = wrong
    assert not difference("y", EXPECTED, got).within(1e9)
    assert difference("y", got, got.copy()).within(0.0)


def test_another_shape_and_a_missing_output_are_infinitely_far():
    assert not difference("y", EXPECTED, EXPECTED[:1]).within(1e9)
    first, second = differences(["y", "z"], [EXPECTED, EXPECTED], [EXPECTED])
    assert first.within(0.0)
    assert not second.within(1e9)


def test_answers_that_never_change_prove_nothing():
    assert not difference("y", EXPECTED[[0, 0]], EXPECTED[[0, 0]]).varied
