"""What falls due when: a timer wheel on an injected clock."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_SLACK: Final = 64


class Wheel(Generic[T]):
    """Things due at times, in slots of ``grain_us``; what is in it does not change what a step costs.

    A thing falls due less than one grain after its time, never before it.
    """

    __slots__ = ("_grain_us", "_order", "_slots")

    def __init__(self, grain_us: int) -> None:
        self._grain_us = grain_us
        self._slots: dict[int, dict[T, None]] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, when_us: int, thing: T) -> None:
        """Let ``thing`` fall due at ``when_us``."""
        slot = -(-when_us // self._grain_us)
        due = self._slots.get(slot)
        if due is not None:
            due[thing] = None
            return
        self._slots[slot] = {thing: None}
        heapq.heappush(self._order, slot)

    def discard(self, when_us: int, thing: T) -> None:
        """Forget ``thing``, if it was to fall due at ``when_us``."""
        slot = -(-when_us // self._grain_us)
        due = self._slots.get(slot)
        if due is None:
            return
        due.pop(thing, None)
        if not due:
            del self._slots[slot]
            if len(self._order) > 2 * len(self._slots) + _SLACK:
                self._order = sorted(self._slots)

    def due(self, now_us: int) -> list[T]:
        """Take out all that is due, earlier slots first."""
        taken: list[T] = []
        while self._order and self._order[0] * self._grain_us <= now_us:
            taken.extend(self._slots.pop(heapq.heappop(self._order), ()))
        return taken

    def next_us(self) -> int | None:
        """When the next thing falls due; None when there is none."""
        while self._order and self._order[0] not in self._slots:
            heapq.heappop(self._order)
        return self._order[0] * self._grain_us if self._order else None


def earliest(*times_us: int | None) -> int | None:
    """The first of some times; None where all are never."""
    first: int | None = None
    for at_us in times_us:
        if at_us is not None and (first is None or at_us < first):
            first = at_us
    return first
