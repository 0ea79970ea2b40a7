"""The thread that trains: of low priority, one job at a time, each within its budget."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from collab.errors import Refused
from collab.node.training_config import TrainingConfig
from collab.runtime.cpu import resident_bytes
from collab.runtime.energy import EnergyMeter

T = TypeVar("T")

_NICE: Final = 19
"""Beside a thread of priority 0 that wants the same core it gets 15 parts of 1039 (sched(7))."""
_CLOSE_S: Final = 2.0
"""How long closing waits for a step; one that hangs goes with the process."""
_STUCK_S: Final = 2.0
"""A job that was told to end so long ago hangs."""


class Guard:
    """Asked between two steps of training whether it has to end; safe from any thread."""

    def __init__(
        self,
        config: TrainingConfig,
        make_meter: Callable[[TrainingConfig], EnergyMeter | None] = lambda config: energy_meter(config),
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], int] = resident_bytes,
    ) -> None:
        self._config = config
        self._make_meter = make_meter
        self._meter: EnergyMeter | None = None
        self._clock = clock
        self._memory = memory
        self._begun_s = clock()
        self._begun_bytes = 0
        self._stopped_s: float | None = None
        self.reason = ""
        """Why training ended before its time."""
        self.steps = 0
        """That were begun."""

    def begin(self) -> None:
        """Count from now on; reads files of the kernel."""
        self._meter = self._make_meter(self._config)
        self._begun_s, self._begun_bytes = self._clock(), self._memory()

    @property
    def stopped(self) -> bool:
        """Whether training has to end, or ended so."""
        return self._stopped_s is not None

    @property
    def hangs(self) -> bool:
        """Whether it was told to end long ago."""
        return self._stopped_s is not None and self._clock() - self._stopped_s > _STUCK_S

    def stop(self, reason: str) -> None:
        """End it at the next step."""
        if self._stopped_s is None:
            self._stopped_s, self.reason = self._clock(), reason

    def __call__(self) -> bool:
        """Whether to end now; counts a step."""
        over = self._over() if self._stopped_s is None else ""
        if over:
            self.stop(over)
        elif self._stopped_s is None:
            self.steps += 1
        return self._stopped_s is not None

    def _over(self) -> str:
        config = self._config
        # A trainer that knows the budget ends by itself, with what it has.
        if self._clock() - self._begun_s > 1.1 * config.seconds + 1:
            return f"over budget: training.seconds is {config.seconds:g}"
        if config.memory_mb is not None:
            grown_mb = (self._memory() - self._begun_bytes) / 1e6
            if grown_mb > config.memory_mb:
                return f"over budget: grew by {grown_mb:.0f} MB, training.memory_mb is {config.memory_mb:g}"
        if config.energy_j is not None and self._meter is not None:
            used_j = self._meter.used_j() or 0.0
            if used_j > config.energy_j:
                return f"over budget: used {used_j:.0f} J, training.energy_j is {config.energy_j:g}"
        return ""


_Call = tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]


class TrainingThread:
    """One thread, begun when it is first needed; what is given to it runs in the order given.

    It does not keep the process alive: a third party's trainer may hang.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking function; once it is begun it ends by itself, whatever becomes of the caller."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="collab-train", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def set_outcome(result: T, error: BaseException | None) -> None:
            if outcome.done():
                return
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)

        def done(result: T, error: BaseException | None) -> None:
            with suppress(RuntimeError):  # the loop is gone: so is who waits
                loop.call_soon_threadsafe(set_outcome, result, error)

        self._calls.put((lambda: function(*arguments), done))
        return await outcome

    async def close(self) -> None:
        """End the thread after what runs; one that hangs is left."""
        if self._thread is not None:
            self._calls.put(None)
            await asyncio.to_thread(self._thread.join, _CLOSE_S)

    def _work(self) -> None:
        # Linux has priorities for threads; elsewhere the thread stays as it is.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while (call := self._calls.get()) is not None:
            function, done = call
            try:
                result = function()
            except BaseException as error:
                done(None, error)
            else:
                done(result, None)


def energy_meter(config: TrainingConfig) -> EnergyMeter | None:
    """A meter that starts now if the budget needs one; raises `Refused` where nothing counts energy."""
    if config.energy_j is None:
        return None
    meter = EnergyMeter()
    if meter.used_j() is None:
        raise Refused("training.energy_j: nothing counts the energy of this device; leave it out")
    return meter
