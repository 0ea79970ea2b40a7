"""A round's model on its way into a plan that runs: judged, kept, swapped, gone back from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from collab.coordinator import swap as swap_module
from collab.coordinator.deploy import Deployment
from collab.coordinator.planning import build_chain
from collab.coordinator.retarget import check_same_operators, retarget
from collab.coordinator.shadow import HeldOut, compare
from collab.coordinator.swap import Kit, Swapper, begin, roll_back
from collab.coordinator.swap_folder import SwapFolder, Version
from collab.coordinator.version_folder import KEPT_VERSIONS
from collab.core.alternatives import alternative_name
from collab.core.ids import Digest, NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.errors import ConfigError, Conflict, InputError, LinkLost, ModelError, NotLoaded
from collab.federated.records import RoundRecord
from collab.federated.swapping import Asked
from collab.federated.task import DeployRules
from collab.federated.trainers.litert import LiteRtEngine
from collab.graph import parse_model, read_model
from collab.planner.chain import Assignment
from collab.toolchain.trainable.served import Baker
from tests.integration.models import PATHS

TRAINABLE = Path(__file__).parents[2] / "data" / "trainable_mlp.tflite"
INITIAL = Digest("1" * 64)


@pytest.fixture(scope="module")
def baker() -> Baker:
    return Baker(TRAINABLE.read_bytes())


@pytest.fixture(scope="module")
def initial() -> dict[str, np.ndarray]:
    return dict(LiteRtEngine(TRAINABLE).initial)


@pytest.fixture(scope="module")
def first(baker: Baker, initial: dict[str, np.ndarray]) -> bytes:
    """The model with its initial weights."""
    return baker(initial)


def moved(initial: dict[str, np.ndarray], by: float) -> dict[str, np.ndarray]:
    """Other weights of the same model: all the same class the more it is."""
    bias = initial["logits/bias"].copy()
    bias[3] += by
    return {**initial, "logits/bias": bias}


def plan_of(model: Path, cuts: tuple[int, ...] = (1, 2), nodes: str = "abc", name: str = "p") -> Plan:
    graph = read_model(model)
    plan, _ = build_chain(
        PlanName(name),
        model,
        graph,
        cuts,
        Assignment(tuple((NodeName(node),) for node in nodes)),
        [NodeRef(name=NodeName(node), endpoints=(f"h:{ord(node)}",)) for node in sorted(set(nodes))],
    )
    return plan


# --- another model in a plan --------------------------------------------------------


def test_the_new_plan_has_the_old_ones_cuts_and_places_also_in_its_alternatives(tmp_path, baker, initial):
    model = tmp_path / "m.tflite"
    model.write_bytes(baker(initial))
    plan = plan_of(model)
    spare = plan_of(model, (2,), "bc", alternative_name(plan.name, ["a"]))
    plan = plan.replace(alternatives=(spare.replace(primary=plan.name, without=("a",)),))
    new = parse_model(baker(moved(initial, 5.0)))
    made, blobs = retarget(plan, read_model(model), new, "new.tflite")
    assert [(s.ops, s.nodes, s.inputs, s.outputs) for s in made.stages] == [
        (s.ops, s.nodes, s.inputs, s.outputs) for s in plan.stages
    ]
    assert (made.models[0].sha256, made.models[0].origin) == (new.sha256, plan.models[0].sha256)
    assert made.alternatives[0].models == made.models
    wanted = {stage.sha256 for one in made.family for stage in one.stages}
    assert blobs.keys() == wanted != {stage.sha256 for one in plan.family for stage in one.stages}
    again, _ = retarget(made, new, read_model(model), "m.tflite")
    assert again.models[0].origin == plan.models[0].sha256, "the first of all"


def test_a_model_of_other_operators_or_shapes_is_refused_by_name(baker, initial):
    mine = parse_model(baker(initial))
    with pytest.raises(ModelError, match=r"operator 0 is RESHAPE, and \w+ in the model that runs"):
        check_same_operators(read_model(PATHS["digits"]), mine)
    with pytest.raises(ModelError, match=r"operator \d+ is .* in the model that runs"):
        check_same_operators(mine, read_model(PATHS["digits"]))
    with pytest.raises(ModelError, match=r"operator 0 \(\w+\) has tensors .*int8"):
        check_same_operators(read_model(PATHS["digits"]), read_model(PATHS["digits_dynamic"]))


def test_models_are_compared_on_examples_as_they_are_served(baker, initial):
    rng = np.random.default_rng(0)
    x, y = rng.random((30, 28, 28, 1), np.float32), np.full(30, 3)
    old, new = (parse_model(baker(moved(initial, by))) for by in (0.0, 100.0))
    found = compare(old, new, HeldOut(x, y, True))
    assert (found.metric, found.candidate, found.samples) == ("accuracy", 1.0, 30)
    assert found.running < 0.9
    assert found.agreement == found.running, "the new one says 3 to all"
    targets = HeldOut(x, np.zeros((30, 10), np.float32), False)
    assert compare(old, new, targets).gain < -900


# --- swaps ---------------------------------------------------------------------------


@dataclass
class Nodes:
    """A cluster on which one plan is deployed."""

    plan: Plan
    epoch: int = 1
    lost_after_deploy: bool = False
    answers: Asked = Asked(5, 0, 1.0, 1.0)
    shadows: list[str] = field(default_factory=list)
    cleared: int = 0

    async def reach_plan(self, plan: Plan) -> None:
        return

    async def deployed_epoch(self, plan: Plan) -> int:
        if plan.digest != self.plan.digest:
            raise NotLoaded("runs another version")
        return self.epoch

    async def take_over(self, cluster: Any, plan: Plan, blobs: Any, keep: Any) -> Deployment:
        assert {stage.sha256 for stage in plan.stages} <= blobs.keys()
        self.plan, self.epoch = plan, self.epoch + 1
        if self.lost_after_deploy:
            raise LinkLost("somebody went away")
        keep(plan)
        return Deployment(self.epoch, True, {})

    @asynccontextmanager
    async def shadow(self, cluster: Any, plan: Plan, blobs: Any) -> AsyncIterator[None]:
        self.shadows.append(plan.models[0].sha256)
        yield None

    async def clear(self, cluster: Any, plan: Plan) -> None:
        self.cleared += 1

    async def ask_both(self, *arguments: Any) -> Asked:
        return self.answers


@dataclass
class World:
    """A run's folder, the nodes and what puts models into the plan."""

    folder: SwapFolder
    nodes: Nodes
    swapper: Swapper
    initial: dict[str, np.ndarray]
    kept: list[str]

    async def offer(self, round_: int, by: float, outcome: str = "made") -> Any:
        record = RoundRecord(round=round_, outcome=outcome, model=Digest(f"{round_:064x}"), seconds=1.0)
        return await self.swapper.offer(record, moved(self.initial, by))

    async def again(self) -> None:
        """The server is started again."""
        self.swapper = Swapper(self.nodes, self.folder, self.swapper._kit)
        await self.swapper.start()


