"""What a validation file says of ensembles and cascades: weights of members, thresholds of doubt.

A validation file is an ``.npz`` of inputs by tensor name and of one label each.  The
models answer it on this machine, so no node is needed.  Only the first row of each
answer's first output is judged, as guards do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from collab.codec.tensors import Array
from collab.coordinator.planning import stage_specs, whole_model
from collab.coordinator.workload import Request, requests_of
from collab.core.ids import Digest
from collab.core.plan import Guard, ModelRef
from collab.core.tensor import TensorSpec
from collab.errors import InputError
from collab.graph import Graph, split
from collab.planner.chain import Assignment
from collab.planner.ensemble import Doubt, Measure, Member, matched
from collab.runtime.combiners import combiner, probabilities
from collab.runtime.guards import measure

Weighting = Literal["log-odds", "stacked"]
WEIGHTINGS: Final[tuple[Weighting, ...]] = ("log-odds", "stacked")
Progress = Callable[[int, int], None]
Hits = npt.NDArray[np.bool_]

LABELS: Final = "labels"
"""Name of the labels in a validation file."""

_ROUNDS: Final = 500
_STEP: Final = 1e-9
_TRIES: Final = 200
"""Thresholds tried, from asking the large model always to asking it never."""


def member(path: Path, graph: Graph, at: Sequence[int], places: Assignment, threads: int = 1) -> Member:
    """A model, cut and placed, as plans of several take it."""
    models = split(graph, at)
    return Member(
        ModelRef(
            sha256=Digest(graph.sha256),
            ops=graph.op_count,
            path=str(path),
        ),
        tuple(stage_specs(models, places, [threads] * len(models))),
        tuple(tuple(tensor.name for tensor in model.boundary_in) for model in models[1:]),
        tuple(graph.inputs),
        tuple(graph.outputs),
    )


@dataclass(frozen=True)
class Examples:
    """Requests with the class that each should get."""

    requests: Sequence[Request]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def examples(specs: Sequence[TensorSpec], arrays: Mapping[str, Array], what: str) -> Examples:
    """Read a validation file's arrays; raises `InputError` or `TensorError` that says what is wrong."""
    if LABELS not in arrays:
        raise InputError(f"{what}: no array {LABELS!r}; save the class of each input under that name")
    labels = np.asarray(arrays[LABELS])
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not labels.size:
        raise InputError(
            f"{what} {LABELS!r}: {labels.dtype}{list(labels.shape)}; give whole numbers, one for each input"
        )
    requests = requests_of(specs, {name: a for name, a in arrays.items() if name != LABELS}, what)
    if len(requests) != len(labels):
        raise InputError(f"{what} {LABELS!r}: {len(labels)} labels for {len(requests)} inputs; give one each")
    return Examples(requests, labels.astype(np.int64))


def scores_of(
    who: str, graph: Graph, like: Graph, given: Examples, progress: Progress | None = None
) -> Array:
    """A model's answers to all examples, shape ``[N, *shape]``: what a plan has as its first output.

    Computed on this machine; ``like`` is the first of the plan's models.  Raises
    `BackendError`, `PlanError` for a model that cannot stand beside it, `InputError` for
    labels that are no class of the model.
    """
    names = matched(who, (graph.inputs, graph.outputs), (like.inputs, like.outputs))
    order = [names[spec.name] for spec in graph.inputs]
    at = [names[spec.name] for spec in graph.outputs].index(like.outputs[0].name)
    run = whole_model(graph)
    answers = []
    for i, request in enumerate(given.requests):
        answers.append(run([request[name] for name in order])[at])
        if progress:
            progress(i + 1, len(given))
    made = np.stack(answers)
    classes = made.shape[-1] if made.ndim > 1 else 0
    if given.labels.min() < 0 or given.labels.max() >= classes:
        raise InputError(
            f"{LABELS!r}: from {given.labels.min()} to {given.labels.max()}, the model has classes 0 to "
            f"{classes - 1}; number them as the model does"
        )
    return made


def first_rows(scores: Array) -> Array:
    """The first row of each answer, shape ``[N, classes]``."""
    return scores.reshape(len(scores), -1, scores.shape[-1])[:, 0]


def hits_of(scores: Array, labels: npt.NDArray[np.int64]) -> Hits:
    """Which answers are right, shape ``[N]``; one that is not finite never is."""
    rows = first_rows(scores)
    right: Hits = (rows.argmax(axis=-1) == labels) & np.isfinite(rows).all(axis=-1)
    return right


