"""The worker of a stage in virtual time: a node's queue and books, and no thread."""

from __future__ import annotations

from collab.core.ids import NodeName
from collab.core.token import Priority
from collab.node.actions import Compute, Work
from collab.node.queue import Backlog, Job, JobQueue


class StageWorker:
    """What `collab.node.worker.Worker` does, at times that the caller says."""

    def __init__(self) -> None:
        self._queue = JobQueue()
        self._backlog = Backlog()
        self._since_us = 0
        self.running: Job | None = None
        """What it computes."""

    def __len__(self) -> int:
        """Jobs that wait or run."""
        return len(self._backlog)

    @property
    def ready(self) -> bool:
        """Whether it could begin with a job."""
        return self.running is None and bool(self._queue)

    def expected_us(self, priority: Priority, requester: NodeName, now_us: int) -> int | None:
        """See `Backlog.expected_us`."""
        return self._backlog.expected_us(priority, requester, self.running, now_us - self._since_us)

    def submit(self, action: Compute, now_us: int) -> None:
        """Queue a job."""
        job = Job(
            *(action.work, action.inputs, now_us, action.deadline_us, action.priority, action.requester)
        )
        self._backlog.add(job)
        self._queue.push(job)

    def drop(self, work: Work) -> None:
        """Nobody wants the result of a job any more."""
        job = self._backlog.remove(work)
        if job is not None:
            job.drop()

    def begin(self, now_us: int) -> Job | None:
        """Begin with the job whose turn it is; None if all that waited were dropped."""
        self.running, self._since_us = self._queue.pop(), now_us
        return self.running

    def end(self) -> None:
        """The thread is done with its job."""
        self.running = None

    def finished(self, work: Work, service_us: int | None) -> None:
        """The event loop has the result; ``service_us`` is the time that it took, None of a failure."""
        self._backlog.remove(work)
        if service_us is not None:
            self._backlog.ran(service_us)
