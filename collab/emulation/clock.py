"""Virtual time: what happens when, on SimPy's queue of events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import ceil
from typing import Any, Final

from simpy import Environment
from simpy.core import EmptySchedule
from simpy.events import Event


class _Call(Event):
    """A call at a time: what `Environment.step` needs of an event, and no more."""

    _ok = True

    def __init__(self, clock: Clock, when_us: int, act: Callable[..., None], arguments: Any) -> None:
        self.callbacks = _RINGS
        self.clock, self.when_us = clock, when_us
        self.act, self.arguments = act, arguments


def _ring(call: Event) -> None:
    assert isinstance(call, _Call)
    call.clock.now_us = call.when_us
    call.act(*call.arguments)


_RINGS: Final[list[Callable[[Any], None]]] = [_ring]
"""Of every call: a list of its own for each costs more than the rest of it."""


class Clock:
    """Calls functions at whole microseconds; at equal times in the order in which they were asked for."""

    def __init__(self) -> None:
        self._environment = Environment()
        self._running = False
        self.now_us = 0

    def at(self, when_us: float, act: Callable[..., None], *arguments: Any) -> None:
        """Call ``act`` at a time, never before it; after what is under way if it has passed."""
        now, when = self.now_us, ceil(when_us)
        if when < now:
            when = now
        self._environment.schedule(_Call(self, when, act, arguments), delay=when - now)

    def run(self) -> None:
        """Let time pass until somebody calls `stop`, or nothing is left to happen."""
        self._running = True
        step = self._environment.step
        with suppress(EmptySchedule):
            while self._running:
                step()

    def stop(self) -> None:
        """End `run`."""
        self._running = False
