"""Models whose native code ends the process: refused before they are loaded, or gone back from."""

from __future__ import annotations

import asyncio
import platform
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from collab.assembly import build_cluster
from collab.client.runner import PlanClient
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs, deploy
from collab.coordinator.planning import build_chain
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.errors import BackendError, CollabError
from collab.graph import Graph, read_model
from collab.planner.chain import Assignment
from tests.integration.processes import NodeProcess, running
from tests.tflite_builder import ModelBuilder

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="only x86 traps when a remainder overflows"
)

POISON = np.iinfo(np.int32).min
"""Its remainder by -1 is a trap of the processor, which LiteRT does not guard against."""


@dataclass(frozen=True)
class Model:
    """A file and what is in it."""

    path: Path
    graph: Graph


def model(path: Path, divisor: int, *, always: bool = False) -> Model:
    """``(x * 1) % divisor``; with ``always`` x is the poison whatever is asked."""
    build = ModelBuilder()
    main = build.main
    x = main.input("x", [1], "int32")
    one = main.const("one", [1], "int32")
    y = main.op("MUL", [x, one], name="y", shape=[1], dtype="int32", options="MulOptions")
    if always:
        least = main.const("least", [POISON], "int32")
        y = main.op(
            "MINIMUM", [y, least], name="m", shape=[1], dtype="int32", options="MaximumMinimumOptions"
        )
    by = main.const("by", [divisor], "int32")
    main.output(main.op("FLOOR_MOD", [y, by], name="z", shape=[1], dtype="int32", options="FloorModOptions"))
    path.write_bytes(build.build())
    return Model(path, read_model(path))


@pytest.fixture
def sound(tmp_path: Path) -> Model:
    return model(tmp_path / "sound.tflite", 7)


@pytest.fixture
def poisonous(tmp_path: Path) -> Model:
    return model(tmp_path / "poisonous.tflite", -1)


@pytest.fixture
def broken(tmp_path: Path) -> Model:
    return model(tmp_path / "broken.tflite", -1, always=True)


def chain(one: Model, name: str, nodes: list[NodeProcess]) -> tuple[Plan, Blobs]:
    """A stage on each node; the remainder is on the last."""
    return build_chain(
        PlanName(name),
        one.path,
        one.graph,
        list(range(1, len(nodes))),
        Assignment(tuple((NodeName(node.name),) for node in nodes)),
        [NodeRef(name=NodeName(node.name), endpoints=(node.endpoint,)) for node in nodes],
    )


async def ask(client: PlanClient, x: int, deadline_s: float = 20.0) -> int:
    answer = await client.run({"x": np.array([x], np.int32)}, deadline_s)
    return int(answer.outputs["z"][0])


async def said(cluster: Cluster, node: str) -> dict[str, list[tuple[int, str, str]]]:
    """Epoch, state and fault of each plan, as a node says."""
    (view,) = (await cluster.describe([node])).values()
    plans = view.description.plans
    return {
        name: [(p.epoch, p.state, p.fault) for p in plans if p.plan == name]
        for name in {p.plan for p in plans}
    }


async def crash(plan: Plan, node: NodeProcess) -> None:
    """Ask for the poison; the node is gone."""
    async with build_cluster() as cluster:
        client = await cluster.open(plan)
        with pytest.raises(CollabError):
            await ask(client, POISON, 0.5)
    assert await asyncio.to_thread(node.wait) == -signal.SIGFPE


async def test_a_node_goes_back_from_epochs_that_keep_ending_its_process(
    tmp_path: Path, sound: Model, poisonous: Model
):
    with running([NodeProcess(name, tmp_path) for name in "ab"]) as nodes:
        a, b = nodes
        alone, pair = chain(sound, "alone", [b]), chain(sound, "pair", [a, b])
        async with build_cluster() as cluster:
            for plan, blobs in (alone, pair):
                await deploy(cluster, plan, blobs)
                client = await cluster.open(plan)
                assert [await ask(client, x) for x in range(25)] == [x % 7 for x in range(25)]
                await cluster.release(client)
            bad = chain(poisonous, "alone", [b])
            await deploy(cluster, *bad)
            await deploy(cluster, *chain(poisonous, "pair", [a, b]))
        for _ in range(3):
            await crash(bad[0], b)
            await asyncio.to_thread(b.start)
        gone = "epoch 2 ended the process 3 times"
        async with build_cluster() as cluster:
            await cluster.reach_plan(pair[0])
            assert await said(cluster, "b") == {
                "alone": [(1, "serving", f"gone back to: {gone}")],
                "pair": [(2, "unloaded", gone)],
            }
            assert await ask(await cluster.open(alone[0]), POISON) == POISON % 7
            again = await deploy(cluster, *pair)
            assert (again.epoch, again.sent_bytes) == (3, {"a": 0, "b": 0})
            assert await ask(await cluster.open(pair[0]), POISON) == POISON % 7
            assert (await said(cluster, "b"))["pair"][-1][1:] == ("serving", "")


async def test_a_new_model_that_ends_the_process_is_refused_before_it_is_loaded(
    tmp_path: Path, sound: Model, broken: Model
):
    with running([NodeProcess("a", tmp_path)]) as nodes:
        plan, blobs = chain(sound, "p", nodes)
        update, update_blobs = chain(broken, "p", nodes)
        retrained = replace(update.models[0], origin=plan.models[0].sha256)
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            client = await cluster.open(plan)
            with pytest.raises(BackendError, match=r"'a'.*stage 'stage-0'.*ended by SIGFPE"):
                await deploy(cluster, update.replace(models=(retrained,)), update_blobs)
            assert await ask(client, POISON) == POISON % 7
            assert await said(cluster, "a") == {"p": [(1, "serving", "")]}
