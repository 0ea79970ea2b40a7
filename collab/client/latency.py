"""How long recent requests took: a quantile over a window of answers."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import ceil
from typing import Final

WINDOW: Final = 256
"""Answers that are remembered."""

ENOUGH: Final = 20
"""Answers without which no quantile is told: of fewer, the 95th percentile is the largest."""


class LatencyWindow:
    """The latest latencies, in order of time and of size; exact, unlike an estimate over all time."""

    __slots__ = ("_by_size", "_by_time", "_size")

    def __init__(self, size: int = WINDOW) -> None:
        self._size = size
        self._by_time: deque[int] = deque()
        self._by_size: list[int] = []

    def add(self, latency_us: int) -> None:
        """Remember an answer's latency; the oldest makes room."""
        if len(self._by_time) >= self._size:
            oldest = self._by_time.popleft()
            del self._by_size[bisect_left(self._by_size, oldest)]
        self._by_time.append(latency_us)
        insort(self._by_size, latency_us)

    @property
    def least_us(self) -> int | None:
        """The least of them; None before there are any."""
        return self._by_size[0] if self._by_size else None

    def quantile_us(self, q: float) -> int | None:
        """The smallest latency that at least a share ``q`` keep to; None before there are `ENOUGH`."""
        count = len(self._by_size)
        if count < ENOUGH:
            return None
        # Less what rounding may have added: 0.28 of 25 are 7.
        return self._by_size[max(0, ceil(q * count - 1e-9) - 1)]
