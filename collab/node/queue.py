"""What waits for a stage: in which order it is taken, and how long that lasts.

The event loop keeps the `Backlog` and the worker's thread the `JobQueue`, so neither needs a lock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from collab.core.ids import NodeName
from collab.core.token import Priority
from collab.node.actions import Work
from collab.node.program import Inputs

_SMOOTH: Final = 0.2
"""Weight of the newest run in a stage's time."""
_FIRST_FIRST: Final = tuple(sorted(Priority, reverse=True))


class Job:
    """One run of the stage that waits or is under way."""

    __slots__ = ("deadline_us", "dropped", "inputs", "priority", "queued_us", "requester", "work")

    def __init__(
        self,
        work: Work,
        inputs: Inputs,
        queued_us: int,
        deadline_us: int,
        priority: Priority = Priority.NORMAL,
        requester: NodeName = NodeName(""),
    ) -> None:
        self.work = work
        self.inputs = inputs
        self.queued_us = queued_us
        self.deadline_us = deadline_us
        self.priority = priority
        self.requester = requester
        self.dropped = False
        """Nobody wants the result; its payload is freed."""

    def drop(self) -> None:
        """Give it up, unless it has begun."""
        self.dropped = True
        self.inputs = ()


class JobQueue:
    """Jobs by priority, within one in turn by requester, and of each requester in order of arrival.

    Runs of one stage cost the same, so turns are the deficit round robin of Shreedhar and
    Varghese (SIGCOMM 1995) without deficits.  Of one requester the first comes first, not the
    one with the earliest deadline: what was admitted because it could be done in time must not
    be made late by what its requester asks afterwards.
    """

    def __init__(self) -> None:
        self._classes: dict[Priority, OrderedDict[NodeName, deque[Job]]] = {
            priority: OrderedDict() for priority in _FIRST_FIRST
        }
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, job: Job) -> None:
        """Queue a job; a requester that had none comes after all others of its class."""
        self._classes[job.priority].setdefault(job.requester, deque()).append(job)
        self._count += 1

    def pop(self) -> Job | None:
        """The job whose turn it is, without those that were dropped; None if none is left."""
        for ring in self._classes.values():
            while ring:
                requester, jobs = next(iter(ring.items()))
                job = jobs.popleft()
                self._count -= 1
                if not jobs:
                    del ring[requester]
                elif not job.dropped:
                    ring.move_to_end(requester)
                if not job.dropped:
                    return job
        return None


class Backlog:
    """How much a stage has to do, and how long another job would take."""

    def __init__(self) -> None:
        self._jobs: dict[Work, Job] = {}
        self._counts: dict[Priority, dict[NodeName, int]] = {priority: {} for priority in _FIRST_FIRST}
        self._totals = dict.fromkeys(_FIRST_FIRST, 0)
        self._service_us: float | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """A job was queued."""
        self._jobs[job.work] = job
        self._totals[job.priority] += 1
        counts = self._counts[job.priority]
        counts[job.requester] = counts.get(job.requester, 0) + 1

    def remove(self, work: Work) -> Job | None:
        """A job is done or given up; None if that is known already."""
        job = self._jobs.pop(work, None)
        if job is not None:
            self._totals[job.priority] -= 1
            counts = self._counts[job.priority]
            counts[job.requester] -= 1
            if not counts[job.requester]:
                del counts[job.requester]
        return job

    def ran(self, service_us: int) -> None:
        """Learn how long a run took, without its time in the queue."""
        known = self._service_us
        self._service_us = service_us if known is None else known + _SMOOTH * (service_us - known)

    def ahead(self, priority: Priority, requester: NodeName, running: Job | None = None) -> int:
        """Jobs that would be taken before a new one, without the one that runs.

        All of higher classes, its requester's, and of each other requester as many and one more.
        """
        if running is not None and running.work not in self._jobs:
            running = None  # dropped, and so not counted any more
        higher = sum(total for other, total in self._totals.items() if other > priority)
        counts = self._counts[priority]
        if running is not None and running.priority > priority:
            higher -= 1
        elif running is not None and running.priority is priority:
            counts = counts | {running.requester: counts[running.requester] - 1}
        turns = counts.get(requester, 0)
        return higher + turns + sum(min(n, turns + 1) for name, n in counts.items() if name != requester)

    def expected_us(
        self, priority: Priority, requester: NodeName, running: Job | None, running_us: int
    ) -> int | None:
        """When the result of a new job would be there; ``running`` has been computed for ``running_us``.

        None where nothing was learned, or nothing is ahead: an idle stage tries, whatever it expects.
        """
        if self._service_us is None or (running is None and not self._jobs):
            return None
        rest_us = max(0.0, self._service_us - running_us) if running is not None else 0.0
        return int(rest_us + (self.ahead(priority, requester, running) + 1) * self._service_us)
