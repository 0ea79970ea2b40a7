"""What waits before the bottleneck: a bounded queue, and CoDel (RFC 8289) on top of it."""

from __future__ import annotations

from collections import deque
from math import inf, sqrt
from typing import Final

MTU_BYTES: Final = 1500
_SOON: Final = 16
"""Intervals within which CoDel goes on where it stopped (RFC 8289 section 5.5)."""


class Backlog:
    """Packets that have not left yet, the one on its way out included; no room means tail drop."""

    def __init__(self, packets: float = inf, size_bytes: float = inf) -> None:
        self._most_packets = packets
        self._most_bytes = size_bytes
        self._leaving: deque[float] = deque()
        self._sizes: deque[int] = deque()
        self.waiting_bytes = 0

    def room(self, now_us: float, size_bytes: int) -> bool:
        """Forget what has left by now; whether one more packet fits."""
        leaving, sizes = self._leaving, self._sizes
        while leaving and leaving[0] <= now_us:
            leaving.popleft()
            self.waiting_bytes -= sizes.popleft()
        return len(leaving) < self._most_packets and self.waiting_bytes + size_bytes <= self._most_bytes

    def add(self, leaves_us: float, size_bytes: int) -> None:
        """A packet waits until ``leaves_us``, infinity where `pop` says it; these times ascend."""
        self._leaving.append(leaves_us)
        self._sizes.append(size_bytes)
        self.waiting_bytes += size_bytes

    def pop(self) -> None:
        """The packet in front has left or was dropped; one from before `follow` may be unknown."""
        if self._leaving:
            self._leaving.popleft()
            self.waiting_bytes -= self._sizes.popleft()

    def follow(self, before: Backlog) -> None:
        """Take over what waits in another queue, whatever the bounds here."""
        self._leaving, self._sizes = before._leaving, before._sizes
        self.waiting_bytes = before.waiting_bytes


class CoDel:
    """Drops at the head when packets have waited longer than ``target_us`` for ``interval_us``.

    RFC 8289 sections 4 and 5.  One thing differs, so that fates are final at once: whether
    the queue is all but empty is judged by what was in front of a packet when it came,
    not by what is behind it when it goes.
    """

    def __init__(self, target_us: float, interval_us: float) -> None:
        self._target = target_us
        self._interval = interval_us
        self._above_since_us = inf
        self._dropping = False
        self._next_us = 0.0
        self._count = self._last_count = 0

    def drops(self, now_us: float, waited_us: float, ahead_bytes: int) -> bool:
        """Whether to drop a packet at the head of the queue, which came behind ``ahead_bytes``."""
        if waited_us < self._target or ahead_bytes <= MTU_BYTES:
            self._above_since_us = inf
            self._dropping = False
            return False
        if self._above_since_us == inf:
            self._above_since_us = now_us
        if now_us - self._above_since_us < self._interval:
            self._dropping = False
            return False
        if self._dropping:
            if now_us < self._next_us:
                return False
            self._count += 1
            self._next_us += self._interval / sqrt(self._count)
            return True
        self._dropping = True
        recent = now_us - self._next_us < _SOON * self._interval
        more = self._count - self._last_count
        self._count = self._last_count = more if more > 1 and recent else 1
        self._next_us = now_us + self._interval / sqrt(self._count)
        return True
