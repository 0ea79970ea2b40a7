"""Jobs: bounded, their owners' alone, forgotten in the end."""

from __future__ import annotations

import asyncio

import pytest

from collab.errors import Overloaded
from collab.node.coap.answers import Code, Declined, Reply
from collab.node.coap.jobs import JobLimits, Jobs
from collab.transport.aio import TaskGroup, timeout

ANSWER = Reply(Code.CONTENT, bytes(600))


async def answer() -> Reply:
    return ANSWER


async def never() -> Reply:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def code(call, *arguments) -> int:
    with pytest.raises(Declined) as caught:
        call(*arguments)
    return caught.value.reply.code


async def test_a_job_is_found_by_its_owner_alone_and_ends_when_it_is_dropped():
    async with TaskGroup() as tasks:
        jobs = Jobs(tasks.create_task)
        job = jobs.start("me", never)
        assert jobs.find(job.id, "me") is jobs.find(job.id, None) is job
        assert code(jobs.find, job.id, "you") == Code.FORBIDDEN
        await asyncio.sleep(0)
        jobs.drop(job)
        assert job.done.is_set()
        assert code(jobs.find, job.id, "me") == Code.NOT_FOUND


async def test_a_job_dropped_before_it_began_leaves_nothing():
    async with TaskGroup() as tasks:
        jobs = Jobs(tasks.create_task)
        jobs.start("me", never)
        jobs.close()
        assert len(jobs) == 0


async def test_an_error_is_the_answer():
    async def fails() -> Reply:
        raise Overloaded("later")

    async with TaskGroup() as tasks:
        jobs = Jobs(tasks.create_task)
        job = jobs.start("me", fails)
        await asyncio.wait_for(job.done.wait(), 5)
        assert (job.reply.code, job.reply.body, job.reply.max_age_s) == (Code.UNAVAILABLE, b"later", 1)
        jobs.close()


async def test_jobs_are_few_and_fewer_for_one_owner():
    async with TaskGroup() as tasks:
        jobs = Jobs(tasks.create_task, JobLimits(jobs=3, jobs_each=2))
        for _ in range(2):
            jobs.check("me")
            jobs.start("me", never)
        assert code(jobs.check, "me") == Code.UNAVAILABLE
        jobs.check("you")
        jobs.start("you", never)
        assert code(jobs.check, "third") == Code.UNAVAILABLE
        jobs.close()


async def test_answers_are_forgotten_in_time_and_when_they_are_too_many():
    async with TaskGroup() as tasks:
        jobs = Jobs(tasks.create_task, JobLimits(held_bytes=1000))
        first, second = jobs.start("me", answer), jobs.start("me", answer)
        await asyncio.wait_for(second.done.wait(), 5)
        assert code(jobs.find, first.id, "me") == Code.NOT_FOUND
        assert jobs.find(second.id, "me").reply == ANSWER
        jobs.close()
        quick = Jobs(tasks.create_task, JobLimits(kept_s=0.0))
        gone = quick.start("me", answer)
        await asyncio.wait_for(gone.done.wait(), 5)
        async with timeout(5):
            while len(quick):  # noqa: ASYNC110 - a timer of the loop's, which nobody announces
                await asyncio.sleep(0)
