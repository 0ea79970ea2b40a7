"""Virtual time: what happens when, on SimPy's queue of events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import ceil
from typing import Any

from simpy import Environment
from simpy.core import EmptySchedule


class Clock:
    """Calls functions at whole microseconds; at equal times in the order in which they were asked for."""

    def __init__(self) -> None:
        self._environment = Environment()
        self._running = False

    @property
    def now_us(self) -> int:
        """The time."""
        return self._environment.now  # type: ignore[return-value]

    def at(self, when_us: float, act: Callable[..., None], *arguments: Any) -> None:
        """Call ``act`` at a time, never before it; after what is under way if it has passed."""
        wait = ceil(when_us) - self._environment.now
        timeout = self._environment.timeout(wait if wait > 0 else 0)
        timeout.callbacks.append(lambda _: act(*arguments))

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
