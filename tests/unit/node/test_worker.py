"""The thread of one stage: order, what is skipped, and how it ends."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from collab.codec.tensors import encode
from collab.core.ids import Attempt, EdgeId, Epoch, NodeName, PlanName, RequestId
from collab.core.token import Fault, Key, Priority
from collab.errors import Overloaded
from collab.node.program import Program, monotonic_us
from collab.node.session import Computed, Work
from collab.node.worker import Worker
from collab.transport.aio import timeout
from tests.unit.functions import Gate, X, chain, data, functions, spec

LATER_US = 60_000_000


class Results:
    """What a worker hands over, and in which thread."""

    def __init__(self) -> None:
        self.got: list[tuple[Work, Computed | Fault]] = []
        self.threads: set[int] = set()
        self._changed = asyncio.Event()

    def __call__(self, work: Work, result: Computed | Fault) -> None:
        self.got.append((work, result))
        self.threads.add(threading.get_ident())
        self._changed.set()

    async def count(self, wanted: int) -> None:
        async with timeout(20):
            while len(self.got) < wanted:
                self._changed.clear()
                await self._changed.wait()


def program(gate: Gate | None = None) -> Program:
    plan, _ = chain("a")
    return Program(plan, plan.stages[0], NodeName("a"), functions(gate=gate).load(data(0)))


def work(number: int) -> Work:
    return Work(Key(PlanName("p"), Epoch(1), RequestId(number.to_bytes(16, "big")), Attempt(0)), 0)


def inputs(array: Any = X) -> Any:
    return ((EdgeId(0), (encode(spec(0), array),)),)


async def test_jobs_run_in_the_order_of_their_arrival_and_results_come_in_the_loop():
    results = Results()
    worker = Worker(program(), asyncio.get_running_loop(), results)
    for number in range(50):
        worker.submit(work(number), inputs(), monotonic_us() + LATER_US)
    await results.count(50)
    assert [done for done, _ in results.got] == [work(number) for number in range(50)]
    assert results.threads == {threading.get_ident()}
    assert all(isinstance(result, Computed) for _, result in results.got)
    await worker.close()


async def test_closing_finishes_the_running_job_and_forgets_the_rest():
    gate, results = Gate(), Results()
    worker = Worker(program(gate), asyncio.get_running_loop(), results)
    for number in range(10):
        worker.submit(work(number), inputs(), monotonic_us() + LATER_US)
    assert await asyncio.to_thread(gate.entered.wait, 20)
    assert worker.queued == 9
    closing = asyncio.ensure_future(worker.close())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.opened.set()
    await closing
    await asyncio.sleep(0)
    assert gate.runs == 1
    assert [done for done, _ in results.got] == [work(0)]


async def test_what_nobody_wants_any_more_is_not_computed():
    gate, results = Gate(), Results()
    worker = Worker(program(gate), asyncio.get_running_loop(), results)
    for number in range(5):
        worker.submit(work(number), inputs(), monotonic_us() + LATER_US)
    assert await asyncio.to_thread(gate.entered.wait, 20)
    for number in (1, 2, 3):
        worker.drop(work(number))
    gate.opened.set()
    await results.count(2)
    assert [done for done, _ in results.got] == [work(0), work(4)]
    assert gate.runs == 2
    await worker.close()


async def test_an_idle_worker_keeps_no_payload_alive():
    class Tracked(np.ndarray):
        pass

    results = Results()
    worker = Worker(program(), asyncio.get_running_loop(), results)
    arrays = [X.copy().view(Tracked) for _ in range(2)]
    alive = [weakref.ref(array) for array in arrays]
    for number in (1, 0):
        worker.submit(work(number), inputs(arrays.pop()), monotonic_us() + LATER_US)
    await results.count(2)
    results.got.clear()
    worker.submit(work(2), (), 0)
    async with timeout(20):
        # The thread lets go of a job some time after its result: nothing to wait on but the references.
        while any(ref() is not None for ref in alive):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await worker.close()


async def test_a_dropped_job_is_freed_though_the_thread_has_not_come_to_it():
    class Tracked(np.ndarray):
        pass

    gate, results = Gate(), Results()
    worker = Worker(program(gate), asyncio.get_running_loop(), results)
    worker.submit(work(0), inputs(), monotonic_us() + LATER_US)
    assert await asyncio.to_thread(gate.entered.wait, 20)
    array = X.copy().view(Tracked)
    alive = weakref.ref(array)
    worker.submit(work(1), inputs(array), monotonic_us() + LATER_US)
    del array
    worker.drop(work(1))
    assert alive() is None
    gate.opened.set()
    await results.count(1)
    await worker.close()


async def test_dropped_jobs_that_pile_up_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("collab.node.worker.MAX_HELD", 4)
    gate, results = Gate(), Results()
    worker = Worker(program(gate), asyncio.get_running_loop(), results)
    worker.submit(work(0), inputs(), monotonic_us() + LATER_US)
    assert await asyncio.to_thread(gate.entered.wait, 20)
    for number in range(1, 5):
        worker.submit(work(number), inputs(), monotonic_us() + LATER_US)
        worker.drop(work(number))
    with pytest.raises(Overloaded, match=r"4 jobs wait for stage"):
        worker.submit(work(5), inputs(), monotonic_us() + LATER_US)
    gate.opened.set()
    await results.count(1)
    await worker.close()


async def test_higher_classes_go_first_and_requesters_take_turns():
    gate, results = Gate(), Results()
    worker = Worker(program(gate), asyncio.get_running_loop(), results)
    worker.submit(work(0), inputs(), monotonic_us() + LATER_US)
    assert await asyncio.to_thread(gate.entered.wait, 20)
    queued = [(1, Priority.LOW, "p"), (2, Priority.NORMAL, "p"), (3, Priority.NORMAL, "p")]
    queued += [(4, Priority.NORMAL, "q"), (5, Priority.HIGH, "q")]
    for number, priority, requester in queued:
        worker.submit(work(number), inputs(), monotonic_us() + LATER_US, priority, NodeName(requester))
    assert worker.expected_us(Priority.NORMAL, NodeName("p"), monotonic_us()) is None
    gate.opened.set()
    await results.count(6)
    assert [done for done, _ in results.got] == [work(number) for number in (0, 5, 2, 4, 3, 1)]
    await worker.close()


async def test_a_busy_worker_tells_what_one_more_job_would_take():
    gate, results = Gate(), Results()
    worker = Worker(program(gate), asyncio.get_running_loop(), results)
    gate.opened.set()
    worker.submit(work(0), inputs(), monotonic_us() + LATER_US)
    await results.count(1)
    took = results.got[0][1]
    assert isinstance(took, Computed)
    service_us = took.hop.total_us - took.hop.queue_us
    gate.opened.clear()
    for number in (1, 2, 3):
        worker.submit(work(number), inputs(), monotonic_us() + LATER_US, Priority.NORMAL, NodeName("p"))
    expected_us = worker.expected_us(Priority.NORMAL, NodeName("p"), monotonic_us())
    assert expected_us is not None
    assert 3 * service_us <= expected_us <= 4 * service_us
    gate.opened.set()
    await results.count(4)
    await worker.close()


async def test_a_loop_that_is_closed_ends_the_worker():
    loop = asyncio.new_event_loop()
    loop.close()
    gate = Gate()
    worker = Worker(program(gate), loop, Results())
    worker.submit(work(0), inputs(), monotonic_us() + LATER_US)
    assert await asyncio.to_thread(gate.entered.wait, 20)
    gate.opened.set()
    await worker.close()
    assert gate.runs == 1
