"""How many attempts beyond the first a requester may make, so that a sick cluster is not stormed."""

from __future__ import annotations


class RetryBudget:
    """A token bucket: every request earns a part of an extra attempt, and so does time.

    It starts full, and holds ``burst`` at most.  Over any time of T seconds with N requests no
    more than ``burst + floor_per_s * T + ratio * N`` extra attempts are made.
    """

    __slots__ = ("_burst", "_floor_per_s", "_last_us", "_left", "_ratio")

    def __init__(self, ratio: float, floor_per_s: float, burst: int) -> None:
        self._ratio = ratio
        self._floor_per_s = floor_per_s
        self._burst = float(burst)
        self._left = float(burst)
        self._last_us: int | None = None

    def earn(self) -> None:
        """A request was submitted."""
        self._left = min(self._burst, self._left + self._ratio)

    def covers(self, now_us: int) -> bool:
        """Whether there is enough for one more attempt."""
        if self._last_us is not None and now_us > self._last_us:
            earned = (now_us - self._last_us) * self._floor_per_s / 1e6
            self._left = min(self._burst, self._left + earned)
        self._last_us = now_us if self._last_us is None else max(now_us, self._last_us)
        return self._left >= 1

    def take(self, now_us: int) -> bool:
        """Pay for one more attempt; False if there is nothing left to pay with."""
        covered = self.covers(now_us)
        self._left -= covered
        return covered
