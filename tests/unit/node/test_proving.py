"""Epochs on a node that have not proven themselves: what is loaded, counted, told and forgotten."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collab.core.ids import Digest, Epoch, NodeName, PlanName
from collab.core.plan import Plan
from collab.node import proving as module
from collab.node.deployments import PlanInfo
from collab.node.kept import KeptPlans
from collab.node.lives import MAX_LIVES, PROVEN_ANSWERS, Kept
from collab.node.proving import Proving
from collab.updates.store.disk import RealDisk
from tests.unit.node.plans import chain

NODE, NAME = NodeName("a"), PlanName("p")
ALONE, SHARED = chain("a"), chain("a", "b")


class ReadOnly(RealDisk):
    """Changes no name."""

    def rename(self, old: str, new: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")


class Node:
    """What a service does with `Proving`."""

    def __init__(self, folder: Path, disk: type[RealDisk] = RealDisk) -> None:
        self.plans = KeptPlans(disk(folder))
        self.in_flight = 0
        self.ended = asyncio.Event()
        """A life was called ended."""
        self.proving = Proving(NODE, self.plans, self._off_loop, self._loaded)

    async def _off_loop(self, function: Callable[..., Any], *arguments: object) -> Any:
        result = await asyncio.to_thread(function, *arguments)
        if function == self.plans.end:
            self.ended.set()
        return result

    def _loaded(self) -> list[PlanInfo]:
        return [PlanInfo(NAME, Epoch(epoch), Digest(""), "serving", (), self.in_flight) for epoch in range(9)]

    def commit(self, epoch: int, plan: Plan = ALONE, *, proven: bool = False) -> None:
        self.plans.write(plan, Epoch(epoch))
        self.plans.keep(NAME, Epoch(epoch))
        if proven:
            self.plans.prove(NAME, Epoch(epoch))

    def kept(self) -> Kept:
        ((found,), broken) = self.plans.all()
        assert not broken
        return found

    async def start(self) -> int | None:
        """The epoch that it loads."""
        chosen = await self.proving.choose(await asyncio.to_thread(self.kept))
        return chosen.epoch if chosen is not None else None

    def fault(self, epoch: int) -> str:
        return self.proving.fault(NAME, Epoch(epoch))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_a_plan_of_this_node_alone_goes_back_after_three_bad_lives(tmp_path: Path):
    await asyncio.to_thread(Node(tmp_path).commit, 1, proven=True)
    await asyncio.to_thread(Node(tmp_path).commit, 2)
    assert [await Node(tmp_path).start() for _ in range(MAX_LIVES)] == [2, 2, 1]
    for _ in range(2):
        again = Node(tmp_path)
        assert await again.start() == 1
        assert again.fault(1) == "gone back to: epoch 2 ended the process 3 times"
        assert (await asyncio.to_thread(again.kept)).newest == 2


async def test_a_plan_over_several_nodes_is_left_and_told(tmp_path: Path):
    await asyncio.to_thread(Node(tmp_path).commit, 1, SHARED, proven=True)
    await asyncio.to_thread(Node(tmp_path).commit, 2, SHARED)
    assert [await Node(tmp_path).start() for _ in range(MAX_LIVES + 1)] == [2, 2, None, None]
    last = Node(tmp_path)
    assert await last.start() is None
    assert last.fault(2) == "epoch 2 ended the process 3 times"


async def test_what_cannot_be_counted_is_not_loaded(tmp_path: Path):
    await asyncio.to_thread(Node(tmp_path).commit, 1, proven=True)
    await asyncio.to_thread(Node(tmp_path).commit, 2)
    locked = Node(tmp_path, ReadOnly)
    assert await locked.start() == 1
    assert locked.fault(1) == (
        "a life of epoch 2 cannot be counted: "
        "store: cannot count the starts of plan 'p': Read-only file system"
    )
    assert await Node(tmp_path).start() == 2, "the disk can be written again"


async def test_what_cannot_be_counted_and_has_nothing_before_it_is_left(tmp_path: Path):
    await asyncio.to_thread(Node(tmp_path).commit, 1)
    locked = Node(tmp_path, ReadOnly)
    assert await locked.start() is None
    assert "cannot be counted" in locked.fault(1)
    await asyncio.to_thread(locked.plans.all)
    proven = Node(tmp_path)
    await asyncio.to_thread(proven.plans.prove, NAME, Epoch(1))
    assert await Node(tmp_path, ReadOnly).start() == 1, "a proven one needs no counting"


async def test_processes_that_end_in_order_are_never_held_against_an_epoch(tmp_path: Path):
    await asyncio.to_thread(Node(tmp_path).commit, 1)
    for _ in range(3 * MAX_LIVES):
        node = Node(tmp_path)
        assert await node.start() == 1
        watch = asyncio.ensure_future(node.proving.begin(NAME, Epoch(1)))
        await node.proving.close()
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    assert (await asyncio.to_thread(node.kept)).current.lives == 1


async def test_results_prove_an_epoch_once(node: Node):
    await asyncio.to_thread(node.commit, 1)
    watch = asyncio.ensure_future(node.proving.begin(NAME, Epoch(1)))
    found = [node.proving.computed(NAME, Epoch(1)) for _ in range(PROVEN_ANSWERS + 5)]
    (write,) = [work for work in found if work is not None]
    await write
    assert (await asyncio.to_thread(node.kept)).current.lives is None
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def lives(node: Node) -> int | None:
    return (await asyncio.to_thread(node.kept)).current.lives


async def test_an_epoch_that_nobody_asks_rests_and_wakes_before_a_request(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SETTLED_S", 0.01)
    await asyncio.to_thread(node.commit, 1)
    watch = asyncio.ensure_future(node.proving.begin(NAME, Epoch(1)))
    assert not node.proving.rests(NAME, Epoch(1))
    await asyncio.wait_for(node.ended.wait(), 20)
    assert await lives(node) == 0
    assert node.proving.rests(NAME, Epoch(1))
    node.in_flight = 1
    await node.proving.wake(NAME, Epoch(1))
    await node.proving.wake(NAME, Epoch(1))
    assert (node.proving.rests(NAME, Epoch(1)), await lives(node)) == (False, 1)
    node.proving.gone(NAME, Epoch(1))
    await asyncio.wait_for(watch, 20)


async def test_a_new_epoch_ends_the_trials_and_faults_of_those_before(node: Node, tmp_path: Path):
    await asyncio.to_thread(node.commit, 1, SHARED)
    for _ in range(MAX_LIVES):
        node = Node(tmp_path)
        await node.start()
    assert node.fault(1)
    watch = asyncio.ensure_future(node.proving.begin(NAME, Epoch(2)))
    node.proving.superseded(NAME, Epoch(3))
    assert node.fault(1) == ""
    assert node.proving.computed(NAME, Epoch(2)) is None
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
