"""Least squares over what was measured: times of operators from times of stages, links from probes.

LiteRT fuses operators and passes tensors on inside a stage, so operators timed one by one
say too much.  Times of longer ranges correct them: one fit over all, of relative errors,
with no time below zero.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LEAST_MS: Final = 1e-3
"""Times below this count as this: relative errors of nothing mean nothing."""
_MOST_MBIT_S: Final = 1e6
"""Where larger bodies take no longer."""
_PIECE_WEIGHT: Final = 0.2
"""Of a stage that is one piece of the model, beside longer ones: plans seldom have such."""
_LENGTH_POWER: Final = 0.5
"""Longer ranges count more: short ones have most of what no sum of operators explains."""
_SLACK: Final = 1e-9
_LEAST_SAMPLES: Final = 8
"""Of power, for a line through them."""
_LEAST_SPREAD: Final = 0.1
"""Of busy shares, between the idlest and the busiest sample."""


class TimedRange(NamedTuple):
    """What a stage of operators ``[start, stop)`` takes."""

    start: int
    stop: int
    ms: float


@dataclass(frozen=True)
class StageTimes:
    """A stage costs ``stage_ms`` and its operators' ``op_ms``."""

    op_ms: tuple[float, ...]
    stage_ms: float

    def predict(self, start: int, stop: int) -> float:
        """Time of operators ``[start, stop)`` as a stage, in ms."""
        return sum(self.op_ms[start:stop]) + self.stage_ms


def nnls(a: Floats, b: Floats) -> Floats:
    """The ``x ≥ 0`` that makes ``|a x - b|`` least; ``a`` has shape [m, n] and full column rank.

    Block principal pivoting (Portugal, Júdice and Vicente 1994): all variables of the
    wrong sign change sides at a time, one alone when that does not help any more.
    """
    # Columns of one length: what their units are does not matter then.
    lengths: Floats = np.linalg.norm(a, axis=0)
    lengths[lengths == 0] = 1.0
    a = a / lengths
    gram, target = a.T @ a, a.T @ b
    gram[np.diag_indices_from(gram)] += _SLACK
    count = len(target)
    inside, x = np.ones(count, bool), np.zeros(count)
    fewest, patience = count + 1, 3
    for _ in range(20 * (count + 1)):
        x = np.zeros(count)
        x[inside] = np.linalg.solve(gram[np.ix_(inside, inside)], target[inside])
        slope = gram @ x - target
        scale = _SLACK * (1.0 + float(np.abs(target).max(initial=0.0)))
        wrong = np.where(inside, x < -_SLACK, slope < -scale)
        if not wrong.any():
            break
        if wrong.sum() < fewest:
            fewest, patience = int(wrong.sum()), 3
        elif patience:
            patience -= 1
        else:  # Murty's rule, which ends for certain
            last = int(np.flatnonzero(wrong)[-1])
            wrong = np.arange(count) == last
        inside ^= wrong
    found: Floats = np.maximum(x, 0.0) / lengths
    return found


def fit_stages(places: Sequence[int], timed: Sequence[TimedRange]) -> StageTimes:
    """Times of operators from times of stages.

    ``places`` are 0, the cuts that stages begin and end at, and the number of operators.
    Operators with no place between them share their time evenly.  Every piece between two
    places has to be timed by itself.
    """
    index = {place: i for i, place in enumerate(places)}
    pieces = len(places) - 1
    rows, ms = np.zeros((len(timed), pieces + 1)), np.empty(len(timed))
    for row, entry in zip(rows, timed, strict=True):
        row[index[entry.start] : index[entry.stop]] = 1.0
        row[-1] = 1.0
    ms[:] = [max(entry.ms, _LEAST_MS) for entry in timed]
    lengths = rows[:, :-1].sum(axis=1)
    weights = np.where(lengths == 1, _PIECE_WEIGHT, 1.0) * lengths**_LENGTH_POWER / ms
    found = nnls(rows * weights[:, None], ms * weights)
    op_ms: list[float] = []
    for i in range(pieces):
        size = places[i + 1] - places[i]
        op_ms += [float(found[i]) / size] * size
    return StageTimes(tuple(op_ms), float(found[-1]))


