"""Histograms of durations that cost a request two integer additions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

BOUNDS_US: Final[tuple[int, ...]] = (
    *(100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000),
    *(100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000),
)
"""Upper bounds of the buckets in µs, each included; one more bucket takes what is longer."""


@dataclass(frozen=True)
class Counts:
    """A histogram at one moment."""

    buckets: tuple[int, ...]
    """Durations in each bucket of `BOUNDS_US` and in the one above them, not cumulative."""
    total_us: int

    @property
    def number(self) -> int:
        """All durations."""
        return sum(self.buckets)


class Histogram:
    """Counts durations; one thread at a time writes it, and that one reads it."""

    __slots__ = ("_buckets", "_total_us")

    def __init__(self) -> None:
        self._buckets = [0] * (len(BOUNDS_US) + 1)
        self._total_us = 0

    def observe(self, duration_us: int) -> None:
        """Count one duration."""
        self._buckets[bisect_left(BOUNDS_US, duration_us)] += 1
        self._total_us += duration_us

    @property
    def counts(self) -> Counts:
        """What was counted so far."""
        return Counts(tuple(self._buckets), self._total_us)


def quantile_us(buckets: Sequence[int], share: float) -> float | None:
    """The duration that a share of all stays under, interpolated within its bucket; None for no durations.

    What is above all bounds counts as the last of them, as in Prometheus's ``histogram_quantile``.
    """
    count = sum(buckets)
    if not count:
        return None
    wanted, below, lower_us = share * count, 0, 0
    for bound_us, here in zip(BOUNDS_US, buckets):  # noqa: B905 - the bucket above all bounds has none
        if here and below + here >= wanted:
            return lower_us + (bound_us - lower_us) * (wanted - below) / here
        below, lower_us = below + here, bound_us
    return float(BOUNDS_US[-1])
