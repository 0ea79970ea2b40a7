"""Accuracy, calibration and paired comparison of classifiers, from their answers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.coordinator.ensembles import drop_bound, wilson
from collab.errors import InputError, TensorError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

Z95: Final = 1.959963984540054
"""Standard deviations on either side of a 95 % interval."""
BINS: Final = 15
"""Of the expected calibration error, as in Guo et al. 2017 (arXiv:1706.04599)."""


@dataclass(frozen=True, slots=True)
class ClassMeasure:
    """One class: examples of it, share of them found, share of answers of it that are right."""

    name: str
    examples: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class Measures:
    """A model on labelled examples.

    Attributes:
        interval: of the accuracy, 95 % (Wilson).
        calibration_error: expected calibration error over `BINS` bins, of the answer's class.
        confidence: mean probability of the answer's class; over the accuracy it is too sure.
        confusion: ``[label, answer]``, counts.
    """

    examples: int
    accuracy: float
    interval: tuple[float, float]
    calibration_error: float
    confidence: float
    classes: tuple[ClassMeasure, ...]
    confusion: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Paired:
    """A model beside a reference on the same examples.

    Attributes:
        difference: accuracy of the model less that of the reference.
        interval: of it, 95 % (Newcombe 1998, method 10).
        only_model: examples that only the model has right; `only_reference` likewise.
        p_value: of McNemar's exact test that both are right equally often.
        agreement: share of examples with the same answer.
    """

    difference: float
    interval: tuple[float, float]
    only_model: int
    only_reference: int
    p_value: float
    agreement: float


def probabilities(scores: NDArray[Any]) -> Floats:
    """Answers ``[n, classes]`` as probabilities: as they are, or the softmax of what are none.

    Raises:
        TensorError: it is no table of numbers, one row an example.
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise TensorError(
            f"the output has the shape {list(scores.shape)}: a classifier gives [N, classes]; "
            "name another one by --output"
        )
    wide: Floats = scores.astype(np.float64)
    if not np.isfinite(wide).all():
        raise InputError("the model answers with numbers that are not finite: check its weights and inputs")
    # What an int8 softmax gives sums up to one but for its steps.
    if wide.min() >= 0 and np.abs(wide.sum(axis=1) - 1).max() < 0.05:
        shares: Floats = wide / wide.sum(axis=1, keepdims=True)
        return shares
    raised: Floats = np.exp(wide - wide.max(axis=1, keepdims=True))
    softmax: Floats = raised / raised.sum(axis=1, keepdims=True)
    return softmax


def check_labels(labels: NDArray[Any], count: int, classes: int) -> Labels:
    """Labels of examples as int64; raises `InputError` for a wrong number, or one out of range."""
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels are {labels.dtype.name}{list(labels.shape)}: give whole numbers, one for each of the "
            f"{count} examples"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise InputError(
            f"label {int(labels[wrong[0]])} of example {int(wrong[0])} is out of range: the model has "
            f"{classes} classes, 0 to {classes - 1}"
        )
    return labels.astype(np.int64)


def measure(scores: NDArray[Any], labels: Labels, names: Sequence[str] = ()) -> Measures:
    """Measure answers ``[n, classes]`` to labelled examples."""
    likely = probabilities(scores)
    count, classes = likely.shape
    if not count:
        raise InputError("there are no examples to measure on")
    labels = check_labels(labels, count, classes)
    answers = likely.argmax(axis=1)
    hits = answers == labels
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, answers), 1)
    confidence = likely[np.arange(count), answers]
    return Measures(
        examples=count,
        accuracy=float(hits.mean()),
        interval=wilson(float(hits.sum()), count, Z95),
        calibration_error=calibration_error(confidence, hits),
        confidence=float(confidence.mean()),
        classes=tuple(
            ClassMeasure(
                names[k] if k < len(names) else str(k),
                int(confusion[k].sum()),
                _share(confusion[k, k], confusion[k].sum()),
                _share(confusion[k, k], confusion[:, k].sum()),
            )
            for k in range(classes)
        ),
        confusion=confusion,
    )


def calibration_error(confidence: Floats, hits: NDArray[np.bool_]) -> float:
    """How far confidence is from accuracy in bins of equal width, weighted by what they hold."""
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    held = np.bincount(bins, minlength=BINS)
    gaps = np.bincount(bins, confidence, BINS) - np.bincount(bins, hits.astype(np.float64), BINS)
    return float(np.abs(gaps).sum() / max(held.sum(), 1))


def _share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


def compare(scores: NDArray[Any], reference: NDArray[Any], labels: Labels) -> Paired:
    """Compare a model's answers with a reference's; both ``[n, classes]``, on the same examples."""
    if len(scores) != len(reference):
        raise InputError("the two models answered different numbers of examples")
    one, other = scores.argmax(axis=1), reference.argmax(axis=1)
    mine, theirs = one == labels, other == labels
    won, lost = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    return Paired(
        difference=float(mine.mean() - theirs.mean()),
        interval=(-drop_bound(theirs, mine, 0.975), drop_bound(mine, theirs, 0.975)),
        only_model=won,
        only_reference=lost,
        p_value=mcnemar(won, lost),
        agreement=float((one == other).mean()),
    )


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact p-value that of the examples on which they differ each wins one half."""
    count, fewer = won + lost, min(won, lost)
    if not count:
        return 1.0
    # Logarithms, since the coefficients of a few thousand pass what a float holds.
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(value) for value in logs))
