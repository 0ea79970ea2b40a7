"""How fast a download may be, and how slow: pure, told the time."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a download.

    Attributes:
        most_bytes_s: a link is never filled beyond this; 0 does not limit.
        least_bytes_s: what a source has to give over every window, or it is left.
        window_s: over how long.
        answer_s: until a source has answered with its first byte.
    """

    most_bytes_s: float = 0.0
    least_bytes_s: float = 256.0
    window_s: float = 30.0
    answer_s: float = 20.0


@dataclass(slots=True)
class Pace:
    """What a download has done; times are seconds of one monotonic clock.

    Time that the rate limit makes it wait does not count as the source's.
    """

    limits: Limits
    started_s: float
    _free_s: float = field(init=False)
    _window_s: float = field(init=False)
    _window_bytes: int = 0

    def __post_init__(self) -> None:
        self._free_s = self._window_s = self.started_s

    def got(self, count: int, now_s: float) -> float:
        """Note what came; returns how many seconds to wait before asking for more."""
        self._window_bytes += count
        if not self.limits.most_bytes_s:
            return 0.0
        # What was not used in the past second cannot be used later.
        self._free_s = max(self._free_s, now_s - 1.0) + count / self.limits.most_bytes_s
        wait = max(0.0, self._free_s - now_s)
        self._window_s += wait
        return wait

    def too_slow(self, now_s: float) -> bool:
        """Whether the source gave less than it has to over the window that ends now."""
        elapsed = now_s - self._window_s
        if elapsed < self.limits.window_s:
            return False
        least = min(self.limits.least_bytes_s, self.limits.most_bytes_s or self.limits.least_bytes_s)
        slow = self._window_bytes < least * elapsed * (1 if not self.limits.most_bytes_s else 0.5)
        self._window_s, self._window_bytes = now_s, 0
        return slow
