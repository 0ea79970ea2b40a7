"""Tasks of a federated run's server: what ends one, and what its end means for the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from collab.coordinator.federated_tasks import RunTasks
from collab.errors import PeerUnreachable, StoreError
from collab.federated.orders import OrderId

ORDER = OrderId("run", 1)


class Run:
    """Tasks, and whether one has failed."""

    def __init__(self) -> None:
        self.failed = asyncio.Event()
        self.tasks = RunTasks(self.failed.set)


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    made = Run()
    yield made
    await made.tasks.close()


async def fails(error: Exception) -> None:
    raise error


async def says(event: asyncio.Event) -> None:
    event.set()


async def waits() -> None:
    await asyncio.Event().wait()


async def test_a_task_that_fails_ends_the_run_with_its_error(run):
    run.tasks.check()
    run.tasks.spawn(fails(StoreError("disk full")))
    await asyncio.wait_for(run.failed.wait(), 5)
    with pytest.raises(StoreError, match="disk full"):
        run.tasks.check()


async def test_what_is_done_quietly_ends_nothing_but_itself(run, caplog):
    caplog.set_level("INFO", "collab.federated")
    run.tasks.spawn_quietly(fails(PeerUnreachable("gone")))
    done = asyncio.Event()
    run.tasks.spawn_quietly(says(done))
    await asyncio.wait_for(done.wait(), 5)
    await run.tasks.close()
    run.tasks.check()
    assert caplog.messages == ["gone"]


async def test_an_orders_tasks_are_cancelled_and_no_others(run):
    mine, other, none = (run.tasks.spawn(waits(), key) for key in (("ann", ORDER), ("ben", ORDER), None))
    run.tasks.cancel(("ann", ORDER))
    await asyncio.wait({mine}, timeout=5)
    assert (mine.cancelled(), other.done(), none.done()) == (True, False, False)
    await run.tasks.close()
    assert other.cancelled()
    assert none.cancelled()
    assert not run.failed.is_set()


async def test_what_blocks_is_done_in_the_order_given(run):
    said: list[int] = []
    await asyncio.gather(*(run.tasks.off_loop(said.append, number) for number in range(20)))
    assert said == list(range(20))