@pytest.fixture
async def world(tmp_path, baker, initial, first, monkeypatch) -> World:
    data = first
    model = tmp_path / "m.tflite"
    await asyncio.to_thread(model.write_bytes, data)
    plan = await asyncio.to_thread(plan_of, model)
    folder = SwapFolder(tmp_path)
    await asyncio.to_thread(begin, folder, "p.yaml", plan, data, {INITIAL: parse_model(data)})
    nodes = Nodes(plan)
    for name in ("take_over", "shadow", "ask_both", "clear"):
        monkeypatch.setattr(swap_module, name, getattr(nodes, name))
    kept: list[str] = []
    rng = np.random.default_rng(0)
    x = rng.random((20, 28, 28, 1), np.float32)
    kit = Kit(
        DeployRules(plan="p.yaml"),
        baker,
        x,
        HeldOut(x, np.full(20, 3), True),
        lambda p: kept.append(p.models[0].sha256),
    )
    swapper = Swapper(nodes, folder, kit)
    await swapper.start()
    return World(folder, nodes, swapper, initial, kept)


async def test_a_better_model_takes_over_and_a_worse_one_does_not(world):
    assert world.swapper.holds == {INITIAL}
    better = await world.offer(1, 100.0)
    assert (better.swapped, better.epoch, better.former, better.agreement) == (True, 2, 0, better.running)
    assert world.kept == [world.nodes.plan.models[0].sha256]
    worse = await world.offer(2, -100.0)
    assert (worse.swapped, worse.epoch, worse.former) == (False, 2, 1)
    assert "accuracy 0 on 20 held-out examples, 1 of the model that runs" in worse.reason
    assert len(world.nodes.shadows) == 1, "what fails on examples never reaches the nodes"
    state = await asyncio.to_thread(world.folder.read)
    assert [version.round for version in state.versions] == [0, 1]
    assert world.swapper.holds == {Digest(f"{1:064x}")}


@pytest.mark.parametrize(
    ("answers", "words"), [(Asked(5, 2, 1.0, 1.0), "2 of 5"), (Asked(5, 0, 9.0, 1.0), "take 9 ms")]
)
async def test_wrong_or_slow_answers_over_the_nodes_keep_a_model_out(world, answers, words):
    world.nodes.answers = answers
    swap = await world.offer(1, 100.0)
    assert (swap.swapped, swap.requests) == (False, 5)
    assert words in swap.reason
    assert world.nodes.epoch == 1


async def test_a_round_is_tried_once_and_only_the_newest_waits(world):
    record = [world.offer(1, 50.0), world.offer(2, 90.0), world.offer(3, 100.0)]
    first, second, third = await asyncio.gather(*record)
    assert [first.swapped, second.swapped, third.swapped] == [False, False, True]
    assert first.reason == second.reason == "round 3 was over before its turn came"
    assert await world.offer(3, 100.0) is None
    assert world.swapper.due(RoundRecord(round=4, outcome="made", model=INITIAL, seconds=1.0))
    assert not world.swapper.due(RoundRecord(round=4, outcome="skipped", model=INITIAL, seconds=1.0))


