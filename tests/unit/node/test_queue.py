"""Who is taken next from a stage's queue, and how long that is expected to last."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.core.token import Key, Priority
from collab.node.actions import Work
from collab.node.queue import Backlog, Job, JobQueue

LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH
JOBS = st.lists(st.tuples(st.sampled_from(Priority), st.sampled_from("pqr")), max_size=40)


def job(number: int, priority: Priority = NORMAL, requester: Any = "p") -> Job:
    key: Any = Key("plan", 1, number.to_bytes(16, "big"), 0)
    return Job(Work(key, 0), (), 0, 0, priority, requester)


def drained(queue: JobQueue) -> list[Job]:
    taken = []
    while (job := queue.pop()) is not None:
        taken.append(job)
    return taken


def learned(service_us: int = 1000) -> Backlog:
    backlog = Backlog()
    backlog.ran(service_us)
    return backlog


@given(JOBS)
def test_a_higher_class_goes_first_and_of_one_requester_the_first_comes_first(asked):
    queue = JobQueue()
    jobs = [job(number, *of) for number, of in enumerate(asked)]
    for one in jobs:
        queue.push(one)
    assert len(queue) == len(jobs)
    taken = drained(queue)
    assert len(queue) == 0
    assert [one.priority for one in taken] == sorted((one.priority for one in jobs), reverse=True)
    for priority in Priority:
        for requester in "pqr":
            mine = [one for one in jobs if (one.priority, one.requester) == (priority, requester)]
            assert [one for one in taken if one in mine] == mine


@given(JOBS)
def test_while_two_requesters_wait_neither_is_more_than_one_job_ahead(asked):
    queue = JobQueue()
    for number, (_, requester) in enumerate(asked):
        queue.push(job(number, NORMAL, requester))
    left = Counter(requester for _, requester in asked)
    got: Counter[str] = Counter()
    for one in drained(queue):
        got[one.requester] += 1
        waiting = [name for name in left if got[name] < left[name]]
        counts = [got[name] for name in waiting]
        assert max(counts, default=0) - min(counts, default=0) <= 1


def test_a_requester_that_asks_more_does_not_get_more_turns():
    queue = JobQueue()
    for number in range(100):
        queue.push(job(number, requester="greedy"))
    queue.push(job(100, requester="modest"))
    queue.push(job(101, requester="modest"))
    assert [one.requester for one in drained(queue)][:4] == ["greedy", "modest", "greedy", "modest"]


def test_dropped_jobs_are_passed_over_and_cost_no_turn():
    queue = JobQueue()
    jobs = [job(0), job(1), job(2, requester="q"), job(3)]
    for one in jobs:
        queue.push(one)
    jobs[0].drop()
    jobs[2].drop()
    assert drained(queue) == [jobs[1], jobs[3]]


@given(JOBS, st.sampled_from(Priority), st.sampled_from("pqrs"))
def test_what_is_ahead_of_a_new_job_is_what_is_taken_before_it(asked, priority, requester):
    queue, backlog = JobQueue(), Backlog()
    for number, of in enumerate(asked):
        one = job(number, *of)
        queue.push(one)
        backlog.add(one)
    ahead = backlog.ahead(priority, requester)
    new = job(1000, priority, requester)
    queue.push(new)
    before = drained(queue).index(new)
    assert before <= ahead <= before + 2  # whose turn it is within a round is not known


def test_the_running_job_counts_by_what_is_left_of_it():
    backlog = learned(1000)
    running, waiting = job(0, LOW), job(1, NORMAL, "q")
    backlog.add(running)
    backlog.add(waiting)
    assert backlog.expected_us(NORMAL, "p", running, 400) == 600 + 1000 + 1000
    assert backlog.expected_us(HIGH, "p", running, 400) == 600 + 1000
    assert backlog.expected_us(HIGH, "p", running, 5000) == 1000
    assert backlog.expected_us(LOW, "p", running, 400) == 600 + 1000 + 1000


def test_a_job_that_was_dropped_while_it_ran_still_keeps_the_stage():
    backlog = learned(1000)
    running = job(0)
    backlog.add(running)
    assert backlog.remove(running.work) is running
    assert backlog.remove(running.work) is None
    assert backlog.expected_us(NORMAL, "p", running, 400) == 600 + 1000


def test_nothing_is_expected_of_a_stage_that_is_idle_or_has_never_run():
    backlog = Backlog()
    backlog.add(job(0))
    assert backlog.expected_us(NORMAL, "p", None, 0) is None
    backlog.ran(1000)
    assert backlog.expected_us(NORMAL, "p", None, 0) == 2000
    backlog.remove(job(0).work)
    assert backlog.expected_us(NORMAL, "p", None, 0) is None


def test_the_time_of_a_run_is_learned_anew_when_it_changes():
    backlog = learned(1000)
    for _ in range(30):
        backlog.ran(3000)
    backlog.add(job(0))
    assert backlog.expected_us(NORMAL, "p", None, 0) == pytest.approx(6000, rel=0.01)
