"""Stages in a node's memory: all of a plan's or none, and what of the store must stay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from collab.core.ids import Epoch, NodeName
from collab.core.plan import FileName, Plan
from collab.core.validate import validate
from collab.errors import BackendError, CollabError, IntegrityError, ModelError, PlanError, StoreError
from collab.node.stages import Stages
from collab.node.store import Store
from collab.runtime.function import Functions
from tests.unit.functions import chain, data, digest, functions, spec

EPOCH = Epoch(1)


class Counting(Functions):
    """Counts the stages that are open."""

    def __init__(self, inner: Functions) -> None:
        super().__init__(inner._stages)
        self.open = 0

    def load(self, model: Any, threads: int = 1) -> Any:
        stage = super().load(model, threads)
        self.open += 1

        def close() -> None:
            self.open -= 1

        stage.close = close  # type: ignore[method-assign]
        return stage


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    for number in range(4):
        opened.put(digest(number), len(data(number)), 0, data(number), ())
    yield opened
    opened.close()


def ignore(*_: object) -> None:
    """Of the results, for tests that run nothing."""


def stages(store: Store, backend: Functions, name: str = "a") -> Stages:
    return Stages(NodeName(name), store, {"function": backend}, ignore)


async def test_a_node_loads_its_own_stages_and_no_other(store: Store):
    backend = Counting(functions())
    loaded = stages(store, backend)
    plan, _ = chain("a", "b", "a")
    await loaded.load(plan, EPOCH)
    assert backend.open == 2
    assert loaded.plan(plan.name, EPOCH) == plan
    assert [loaded.worker(plan.name, EPOCH, i) is not None for i in range(4)] == [True, False, True, False]
    assert loaded.worker(plan.name, Epoch(2), 0) is None
    assert loaded.specs(plan.name, EPOCH, 1) == (spec(1),)
    assert loaded.specs(plan.name, EPOCH, 99) is None
    assert loaded.specs(plan.name, Epoch(2), 1) is None
    assert set(loaded.used_digests()) == {digest(0), digest(2)}
    await loaded.unload(plan.name, EPOCH)
    await loaded.unload(plan.name, EPOCH)
    assert (backend.open, loaded.used_digests()) == (0, [])
    assert loaded.plan(plan.name, EPOCH) is None
    await loaded.close()


async def test_a_stage_is_loaded_whose_file_calls_its_tensors_as_the_plan_says(store: Store):
    loaded = stages(store, functions())
    plan, _ = chain("a")
    (only,) = plan.stages
    given, made = replace(spec(0), name="x"), replace(spec(1), name="y")
    called = replace(
        only,
        inputs=(given,),
        outputs=(made,),
        file_names=(FileName(tensor="x", file=spec(0).name), FileName(tensor="y", file=spec(1).name)),
    )
    edges = (replace(plan.edges[0], tensors=("x",)), replace(plan.edges[1], tensors=("y",)))
    plan = plan.replace(stages=(called,), edges=edges, inputs=(given,), outputs=(made,))
    await loaded.load(validate(plan), EPOCH)
    await loaded.unload(plan.name, EPOCH)
    wrong = replace(called, file_names=(FileName(tensor="x", file="z"), called.file_names[1]))
    with pytest.raises(PlanError, match="inputs: the plan says"):
        await loaded.load(plan.replace(stages=(wrong,)), EPOCH)
    await loaded.close()


async def test_loading_an_epoch_again_takes_the_place_of_the_first(store: Store):
    backend = Counting(functions())
    loaded = stages(store, backend)
    plan, _ = chain("a", "a")
    for _ in range(3):
        await loaded.load(plan, EPOCH)
    assert backend.open == 2
    await loaded.close()
    assert backend.open == 0


def broken(plan: Plan, index: int, **changes: Any) -> Plan:
    changed = list(plan.stages)
    changed[index] = replace(changed[index], **changes)
    return plan.replace(stages=tuple(changed))


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ({"backend": "abacus"}, BackendError, "back end 'abacus' is not here; this node has function"),
        ({"sha256": "f" * 64}, StoreError, "ffffffffffff: not in the store; deploy the plan again"),
        ({"outputs": (spec(5),)}, PlanError, r"stages \(s2\).outputs: the plan says"),
        ({"inputs": (replace(spec(2), dtype="int8"),)}, PlanError, r"stages \(s2\).inputs"),
    ],
)
async def test_nothing_is_kept_if_one_stage_fails(
    store: Store, fault: dict[str, Any], kind: type[CollabError], words: str
):
    backend = Counting(functions())
    loaded = stages(store, backend)
    plan, _ = chain("a", "a", "a")
    with pytest.raises(kind, match=words):
        await loaded.load(broken(plan, 2, **fault), EPOCH)
    assert backend.open == 0
    assert loaded.plan(plan.name, EPOCH) is None
    assert loaded.used_digests() == []
    await loaded.close()


async def test_a_blob_that_is_no_stage_is_refused(store: Store):
    loaded = stages(store, functions(0, 1))
    plan, _ = chain("a", "a", "a")
    with pytest.raises(ModelError, match="no function"):
        await loaded.load(plan, EPOCH)
    await loaded.close()


async def test_a_corrupted_blob_is_refused_by_its_digest(store: Store, tmp_path: Path):
    (tmp_path / "blobs" / digest(1)).write_bytes(b"something else")
    loaded = stages(store, functions())
    plan, _ = chain("a", "a")
    with pytest.raises(IntegrityError, match=digest(1)[:12]):
        await loaded.load(plan, EPOCH)
    assert await loaded.off_loop(store.digests) == sorted([digest(0), digest(2), digest(3)])
    await loaded.close()


async def test_blobs_of_a_plan_that_is_being_loaded_are_in_use(store: Store):
    loaded = stages(store, functions())
    plan, _ = chain("a", "a")
    loading = asyncio.ensure_future(loaded.load(plan, EPOCH))
    await asyncio.sleep(0)
    assert set(loaded.used_digests()) == {digest(0), digest(1)}
    await loading
    await loaded.close()


async def test_closing_frees_the_store_for_others(store: Store, tmp_path: Path):
    loaded = stages(store, functions())
    with pytest.raises(StoreError, match="another node"):
        await asyncio.to_thread(Store, tmp_path)
    await loaded.close()
    (await asyncio.to_thread(Store, tmp_path)).close()
