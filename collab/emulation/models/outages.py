"""Times without service: handovers, shadows, scheduled or at random."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from heapq import merge
from math import inf

Spell = tuple[float, float]
"""Start and end, in µs: ``[start, end)``."""


def renewal(rng: random.Random, gap_us: float, duration_us: float) -> Iterator[Spell]:
    """Without end: up and down for times that are exponential with these means."""
    at = 0.0
    while True:
        start = at + rng.expovariate(1.0 / gap_us)
        at = start + rng.expovariate(1.0 / duration_us)
        yield start, at


def united(*sources: Iterable[Spell]) -> Iterator[Spell]:
    """Spells of several sources, each in order, as spells that do not touch."""
    start, end = -inf, -inf
    for next_start, next_end in merge(*sources):
        if next_start <= end:
            end = max(end, next_end)
            continue
        if end > start:
            yield start, end
        start, end = next_start, next_end
    if end > start:
        yield start, end


class Gate:
    """Whether there is service.

    Args:
        spells: without service, in order, not touching.
        holds: packets that meet an outage wait for its end, else they are dropped.
    """

    def __init__(self, spells: Iterator[Spell], *, holds: bool) -> None:
        self.holds = holds
        self._spells = spells
        self._start, self._end = next(spells, (inf, inf))

    def opens(self, at_us: float) -> float:
        """``at_us`` where there is service, else the end of the outage; ask in ascending order."""
        while at_us >= self._end:
            self._start, self._end = next(self._spells, (inf, inf))
        return self._end if at_us >= self._start else at_us