def wilson(hits: float, count: int, z: float) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927, JASA 22, 209-212), ``z`` standard deviations wide."""
    share, square = hits / count, z * z
    middle = share + square / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    low, high = (middle - half) / (1 + square / count), (middle + half) / (1 + square / count)
    return max(0.0, low), min(1.0, high)


def weigh(scores: Sequence[Array], labels: npt.NDArray[np.int64], how: Weighting) -> tuple[float, ...]:
    """Weights of members from their answers, which sum up to one; equal ones where none is of use.

    ``log-odds``: a member that is right with probability p of K classes counts
    ln((K - 1) p / (1 - p)), best for votes of independent members (Nitzan and Paroush 1982,
    Int. Economic Review 23, 289-297; for K classes Zhu et al. 2009, Statistics and Its
    Interface 2, 349-360); worse than chance counts nothing, and one right and one wrong
    answer are added, so that no weight is infinite.  ``stacked``: shares of the linear pool
    of probabilities that make the labels likeliest (Breiman 1996, Machine Learning 24,
    49-64), found by expectation maximisation (Dempster, Laird and Rubin 1977).
    """
    if how == "stacked":
        return _stacked(scores, labels)
    weights = []
    for one in scores:
        hits, count, classes = hits_of(one, labels).sum(), len(labels), one.shape[-1]
        right = (float(hits) + 1) / (count + 2)
        weights.append(max(0.0, math.log(max(1, classes - 1) * right / (1 - right))))
    total = sum(weights)
    return tuple(w / total for w in weights) if total > 0 else (1 / len(weights),) * len(weights)


def _stacked(scores: Sequence[Array], labels: npt.NDArray[np.int64]) -> tuple[float, ...]:
    given = []
    for one in scores:
        finite = np.isfinite(first_rows(one)).all(axis=-1)
        likely = np.zeros(len(labels))
        if finite.any():
            rows = probabilities(first_rows(one)[finite])
            likely[finite] = np.take_along_axis(rows, labels[finite, None], -1)[:, 0]
        given.append(likely)
    likelihood = np.maximum(np.stack(given, axis=1), 1e-12)
    weights = np.full(len(scores), 1 / len(scores))
    for _ in range(_ROUNDS):
        parts = likelihood * weights
        after = (parts / parts.sum(axis=1, keepdims=True)).mean(axis=0)
        done = np.abs(after - weights).max() < _STEP
        weights = after
        if done:
            break
    return tuple(float(weight) for weight in weights)


@dataclass(frozen=True)
class Standing:
    """How often something is right on a validation file."""

    hits: int
    count: int

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.hits / self.count

    def to_json(self) -> dict[str, Any]:
        """Accuracy with its 95 % interval."""
        low, high = wilson(self.hits, self.count, _z(0.95, sides=2))
        return {"accuracy": round(self.accuracy, 4), "interval": [round(low, 4), round(high, 4)]}


def standing(scores: Array, labels: npt.NDArray[np.int64]) -> Standing:
    """How often answers are right."""
    return Standing(int(hits_of(scores, labels).sum()), len(labels))


def combined(scores: Sequence[Array], combine: str, weights: Sequence[float]) -> Array:
    """What a combiner makes of members' answers, one example after another; left out is what is not finite.

    NaN where no member gave finite numbers.
    """
    merge = combiner(combine)
    counts = weights or (1.0,) * len(scores)
    merged = []
    for answers in zip(*scores, strict=True):
        kept = [i for i, answer in enumerate(answers) if np.isfinite(answer).all()]
        if kept:
            merged.append(merge([{"scores": answers[i]} for i in kept], [counts[i] for i in kept])["scores"])
        else:
            merged.append(np.full(answers[0].shape, np.nan))
    return np.stack(merged)


@dataclass(frozen=True)
class Calibration:
    """A cascade's threshold and what the validation file says of it."""

    doubt: Doubt
    escalated: int
    """Examples that went on to the large model."""
    small: Standing
    large: Standing
    cascade: Standing
    drop_bound: float
    """Upper bound of what the cascade loses against the large model, at ``confidence``."""
    confidence: float

    @property
    def escalation_share(self) -> float:
        """Expected share of requests that go on to the large model."""
        return self.escalated / self.small.count

    def to_json(self) -> dict[str, Any]:
        """As ``collab cascade --json`` prints it."""
        low, high = wilson(self.escalated, self.small.count, _z(0.95, sides=2))
        return {
            "measure": self.doubt.measure,
            "threshold": self.doubt.threshold,
            "escalation": {
                "share": round(self.escalation_share, 4),
                "interval": [round(low, 4), round(high, 4)],
            },
            "small": self.small.to_json(),
            "large": self.large.to_json(),
            "cascade": self.cascade.to_json(),
            "drop": round(self.large.accuracy - self.cascade.accuracy, 6),
            "drop_bound": round(self.drop_bound, 6),
            "confidence": self.confidence,
            "examples": self.small.count,
        }


