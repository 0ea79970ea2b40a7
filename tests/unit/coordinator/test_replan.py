"""What a replanner decides and does, with nodes in this process and a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy
from collab.coordinator.rebuilding import wants_of
from collab.coordinator.replan import Decision, Replanner, ReplanRules
from collab.core.plan import Plan, to_json
from collab.core.profile import CutProfile, DeviceProfile, LinkEntry, Profile
from collab.core.validate import decode_plan, validate
from collab.errors import Conflict, InputError, NotLoaded, PlanError
from collab.node.service import NodeService
from collab.planner.chains import Chain, Move, Option, Solution, StageChoice, Wants
from collab.planner.drift import DriftRules, LinkFigures, LinkKey
from collab.planner.evaluate import Evaluator
from collab.transport.inproc import InprocTransport
from tests.unit.functions import Gate, X, chain, coordinator, expected, functions, node

AB, BA = ("a", "b", "inproc"), ("b", "a", "inproc")
SLOW = LinkFigures(1.0, 0.1)
MOVE = Move("inproc")


def profile() -> Profile:
    """Three equal devices; 1 kB crosses the only cut in 2 ms."""
    return Profile(
        model_sha256="0" * 64,
        input_bytes=16,
        output_bytes=16,
        cuts=(CutProfile(at=1, bytes=1000),),
        devices=tuple(
            DeviceProfile(name=name, memory_bytes=1000, op_ms=(10.0, 10.0), op_bytes=(1, 1)) for name in "abc"
        ),
        links=tuple(
            LinkEntry(source=s, target=t, latency_ms=1.0, mbit_s=8.0, transport="inproc")
            for s, t in permutations("abc", 2)
        ),
    )


def solve(known: Profile, wants: Wants) -> Solution:
    """The best of all chains of two stages on different devices; the first of the alphabet among equals."""
    evaluator = Evaluator(known)
    devices = [name for name in evaluator.devices if name not in wants.forbidden]
    options = []
    for one, other in product(devices, devices):
        if one != other:
            made = Chain((StageChoice(0, 1, (one,)), StageChoice(1, 2, (other,))), (MOVE, MOVE, MOVE))
            options.append(Option(made, evaluator.evaluate(made).costs))
    if not options:
        raise PlanError("nothing is left")
    best = min(options, key=lambda option: option.costs.of(wants.objective))
    return Solution(best, (), None, "all of them", best.costs.of(wants.objective))


def build(made: Chain, refs) -> tuple[Plan, dict]:
    plan, blobs = chain(*(stage.nodes[0] for stage in made.stages))
    plan = decode_plan(to_json(plan).replace(b'"s0"', b'"stage-0"').replace(b'"s1"', b'"stage-1"'))
    return validate(plan.replace(nodes=tuple(refs))), blobs


class Scene:
    """A plan on a and b, watched; c is there too.  Time is ``now_s``."""

    def __init__(
        self,
        hub: InprocTransport,
        cluster: Cluster,
        nodes: dict[str, NodeService],
        alternatives: tuple[Plan, ...] = (),
    ) -> None:
        self.hub, self.cluster, self.nodes = hub, cluster, nodes
        self.now_s = 0.0
        self.kept: list[Plan] = []
        self.decisions: list[Decision] = []
        self.plan, self.blobs = chain("a", "b")
        self.plan = validate(self.plan.replace(alternatives=alternatives))
        rules = ReplanRules(
            wants_of(self.plan, "latency"), DriftRules(window=1, hold_s=1.0, cooldown_s=30.0), every_s=0.01
        )
        self.replanner = Replanner(
            cluster,
            self.plan,
            profile(),
            rules,
            solve,
            build,
            keep=self.kept.append,
            decided=self.decisions.append,
            clock=lambda: self.now_s,
        )

    async def start(self) -> None:
        await deploy(self.cluster, self.plan, self.blobs)
        await self.replanner.start(await self.cluster.reach([f"inproc://{name}" for name in "abc"]))

    async def look(self, seconds: float = 1.0) -> Decision | None:
        self.now_s += seconds
        return await self.replanner.look()

    def throttle(self) -> None:
        """The link between a and b turns out to be slow."""
        for key in (AB, BA):
            self.replanner.drift.link(key, SLOW)

    async def states(self, name: str) -> dict[int, str]:
        (view,) = (await self.cluster.describe([name])).values()
        return {p.epoch: p.state for p in view.description.plans}

    async def successor(self, plan: Plan) -> Plan | None:
        return self.kept[-1] if self.kept else None


@pytest.fixture
async def scene(tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    # The kernel gives that at once, but by a file, and those are not read in the loop of a test.
    monkeypatch.setattr("collab.node.control.resident_bytes", lambda: 0)
    hub = InprocTransport()
    async with AsyncExitStack() as stack:
        backends = {"b": functions(gate=gate)}
        nodes = {
            name: await stack.enter_async_context(node(name, hub, tmp_path, backends.get(name)))
            for name in "abc"
        }
        made = Scene(hub, await stack.enter_async_context(coordinator(hub)), nodes)
        await made.start()
        yield made
        gate.opened.set()


@pytest.fixture
def gate() -> Gate:
    """Open, until a test closes it."""
    made = Gate()
    made.opened.set()
    return made


async def test_as_long_as_all_is_as_predicted_nothing_is_decided(scene: Scene):
    assert [await scene.look() for _ in range(5)] == [None] * 5


async def test_a_better_plan_brings_alternatives_where_the_first_had_some(scene: Scene):
    spare, _ = chain("c", "b", name="p.without.a")
    spare = spare.replace(primary=scene.plan.name, without=("a",))
    watched = Scene(scene.hub, scene.cluster, scene.nodes, (spare,))
    await watched.start()
    watched.throttle()
    assert await watched.look() is None
    decision = await watched.look()
    assert decision is not None
    assert decision.switched, decision.note
    (kept,) = watched.kept
    assert {name for one in kept.alternatives for name in one.without} == set(kept.placed)
    for one in kept.alternatives:
        for name in one.placed:
            (view,) = (await scene.cluster.describe([name])).values()
            assert view.epoch_of(one.name) is not None


async def test_a_better_plan_is_deployed_beside_the_running_one(scene: Scene):
    scene.throttle()
    assert await scene.look() is None, "it has to last"
    decision = await scene.look()
    assert decision is not None
    assert (decision.switched, decision.epoch, decision.stages) == (True, 2, "a [0, 1) → c [1, 2)")
    assert (decision.running, decision.best) == pytest.approx((101.0, 22.0))
    assert "link a → b (inproc): 1.0 kB take 81.00 ms, 2.00 ms were known" in decision.reason
    assert scene.decisions == [decision]
    for name, states in {
        "a": {1: "retired", 2: "serving"},
        "b": {1: "retired", 2: "serving"},
        "c": {2: "serving"},
    }.items():
        assert await scene.states(name) == states
    (kept,) = scene.kept
    assert kept.predicted is not None
    assert kept.predicted.latency_ms == decision.best
    assert kept == scene.replanner.running.plan


async def test_a_decision_is_one_line_with_its_figures(scene: Scene):
    scene.throttle()
    await scene.look()
    decision = await scene.look()
    assert decision is not None
    text = str(decision)
    assert "\n" not in text
    assert text.startswith("plan 'p' epoch 2 switched: link ")
    assert "latency 101 now, 22 at best (78.2% better); a [0, 1) → c [1, 2)" in text
    told = decision.to_json()
    assert (told["event"], told["epoch"], told["objective"]) == ("replanned", 2, "latency")


async def test_clients_go_along_and_lose_nothing(scene: Scene, gate: Gate):
    async with coordinator(scene.hub) as other:
        client = await other.follow(scene.plan, scene.successor, 12)
        gate.opened.clear()
        under_way = [asyncio.ensure_future(client.run({"t0": X})) for _ in range(4)]
        await asyncio.to_thread(gate.entered.wait, 10)
        scene.throttle()
        await scene.look()
        assert (await scene.look()) is not None
        later = await asyncio.gather(*(client.run({"t0": X}) for _ in range(8)))
        assert {result.epoch for result in later} == {2}
        assert {result.path for result in later} == {("a", "c")}
        gate.opened.set()
        earlier = await asyncio.gather(*under_way)
        assert {result.epoch for result in earlier} == {1}, "what was admitted is finished where it was"
        for result in (*earlier, *later):
            np.testing.assert_array_equal(result.outputs["t2"], expected(2))


async def test_a_plan_that_is_hardly_better_is_left_alone(scene: Scene):
    scene.replanner.drift.device("b", 1.21, 10.0)
    await scene.look()
    decision = await scene.look()
    assert decision is not None
    assert (decision.switched, decision.epoch) == (False, 1)
    assert decision.running == pytest.approx(24.1)
    assert decision.best == 22.0
    assert await scene.look(100.0) is None, "what was taken into account is no drift any more"
    assert await scene.states("a") == {1: "serving"}


async def test_without_any_plan_the_running_one_stays(scene: Scene):
    def nothing(known: Profile, wants: Wants) -> Solution:
        raise PlanError("the model fits nowhere")

    scene.replanner._solve = nothing
    scene.throttle()
    await scene.look()
    decision = await scene.look()
    assert decision is not None
    assert (decision.switched, decision.note, decision.to_json()["best"]) == (
        False,
        "the model fits nowhere",
        None,
    )


async def test_after_a_switch_the_next_has_to_wait(scene: Scene):
    scene.throttle()
    await scene.look()
    await scene.look()
    for key in (AB, BA):
        scene.replanner.drift.link(key, LinkFigures(1.0, 8.0))
    scene.replanner.drift.link(("a", "c", "inproc"), SLOW)
    assert [await scene.look(5.0) for _ in range(5)] == [None] * 5
    decision = await scene.look(5.0)
    assert decision is not None
    assert (decision.switched, decision.epoch, decision.stages) == (True, 3, "a [0, 1) → b [1, 2)")


async def test_a_node_that_does_not_answer_is_planned_without(scene: Scene):
    await scene.nodes["b"].__aexit__()
    assert await scene.look() is None
    decision = await scene.look()
    assert decision is not None
    assert (decision.switched, decision.reason) == (True, "no answer from b")
    assert decision.stages == "a [0, 1) → c [1, 2)"
    assert await scene.states("c") == {2: "serving"}


async def test_a_better_plan_that_cannot_be_deployed_is_tried_again(scene: Scene):
    scene.nodes["c"].drain()
    scene.throttle()
    await scene.look()
    decision = await scene.look()
    assert decision is not None
    assert not decision.switched
    assert "node 'c' is draining" in decision.note
    assert await scene.states("a") == {1: "serving"}


async def test_a_file_that_cannot_be_written_does_not_stop_the_switch(scene: Scene):
    def full(plan: Plan) -> None:
        raise InputError("plan.yaml: cannot be written: disk full")

    scene.replanner._keep = full
    scene.throttle()
    await scene.look()
    decision = await scene.look()
    assert decision is not None
    assert decision.switched


async def test_somebody_elses_deployment_ends_the_watch(scene: Scene):
    await deploy(scene.cluster, scene.plan.replace(credits=9), scene.blobs)
    with pytest.raises(Conflict, match=r"epoch 2 on node '[ab]', deployed by somebody else"):
        await scene.look()
    await asyncio.wait_for(scene.replanner.run(), 10)


async def test_stages_are_timed_by_the_nodes_that_run_them(scene: Scene):
    client = await scene.cluster.open(scene.plan, 1)
    for _ in range(3):
        await client.run({"t0": X})
    await scene.look()
    factors = scene.replanner.drift.factors()
    assert 0 < factors["a"] < 0.5, "a function takes much less than the 10 ms that the profile says"
    assert 0 < factors["b"] < 0.5
    assert factors["c"] == 1.0


async def test_counters_of_an_epoch_go_with_it(scene: Scene):
    client = await scene.cluster.open(scene.plan, 1)
    await client.run({"t0": X})
    counters = scene.nodes["a"].counters()
    assert counters["stage_runs:p/1/s0"] == 1
    assert counters["stage_us:p/1/s0"] > 0
    await scene.nodes["a"].unload("p", 1)
    assert not [name for name in scene.nodes["a"].counters() if name.startswith("stage_")]


async def test_a_device_that_was_slow_is_timed_while_it_is_idle(scene: Scene):
    scene.replanner.drift.device("b", 9.0, 10.0)
    await scene.look()
    decision = await scene.look()
    assert decision is not None
    assert decision.switched
    assert scene.replanner.drift.factors()["b"] == 9.0
    for _ in range(10):
        await scene.look(0.1)
    assert scene.replanner.drift.factors()["b"] < 0.5


async def test_links_are_probed_while_it_runs(scene: Scene):
    pairs, all_probed = set(permutations("abc", 2)), asyncio.Event()
    prober = scene.replanner._prober

    def found(key: LinkKey, figures: LinkFigures) -> None:
        scene.replanner.drift.link(key, figures)
        if {key[:2] for key in scene.replanner.drift.links()} == pairs:
            all_probed.set()

    prober._found = found
    running = asyncio.ensure_future(scene.replanner.run())
    await asyncio.wait_for(all_probed.wait(), 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert all(figures.mbit_s > 8.0 for figures in scene.replanner.drift.links().values())


async def test_a_plan_that_is_not_deployed_cannot_be_watched(scene: Scene):
    other = Replanner(
        scene.cluster, scene.plan.replace(credits=5), profile(), scene.replanner._rules, solve, build
    )
    with pytest.raises(NotLoaded):
        await other.start()


async def test_a_device_that_the_profile_does_not_know_is_named(scene: Scene):
    stranger, _ = chain("a", "z")
    with pytest.raises(PlanError, match="the profile knows no device 'z'"):
        Replanner(scene.cluster, stranger, profile(), scene.replanner._rules, solve, build)


def test_a_plan_gives_the_rules_that_it_keeps_itself():
    plan, _ = chain("a+b", "c")
    assert wants_of(plan, "throughput") == Wants(
        objective="throughput", codecs=("raw",), transports=("inproc",), max_replicas=2
    )
    again, _ = chain("a", "b", "a")
    assert wants_of(again, "latency").revisit