async def test_what_was_deployed_when_the_server_died_is_found_running(world):
    world.nodes.lost_after_deploy = True
    lost = await world.offer(1, 100.0)
    assert (lost.swapped, lost.reason) == (False, "somebody went away")
    world.nodes.lost_after_deploy = False
    await world.again()
    state = await asyncio.to_thread(world.folder.read)
    assert state.pending is not None
    worse = await world.offer(2, -100.0)
    assert (worse.swapped, worse.former, worse.epoch) == (False, 1, 2)
    assert [version.round for version in (await asyncio.to_thread(world.folder.read)).versions] == [0, 1]


async def test_a_plan_that_somebody_else_deployed_is_left_alone(world):
    world.nodes.plan = world.nodes.plan.replace(credits=3)
    swap = await world.offer(1, 100.0)
    assert (swap.swapped, swap.reason, world.nodes.shadows) == (False, "runs another version", [])


async def test_weights_that_are_not_finite_or_not_the_models_are_refused(world):
    swap = await world.offer(1, float("nan"))
    assert "not finite" in swap.reason
    record = RoundRecord(round=2, outcome="made", model=INITIAL, seconds=1.0)
    odd = await world.swapper.offer(record, world.initial)
    assert odd.reason == "its weights are those that run"


async def test_clients_measurements_count_only_beside_the_weights_that_run(world):
    world.swapper._kit = Kit(
        world.swapper._kit.rules, world.swapper._kit.bake, world.swapper._kit.samples, None, lambda plan: None
    )
    assert await world.swapper.beside() == INITIAL
    world.swapper.measured(1, Digest("f" * 64), (10, {"accuracy": 0.1}, {"accuracy": 0.9}))
    swap = await world.offer(1, 1.0)
    assert swap.reason == "no client has measured it beside the model that runs"
    world.swapper.measured(2, INITIAL, (10, {"accuracy": 0.1}, {"accuracy": 0.9}))
    swap = await world.offer(2, 1.0)
    assert (swap.swapped, swap.running, swap.candidate, swap.samples) == (True, 0.1, 0.9, 10)
    assert await world.swapper.beside() == Digest(f"{2:064x}")


async def test_going_back_deploys_the_old_bits_and_holds_further_swaps(world):
    first = world.nodes.plan
    await world.offer(1, 100.0)

    async def same(plan: Plan) -> Plan:
        return plan

    before, now = await roll_back(world.nodes, world.folder, world.swapper._kit.keep, same)
    assert (before.round, now.round, now.epoch) == (1, 0, 3)
    assert [s.sha256 for s in world.nodes.plan.stages] == [s.sha256 for s in first.stages]
    held = await world.offer(2, 100.0)
    assert (held.swapped, held.former) == (False, 0)
    assert "rolled back by hand" in held.reason
    with pytest.raises(InputError, match="no model before"):
        await roll_back(world.nodes, world.folder, world.swapper._kit.keep, same)
    data = await asyncio.to_thread(world.folder.model_path(0).read_bytes)
    await asyncio.to_thread(begin, world.folder, "p.yaml", first, data, {INITIAL: parse_model(data)})
    assert (await world.offer(3, 100.0)).swapped, "the plan was named anew"


def test_clients_can_measure_only_a_model_whose_weights_the_run_has(tmp_path, baker, initial):
    mine, other = baker(initial), baker(moved(initial, 1.0))
    model = tmp_path / "m.tflite"
    model.write_bytes(other)
    folder, first = SwapFolder(tmp_path), {INITIAL: parse_model(mine)}
    with pytest.raises(ConfigError, match=r"set evaluation\.data"):
        begin(folder, "p.yaml", plan_of(model), other, first, by_clients=True)
    assert not folder.begun
    begin(folder, "p.yaml", plan_of(model), other, first)
    assert folder.read().running.weights == ""


# --- the folder ----------------------------------------------------------------------


def test_only_the_newest_versions_are_kept(tmp_path, first):
    data = first
    model = tmp_path / "m.tflite"
    model.write_bytes(data)
    folder = SwapFolder(tmp_path)
    begin(folder, "p.yaml", plan_of(model), data, {INITIAL: parse_model(data)})
    for round_ in range(1, 7):
        folder.put(round_, plan_of(model), data)
        state = folder.read()
        version = Version(round=round_, model=Digest("0" * 64))
        folder.write(msgspec.structs.replace(state, versions=(*state.versions, version)))
    assert [version.round for version in folder.read().versions] == list(range(7 - KEPT_VERSIONS, 7))
    models = sorted(path.name for path in folder.path.glob("*.tflite"))
    assert models == [f"round-{number}.tflite" for number in range(7 - KEPT_VERSIONS, 7)]
    assert folder.plan(folder.read().running).models[0].path == "round-6.tflite"


def test_two_processes_do_not_deploy_from_one_folder(tmp_path):
    again = SwapFolder(tmp_path).locked()
    with SwapFolder(tmp_path).locked(), pytest.raises(Conflict, match="another process"), again:
        pass
    with pytest.raises(InputError, match="deployed nothing"):
        SwapFolder(tmp_path).read()