def calibrate(
    small: Array,
    large: Array,
    labels: npt.NDArray[np.int64],
    kind: Measure,
    most_drop: float,
    confidence: float = 0.9,
) -> Calibration:
    """The threshold that asks the large model least and loses at most ``most_drop`` of its accuracy.

    Thresholds are tried from asking always to asking never, and the last before the first
    that may lose more is taken: a fixed sequence of tests, so that trying many does not spoil
    the confidence (Angelopoulos et al. 2021, Learn then Test, arXiv:2110.01052).  Each is
    judged by `drop_bound`.  Raises `InputError` where nothing can be left to the small model.
    """
    sureness = _sureness(small, kind)
    right_small, right_large = hits_of(small, labels), hits_of(large, labels)
    best: tuple[float, Hits, float] | None = None
    bound = math.inf
    for least in _thresholds(sureness):
        kept = sureness >= least
        cascade = np.where(kept, right_small, right_large)
        bound = drop_bound(right_large, cascade, confidence)
        if bound > most_drop:
            break
        best = least, cascade, bound
    if best is None:
        raise InputError(
            f"{len(labels)} examples cannot show with confidence {confidence:g} that the cascade loses "
            f"{most_drop:g} at most, only {bound:.2g}: give more examples, a larger --accuracy-drop, "
            "or a smaller --confidence"
        )
    least, cascade, bound = best
    return Calibration(
        # An entropy is sure below its threshold, the others from it on.
        Doubt(kind, math.nextafter(-least, math.inf) if kind == "entropy" else least),
        int((sureness < least).sum()),
        Standing(int(right_small.sum()), len(labels)),
        Standing(int(right_large.sum()), len(labels)),
        Standing(int(cascade.sum()), len(labels)),
        bound,
        confidence,
    )


def _sureness(scores: Array, kind: Measure) -> npt.NDArray[np.float64]:
    """A guard's measure of each answer, larger is surer, never sure without a number."""
    guard = Guard(tensor="scores", measure=kind, when="below", threshold=0.0)
    values = np.array([measure(guard, answer) for answer in scores])
    surer = -values if kind == "entropy" else values
    return np.where(np.isnan(surer), -np.inf, surer)


def _thresholds(sureness: npt.NDArray[np.float64]) -> list[float]:
    """Values that were seen, surest first; a few of them where they are many."""
    seen = np.unique(sureness[np.isfinite(sureness)])[::-1]
    if len(seen) > _TRIES:
        seen = seen[np.linspace(0, len(seen) - 1, _TRIES).round().astype(int)]
    return [float(value) for value in seen]


def drop_bound(whole: Hits, cascade: Hits, confidence: float) -> float:
    """Upper bound, at a one-sided confidence, of how much less often the cascade is right.

    The score interval for a difference of paired shares, from two Wilson intervals and their
    correlation (Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10); where the
    two never differ, the Wilson bound of their differing.
    """
    count, z = len(whole), _z(confidence, sides=1)
    both, neither = float((whole & cascade).sum()), float((~whole & ~cascade).sum())
    lost, won = float((whole & ~cascade).sum()), float((~whole & cascade).sum())
    if not lost and not won:
        return wilson(0, count, z)[1]
    one, other = (both + lost) / count, (both + won) / count
    above = wilson(both + lost, count, z)[1] - one
    below = other - wilson(both + won, count, z)[0]
    spread = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    phi = (both * neither - lost * won) / math.sqrt(spread) if spread else 0.0
    half = math.sqrt(max(0.0, above**2 - 2 * phi * above * below + below**2))
    return one - other + half


def _z(confidence: float, sides: int) -> float:
    return NormalDist().inv_cdf(1 - (1 - confidence) / sides)
