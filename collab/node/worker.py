"""The hot loop: one thread a loaded stage, fed by the event loop.

The event loop never computes; a worker never touches a link.  LiteRT releases the
GIL while it runs, so the loop stays responsive.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Final

from collab.core.ids import NodeName
from collab.core.token import Fault, Priority
from collab.errors import Overloaded
from collab.node.actions import Computed, Work
from collab.node.program import Inputs, Program, monotonic_us
from collab.node.queue import Backlog, Job, JobQueue

Done = Callable[[Work, "Computed | Fault"], None]

MAX_HELD: Final = 16_384
"""Jobs that the thread has not taken yet, dropped ones included; a plan's rooms are 8,192 at most."""


class Worker:
    """Runs one program on jobs in the order of `JobQueue`.

    All methods are the event loop's; they share only single fields with the thread.
    """

    def __init__(self, program: Program, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        self._program = program
        self._loop = loop
        self._done = done
        self._closing = False
        self._backlog = Backlog()
        self._put = self._taken = 0
        """Jobs handed to the thread, counted by the loop, and taken from the queue, counted by the thread."""
        self._running: tuple[Job, int] | None = None
        """What the thread computes, and since when."""
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, name=f"collab-stage-{program.stage.id}", daemon=True
        )
        self._thread.start()

    @property
    def codec_fallbacks(self) -> int:
        """Tensors that a lossy codec could not keep within the plan's error."""
        return self._program.codec_fallbacks

    @property
    def left_out(self) -> Mapping[str, int]:
        """In how many requests each member of a combiner was left out because it was in quarantine."""
        return self._program.left_out

    def expected_us(self, priority: Priority, requester: NodeName, now_us: int) -> int | None:
        """How long a new job would take with what is ahead of it; None where it should be tried."""
        running = self._running
        job, since_us = running if running is not None else (None, now_us)
        return self._backlog.expected_us(priority, requester, job, now_us - since_us)

    @property
    def queued(self) -> int:
        """Jobs that the thread has not begun."""
        return self._put - self._taken

    def submit(
        self,
        work: Work,
        inputs: Inputs,
        deadline_us: int,
        priority: Priority = Priority.NORMAL,
        requester: NodeName = NodeName(""),
    ) -> None:
        """Queue a job; its result is handed to ``done`` in the event loop.

        Raises `Overloaded` where too many that were dropped meanwhile wait for the thread.
        """
        if self.queued >= MAX_HELD:
            raise Overloaded(f"{MAX_HELD} jobs wait for stage {self._program.stage.id!r}; try again later")
        job = Job(work, inputs, monotonic_us(), deadline_us, priority, requester)
        self._backlog.add(job)
        self._put += 1
        self._inbox.put(job)

    def drop(self, work: Work) -> None:
        """Free a job that has not begun, and hand over no result of it."""
        job = self._backlog.remove(work)
        if job is not None:
            job.drop()

    def _finished(self, work: Work, result: Computed | Fault) -> None:
        self._backlog.remove(work)
        if isinstance(result, Computed):
            self._backlog.ran(result.hop.total_us - result.hop.queue_us)
        self._done(work, result)

    def _run(self) -> None:
        queue = JobQueue()
        while not self._closing and self._take_in(queue):
            held = len(queue)
            job = queue.pop()
            self._taken += held - len(queue)
            if job is not None and not self._compute(job):
                return
            del job

    def _take_in(self, queue: JobQueue) -> bool:
        """Queue what has arrived, and wait if there is nothing to do; False at the end."""
        while not queue or self._inbox.qsize():
            arrived = self._inbox.get()
            if arrived is None:
                return False
            queue.push(arrived)
        return True

    def _compute(self, job: Job) -> bool:
        """Run one job; whether the loop still takes results."""
        self._running = (job, monotonic_us())
        inputs = job.inputs
        if job.dropped:
            self._running = None
            return True
        # Do not keep the payload alive until the next job.
        job.inputs = ()
        result = self._program.run(inputs, job.queued_us, job.deadline_us, monotonic_us)
        self._running = None
        # Before the answer leaves: its requester may say at once whether it was right.
        self._program.note(job.work.key.request, job.requester, result)
        try:
            self._loop.call_soon_threadsafe(self._finished, job.work, result)
        except RuntimeError:  # the loop is closed: the node is going down
            return False
        if isinstance(result, Computed):
            self._program.observe(result.hop)
        return True

    async def close(self) -> None:
        """Finish the running job, forget the rest, free the stage; bounded by one job's time."""
        self._closing = True
        self._inbox.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._program.close()
