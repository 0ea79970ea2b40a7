"""Requests whose answers are fetched or observed later; bounded in number, size and life."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

from collab.errors import CollabError
from collab.node.coap.answers import OVERLOADED_S, Code, Declined, Reply, error_reply

_ID_BYTES: Final = 8
"""A job of a cluster without certificates is its id's holder's: 64 bits cannot be guessed in its life."""


@dataclass(frozen=True)
class JobLimits:
    """What is held for clients at a time."""

    jobs: int = 32
    jobs_each: int = 8
    """For one owner."""
    kept_s: float = 60.0
    """How long an answer waits to be fetched."""
    held_bytes: int = 16 << 20
    """For all answers; beyond, the oldest go first."""


@dataclass
class Job:
    """One request that is under way or answered."""

    id: str
    owner: Hashable
    done: asyncio.Event = field(default_factory=asyncio.Event)
    reply: Reply | None = None
    """The answer, an error's where the request failed."""
    task: asyncio.Task[None] | None = None
    expiry: asyncio.TimerHandle | None = None


class Jobs:
    """The jobs of all clients."""

    def __init__(self, spawn: Callable[..., asyncio.Task[None]], limits: JobLimits = JobLimits()) -> None:
        self._spawn = spawn
        self._limits = limits
        self._jobs: dict[str, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def check(self, owner: Hashable) -> None:
        """Raise `Declined` if there is no room for another job of an owner."""
        each = Counter(job.owner for job in self._jobs.values())
        if len(self._jobs) >= self._limits.jobs or each[owner] >= self._limits.jobs_each:
            raise Declined(
                Code.UNAVAILABLE,
                "too many jobs are kept; fetch or delete some, or try again later",
                max_age_s=OVERLOADED_S,
            )

    def start(self, owner: Hashable, work: Callable[[], Awaitable[Reply]]) -> Job:
        """Begin a job; `check` comes before."""
        job = Job(secrets.token_hex(_ID_BYTES), owner)
        self._jobs[job.id] = job
        job.task = self._spawn(self._run(job, work))
        return job

    async def _run(self, job: Job, work: Callable[[], Awaitable[Reply]]) -> None:
        try:
            job.reply = await work()
        except Declined as declined:
            job.reply = declined.reply
        except CollabError as error:
            job.reply = error_reply(error)
        loop = asyncio.get_running_loop()
        job.expiry = loop.call_later(self._limits.kept_s, self.drop, job)
        job.done.set()
        self._trim(job)

    def _trim(self, newest: Job) -> None:
        held = sum(len(job.reply.body) for job in self._jobs.values() if job.reply is not None)
        for job in tuple(self._jobs.values()):
            if held <= self._limits.held_bytes:
                break
            if job.reply is not None and job is not newest:
                held -= len(job.reply.body)
                self.drop(job)

    def find(self, job_id: str, owner: Hashable | None) -> Job:
        """A job of an owner; anybody's who knows its id where owners are not known.

        Raises `Declined`: 4.04, or 4.03 where it is another's.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise Declined(Code.NOT_FOUND, "there is no such job (any more)")
        if owner is not None and job.owner != owner:
            raise Declined(Code.FORBIDDEN, "this job is another client's")
        return job

    def drop(self, job: Job) -> None:
        """Forget a job, and end it if it is under way."""
        if self._jobs.pop(job.id, None) is None:
            return
        if job.expiry is not None:
            job.expiry.cancel()
        if job.reply is None:
            job.reply = Reply(Code.NOT_FOUND, b"the job was deleted")
            if job.task is not None:
                job.task.cancel()
            job.done.set()

    def close(self) -> None:
        """Forget all."""
        for job in tuple(self._jobs.values()):
            self.drop(job)
