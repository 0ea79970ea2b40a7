"""Accuracy, calibration and paired comparison are what their definitions say."""

from __future__ import annotations

import numpy as np
import pytest

from collab.errors import InputError, TensorError
from collab.toolchain.validate.measures import compare, mcnemar, measure, probabilities

LABELS = np.array([0, 0, 1, 1, 2])
SCORES = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7]])


def test_accuracy_classes_and_confusion():
    found = measure(SCORES, LABELS, ("a", "b", "c"))
    assert found.accuracy == 0.8
    assert found.interval[0] < 0.8 < found.interval[1]
    assert found.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 1]]
    assert [(c.name, c.examples, c.recall) for c in found.classes] == [
        ("a", 2, 0.5),
        ("b", 2, 1),
        ("c", 1, 1),
    ]
    assert found.classes[1].precision == pytest.approx(2 / 3)


def test_a_class_without_examples_or_answers_has_no_shares():
    found = measure(SCORES[:1], LABELS[:1])
    assert (found.classes[2].recall, found.classes[2].precision) == (None, None)


def test_calibration_error_is_how_much_too_sure_a_model_is():
    scores = np.tile([0.9, 0.1], (10, 1))
    labels = np.array([0] * 6 + [1] * 4)
    found = measure(scores, labels)
    assert found.calibration_error == pytest.approx(0.3)
    assert found.confidence == pytest.approx(0.9)


def test_logits_become_probabilities_and_probabilities_stay():
    np.testing.assert_allclose(probabilities(np.array([[0.0, np.log(3)]])), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities(SCORES), SCORES)
    # The steps of an int8 softmax.
    np.testing.assert_allclose(probabilities(np.array([[0.5, 0.5078]])).sum(), 1)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.array([0, 0, 1, 1, 3]), "label 3 of example 4 is out of range: the model has 3 classes"),
        (np.array([0, -1, 1, 1, 2]), "label -1 of example 1"),
        (np.array([0, 1]), "one for each of the 5"),
        (np.array([0.0, 0, 1, 1, 2]), "whole numbers"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, said):
    with pytest.raises(InputError, match=said):
        measure(SCORES, labels)


def test_answers_that_are_none_are_refused():
    with pytest.raises(TensorError, match="a classifier gives"):
        measure(np.zeros((5, 1)), LABELS)
    with pytest.raises(InputError, match="not finite"):
        measure(np.full((5, 3), np.nan), LABELS)


def test_a_model_beside_itself_is_no_different():
    found = compare(SCORES, SCORES, LABELS)
    assert (found.difference, found.agreement, found.p_value) == (0.0, 1.0, 1.0)
    assert found.interval[0] <= 0 <= found.interval[1]


def test_a_better_model_has_an_interval_above_nothing():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    right = np.eye(2)[labels]
    worse = np.eye(2)[np.where(rng.random(2000) < 0.1, 1 - labels, labels)]
    found = compare(right, worse, labels)
    assert found.only_reference == 0
    assert found.difference == pytest.approx(found.only_model / 2000)
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    assert found.p_value < 1e-6


@pytest.mark.parametrize(
    ("won", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (1, 9, 0.021484375)]
)
def test_mcnemars_exact_test(won, lost, p):
    assert mcnemar(won, lost) == mcnemar(lost, won) == pytest.approx(p)
