"""Have a device's inputs moved away from what the model was trained on?  Histograms of bounded size.

Bins are quantiles of the training split, so that each holds the same share of it.  The
population stability index and the two-sample Kolmogorov–Smirnov statistic need no more than the counts; of
binned values the latter is a lower bound of the exact one, so its p-value errs to the side of no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import InputError
from collab.updates.policies.state import MAX_BINS, FeatureCounts

MIN_OBSERVED: Final = 50
"""Fewer values say nothing: the index of 10 bins is 9/50 then by chance alone."""
_PRIOR: Final = 0.5
"""Added to each bin so that an empty one stays finite (Jeffreys)."""

_NEGLIGIBLE: Final = 1e-12


@dataclass(frozen=True)
class Reference:
    """A feature of the training split: inner edges of its bins, and how many values fell into each."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]


def reference_of(name: str, values: NDArray[np.floating] | Sequence[float], bins: int = 10) -> Reference:
    """Quantile bins of a training split; fewer where a value is so frequent that edges coincide.

    Args:
        values: numbers of any shape, all finite.

    Raises:
        InputError: There are too few or too many bins, or values that do not differ.
    """
    if not 2 <= bins <= MAX_BINS:
        raise InputError(f"bins: {bins} is not within 2 to {MAX_BINS}")
    flat = np.asarray(values, np.float64).ravel()
    if flat.size < bins or not np.isfinite(flat).all():
        raise InputError(f"{name}: give at least {bins} finite values")
    edges = np.unique(np.quantile(flat, np.arange(1, bins) / bins, method="higher"))
    # An edge at the least value would make a bin that nothing falls into.
    edges = edges[edges > flat.min()]
    if not edges.size:
        raise InputError(f"{name}: its values do not differ; leave the feature out")
    return Reference(name, tuple(edges.tolist()), tuple(_counted(flat, edges).tolist()))


@dataclass(frozen=True)
class Stream:
    """Counts of what a device sees; two windows, so that it forgets without keeping values."""

    reference: Reference
    window: int = 1_000
    """Values after which the older window is dropped."""
    older: tuple[float, ...] = ()
    newer: tuple[float, ...] = ()

    def seen(self, values: NDArray[np.floating] | Sequence[float]) -> Stream:
        """The stream after more values; NaN counts into the highest bin."""
        flat = np.asarray(values, np.float64).ravel()
        counts = _counted(flat, np.asarray(self.reference.edges))
        newer = tuple((counts + (self.newer or 0.0)).tolist())
        if sum(newer) >= self.window:
            return Stream(self.reference, self.window, newer, ())
        return Stream(self.reference, self.window, self.older, newer)

    def counts(self) -> FeatureCounts:
        """What a state reports of it."""
        none = (0.0,) * len(self.reference.counts)
        pairs = zip(self.older or none, self.newer or none, strict=True)
        return FeatureCounts(
            name=self.reference.name,
            reference=self.reference.counts,
            observed=tuple(old + new for old, new in pairs),
        )


def _counted(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    places = np.searchsorted(edges, values, side="right")
    return np.bincount(places, minlength=len(edges) + 1).astype(np.float64)


def psi(feature: FeatureCounts) -> float | None:
    """Population stability index; None from too few values.  By custom 0.1 is a little and 0.25 much."""
    n, m = sum(feature.reference), sum(feature.observed)
    if m < MIN_OBSERVED or n <= 0:
        return None
    bins = len(feature.reference)
    total = 0.0
    for was, now in zip(feature.reference, feature.observed, strict=True):
        p = (was + _PRIOR) / (n + bins * _PRIOR)
        q = (now + _PRIOR) / (m + bins * _PRIOR)
        total += (q - p) * math.log(q / p)
    return total


def ks(feature: FeatureCounts) -> float | None:
    """Largest distance of the two distribution functions at the bins' edges; None from too few values."""
    n, m = sum(feature.reference), sum(feature.observed)
    if m < MIN_OBSERVED or n <= 0:
        return None
    both = zip(accumulate(feature.reference), accumulate(feature.observed), strict=True)
    return max(abs(was / n - now / m) for was, now in both)


def ks_p_value(feature: FeatureCounts) -> float | None:
    """Asymptotic probability of such a distance without any drift (Kolmogorov's distribution)."""
    distance = ks(feature)
    if distance is None:
        return None
    n, m = sum(feature.reference), sum(feature.observed)
    # Stephens' correction of the argument makes it good from few values on.
    root = math.sqrt(n * m / (n + m))
    x = (root + 0.12 + 0.11 / root) * distance
    if x < 0.2:
        return 1.0
    total = 0.0
    for k in range(1, 101):
        term = math.exp(-2 * (k * x) ** 2)
        total += term if k % 2 else -term
        if term < _NEGLIGIBLE:
            break
    return min(1.0, max(0.0, 2 * total))


def worst_p_value(features: Sequence[FeatureCounts]) -> float | None:
    """The least p-value times the number of features that were tested (Bonferroni)."""
    found = [p for p in map(ks_p_value, features) if p is not None]
    return min(1.0, min(found) * len(found)) if found else None