def prediction_error(times: StageTimes, seen: Sequence[TimedRange]) -> float | None:
    """Median relative error of predictions; None for no range."""
    errors = [abs(times.predict(e.start, e.stop) - e.ms) / max(e.ms, _LEAST_MS) for e in seen]
    return statistics.median(errors) if errors else None


def fit_link(samples: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """One-way delay in ms and rate in Mbit/s from (bytes, ms) of one-way moves.

    Counts relative errors, so give one sample for each size, two sizes at least.
    """
    sizes = np.array([size for size, _ in samples], np.float64)
    ms = np.maximum([ms for _, ms in samples], _LEAST_MS)
    weights = 1.0 / ms
    scaled = sizes / 1e6
    latency, per_mb = nnls(np.stack([weights, scaled * weights], axis=1), ms * weights)
    return float(latency), min(8000.0 / max(float(per_mb), 1e-9), _MOST_MBIT_S)


def fit_memory(
    file_bytes: Sequence[int],
    working_bytes: Sequence[int],
    measured: Sequence[tuple[int, int, int]],
) -> tuple[tuple[int, ...], int]:
    """Memory of operators, and of a stage beside them, so that sums bound what was measured.

    A loaded stage has its weights, which LiteRT may hold a second time packed for its
    kernels, and one arena as large as its largest operator needs at a time.  So operators
    cost their weights by the factor that fits, and what their tensors need above a level
    that all stages pay.  The level is the one that bounds most closely.

    Args:
        file_bytes: size of each operator's weights.
        working_bytes: tensors that live while each operator runs.
        measured: (start, stop, bytes) of loaded stages ``[start, stop)``.

    Returns:
        ``op_bytes`` and ``stage_bytes``.
    """
    weights, working = np.array(file_bytes, np.float64), np.array(working_bytes, np.float64)
    spans = [(start, stop) for start, stop, _ in measured]
    sizes = np.array([size for _, _, size in measured], np.float64)
    if not spans:
        return tuple(int(2 * w) for w in weights), int(working.max(initial=0.0))
    loads = np.array([[weights[a:b].sum(), working[a:b].max(), 1.0] for a, b in spans])
    unit = np.maximum(loads.max(axis=0), 1.0)
    factor = float(np.clip(nnls(loads / unit, sizes)[0] / unit[0], 1.0, 3.0))
    best: tuple[float, Floats, float] | None = None
    for level in np.unique(np.quantile(working, np.linspace(0.0, 1.0, 33))):
        own = factor * weights + np.maximum(working - level, 0.0)
        totals = np.concatenate([[0.0], np.cumsum(own)])
        sums = np.array([totals[b] - totals[a] for a, b in spans])
        fixed = max(0.0, float((sizes - sums).max()))
        excess = float((fixed + sums - sizes).mean())
        if best is None or excess < best[0]:
            best = (excess, own, fixed)
    assert best is not None
    return tuple(int(np.ceil(size)) for size in best[1]), int(np.ceil(best[2]))


class PowerSample(NamedTuple):
    """What a device used while it computed for a share of the time."""

    busy: float
    watts: float
    seconds: float


def fit_power(samples: Sequence[PowerSample]) -> float | None:
    """Power in W while a device computes, above idle, by a straight line over shares of busy time.

    None where nothing was counted, or the shares are too alike to tell idle from busy.
    """
    used = [sample for sample in samples if sample.watts > 0 and sample.seconds > 0]
    if len(used) < _LEAST_SAMPLES or max(s.busy for s in used) - min(s.busy for s in used) < _LEAST_SPREAD:
        return None
    busy, watts, seconds = (np.array(column) for column in zip(*used, strict=True))
    slope = float(np.polyfit(busy, watts, 1, w=np.sqrt(seconds))[0])
    return slope if slope > 0 else None
