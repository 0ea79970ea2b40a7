"""Any back end on a slower device: every run lasts a fixed factor of what it really takes.

For experiments.  A stage that takes 3 ms takes 12 ms when stretched 4 times, alone or back
to back, which a CPU quota does not give: a quota is a budget for a period and lets short
stages through at full speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from collab.codec.tensors import Array
from collab.runtime.base import Backend, LoadedStage, RuntimeClass

_OVERSHOOT_S: Final = 0.0003
"""Sleeping lasts longer than asked, by 0.1 ms or so; this much at the end of a wait is spun."""


def wait_until(deadline_s: float) -> None:
    """Return at a time of ``time.perf_counter``; sleeps through most of it, so that others may compute."""
    while (left := deadline_s - time.perf_counter()) > 0:
        # A sleep of nothing gives the interpreter's lock to whoever waits for it.
        time.sleep(left - _OVERSHOOT_S if left > _OVERSHOOT_S else 0)


class _StretchedStage(LoadedStage):
    def __init__(self, stage: LoadedStage, factor: float, clock: Callable[[], float]) -> None:
        self._stage, self._factor, self._clock = stage, factor, clock
        self.inputs, self.outputs = stage.inputs, stage.outputs

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        begun, start = time.perf_counter(), self._clock()
        made = self._stage.run(inputs)
        # From the beginning, so that what other processes took meanwhile is made up for.
        wait_until(begun + self._factor * (self._clock() - start))
        return made

    def close(self) -> None:
        self._stage.close()


class Stretched(Backend):
    """A back end whose stages take ``factor`` times as long, 1 or more, and give the same bits.

    A stage with one thread lasts by the CPU time of the thread that runs it, so what other
    processes take from it does not count.  With more threads it lasts by the time on the
    clock: the CPU time of LiteRT's pool belongs to no thread of ours, and the process's
    also counts what else goes on in it.
    """

    def __init__(self, backend: Backend, factor: float) -> None:
        self.name = backend.name
        self._backend, self._factor = backend, factor

    @property
    def remark(self) -> str:
        """That of the real back end."""
        return self._backend.remark

    def runtime_class(self) -> RuntimeClass:
        """That of the real back end: results do not change."""
        return self._backend.runtime_class()

    def load(self, model: Path | bytes, threads: int) -> LoadedStage:
        """Load a stage of the real back end."""
        clock = time.thread_time if threads == 1 else time.perf_counter
        return _StretchedStage(self._backend.load(model, threads), self._factor, clock)
