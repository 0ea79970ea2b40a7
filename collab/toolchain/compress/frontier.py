"""What one variant is beside another: paired differences, targets, and the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Z_95: Final = 1.959964
"""Normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Paired:
    """A difference of two accuracies on the same images, in points, with its 95 % interval."""

    points: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """What was measured of one variant."""

    recipe: str
    accuracy: float
    """Share of right answers on the test images."""
    difference: Paired
    """To the baseline; negative is worse."""
    bytes: int
    zstd_bytes: int
    latency_ms: float
    latency_ratio: float
    """To the baseline, measured in turns with it; below 1 is faster."""
    arena_bytes: int
    parameters: int
    cuts: tuple[int, int] = (0, 0)
    """Tried and exact."""


@dataclass(frozen=True)
class Targets:
    """What a variant must keep to; None is no bound."""

    size_bytes: int | None = None
    latency_ms: float | None = None
    max_drop: float = 1.0
    """Points of accuracy."""

    def excess(self, measured: Measured) -> float:
        """How far a variant is off, 0 where it keeps to all: the worst of the ratios less 1."""
        over = [max(0.0, -measured.difference.points - self.max_drop) / max(self.max_drop, 0.1)]
        if self.size_bytes is not None:
            over.append(measured.zstd_bytes / self.size_bytes - 1)
        if self.latency_ms is not None:
            over.append(measured.latency_ms / self.latency_ms - 1)
        return max(0.0, *over)

    def cost(self, measured: Measured) -> tuple[float, float]:
        """What is best is least of: how far off it is; then what no target asks of it.

        With a bound of size or latency the most accurate of those that keep it is best,
        without one the smallest of those that are accurate enough.
        """
        if self.size_bytes is not None or self.latency_ms is not None:
            return (self.excess(measured), -measured.accuracy)
        return (self.excess(measured), float(measured.zstd_bytes))


def paired(right: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> Paired:
    """The difference of two rows of right answers to the same images, as `Paired`.

    The interval is the normal one of the mean of paired differences (Agresti, Categorical Data
    Analysis, 10.1.1); images that both get right or wrong add nothing to it.
    """
    differences = right.astype(np.float64) - baseline.astype(np.float64)
    mean = float(differences.mean())
    half = Z_95 * math.sqrt(float(differences.var()) / len(differences))
    return Paired(100 * mean, 100 * (mean - half), 100 * (mean + half))


def front(variants: Sequence[Measured]) -> tuple[Measured, ...]:
    """Those that no other beats in size, latency and accuracy at once, smallest first."""
    kept = [each for each in variants if not any(_beats(other, each) for other in variants)]
    return tuple(sorted(kept, key=lambda each: (each.zstd_bytes, each.recipe)))


def _beats(one: Measured, other: Measured) -> bool:
    mine = (one.zstd_bytes, one.latency_ms, -one.accuracy)
    theirs = (other.zstd_bytes, other.latency_ms, -other.accuracy)
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))
