"""What the emulator counts: packets of each direction, and how late it was itself.  Pure."""

from __future__ import annotations

from typing import Final

import msgspec

_STEP_US: Final = 10
_STEPS: Final = 2000
"""Lateness is counted in steps of 10 µs up to 20 ms."""


class DirectionCounts(msgspec.Struct):
    """Packets that were offered to one direction, and what became of them."""

    packets: int = 0
    bytes: int = 0
    """Of packets with their IP headers."""
    copies: int = 0
    """Copies that came, or will come, out at the far end."""
    corrupted: int = 0
    """Packets that come out with a bit turned; those without payload pass as they are."""
    drops: dict[str, int] = msgspec.field(default_factory=dict)
    """By reason."""

    @property
    def dropped(self) -> int:
        """Packets of which no copy comes out."""
        return sum(self.drops.values())


class Lateness:
    """By how much packets left the emulator after their time; in constant memory."""

    def __init__(self) -> None:
        self._steps = [0] * (_STEPS + 1)
        self.count = 0
        self.longest_us = 0.0

    def add(self, late_us: float) -> None:
        """Count one packet."""
        self.count += 1
        self._steps[min(int(late_us) // _STEP_US, _STEPS)] += 1
        if late_us > self.longest_us:
            self.longest_us = late_us

    def quantile_us(self, share: float) -> float:
        """An upper bound of the lateness of that share of the packets; 0 without any."""
        wanted, seen = share * self.count, 0
        for step, count in enumerate(self._steps[:-1]):
            seen += count
            if count and seen >= wanted:
                return min((step + 1.0) * _STEP_US, self.longest_us)
        return self.longest_us


class EmulatorCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The emulator's own figures since it started, or since they were last reset."""

    directions: dict[str, DirectionCounts]
    """By ``source → target``."""
    delivered: int = 0
    """Packets that were handed to a host; of a large one its segments count once."""
    late_p50_us: float = 0.0
    late_p99_us: float = 0.0
    late_longest_us: float = 0.0
    stray: int = 0
    """Packets for addresses that nobody has, or that nothing leads to."""
    refused_by_nat: int = 0
    given_up: int = 0
    """Packets that were dropped because the emulator held too many, or a device took no more."""
    elapsed_s: float = 0.0
    busy_s: float = 0.0
    """CPU time of the emulator."""

    @property
    def busy(self) -> float:
        """Share of one core that the emulator needed."""
        return self.busy_s / self.elapsed_s if self.elapsed_s else 0.0
