"""The hot loop: one thread a loaded stage, fed by the event loop.

The event loop never computes; a worker never touches a link.  LiteRT releases the
GIL while it runs, so the loop stays responsive.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue

from collab.core.token import Fault
from collab.node.program import Inputs, Program, monotonic_us
from collab.node.session import Computed, Work

Done = Callable[[Work, "Computed | Fault"], None]
Wanted = Callable[[Work], bool]


class Worker:
    """Runs one program on jobs in the order of their arrival, but for those not ``wanted`` any more."""

    def __init__(
        self, program: Program, loop: asyncio.AbstractEventLoop, done: Done, wanted: Wanted = lambda _: True
    ) -> None:
        self._program = program
        self._loop = loop
        self._done = done
        self._wanted = wanted
        self._closing = False
        self._jobs: SimpleQueue[tuple[Work, Inputs, int, int] | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, name=f"collab-stage-{program.stage.id}", daemon=True
        )
        self._thread.start()

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return self._jobs.qsize()

    @property
    def codec_fallbacks(self) -> int:
        """Tensors that a lossy codec could not keep within the plan's error."""
        return self._program.codec_fallbacks

    @property
    def left_out(self) -> Mapping[str, int]:
        """In how many requests each member of a combiner was left out because it was in quarantine."""
        return self._program.left_out

    def submit(self, work: Work, inputs: Inputs, deadline_us: int) -> None:
        """Queue a job; its result is handed to ``done`` in the event loop."""
        self._jobs.put((work, inputs, monotonic_us(), deadline_us))

    def _run(self) -> None:
        run, take, done, wanted = self._program.run, self._jobs.get, self._done, self._wanted
        while (job := take()) is not None and not self._closing:
            work, inputs, queued_us, deadline_us = job
            result = run(inputs, queued_us, deadline_us, monotonic_us) if wanted(work) else None
            # Do not keep the payload alive until the next job.
            del job, inputs
            if result is None:
                continue
            try:
                self._loop.call_soon_threadsafe(done, work, result)
            except RuntimeError:  # the loop is closed: the node is going down
                return
            del result

    async def close(self) -> None:
        """Finish the running job, forget the rest, free the stage; bounded by one job's time."""
        self._closing = True
        self._jobs.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._program.close()
