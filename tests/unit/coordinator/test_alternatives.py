"""Plans with alternatives on nodes of this process: deployed together, used in turn, taken down together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from collab.client.local import LocalModel
from collab.client.policy import RetryPolicy
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import deploy, undeploy
from collab.coordinator.reports import Report, ReportFile, ReportPull, fetch
from collab.core.plan import Plan
from collab.core.validate import validate
from collab.errors import Conflict, LimitExceeded, NodeLost, Overloaded, PeerUnreachable
from collab.node.service import NodeService
from collab.transport.aio import timeout
from collab.transport.inproc import InprocTransport
from tests.unit.functions import X, chain, coordinator, expected, functions, node, spec

INPUT = {"t0": X}
NAMES = "abc"


class Scene:
    """Nodes a, b and c, and a plan on a and b with an alternative for each."""

    def __init__(self, hub: InprocTransport, folder: Path, cluster: Cluster) -> None:
        self.hub, self.folder, self.cluster = hub, folder, cluster
        self.nodes: dict[str, NodeService] = {}
        self.stacks: dict[str, AsyncExitStack] = {}
        self.plan, self.blobs = chain("a", "b")
        self.without_b = self.alternative("a", "c", without=("b",))
        self.without_a = self.alternative("c", "b", without=("a",))
        self.alone = self.alternative("a", "a", name="p.alone.a", without=("b",), offline=True)
        self.full = self.with_alternatives(self.without_b, self.without_a, self.alone)

    def alternative(self, *placed: str, name: str = "", **fields: object) -> Plan:
        made, _ = chain(*placed, name=name or "p.on." + ".".join(placed))
        return made.replace(primary=self.plan.name, **fields)

    def with_alternatives(self, *alternatives: Plan) -> Plan:
        return validate(self.plan.replace(alternatives=alternatives))

    async def start(self, *names: str, **settings: object) -> None:
        for name in names:
            stack = self.stacks[name] = AsyncExitStack()
            self.nodes[name] = await stack.enter_async_context(node(name, self.hub, self.folder, **settings))

    async def stop(self, name: str) -> None:
        await self.stacks.pop(name).aclose()

    async def states(self, name: str) -> dict[str, tuple[int, str, str]]:
        (view,) = (await self.cluster.describe([name])).values()
        return {
            p.plan: (p.epoch, p.state, p.primary) for p in view.description.plans if p.state != "unloaded"
        }


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    # The kernel gives that at once, but by a file, and those are not read in the loop of a test.
    monkeypatch.setattr("collab.node.control.resident_bytes", lambda: 0)
    hub = InprocTransport()
    async with coordinator(hub) as cluster:
        made = Scene(hub, tmp_path, cluster)
        await made.start(*NAMES)
        yield made
        for name in tuple(made.stacks):
            await made.stop(name)


# --- deploying ------------------------------------------------------------------------


async def test_a_plan_comes_up_with_its_alternatives_and_goes_with_them(scene: Scene):
    deployed = await deploy(scene.cluster, scene.full, scene.blobs)
    assert (deployed.epoch, deployed.changed) == (1, True)
    serving = {name: await scene.states(name) for name in NAMES}
    assert serving["a"] == {
        "p": (1, "serving", ""),
        "p.on.a.c": (1, "serving", "p"),
        "p.alone.a": (1, "serving", "p"),
    }
    assert serving["c"] == {"p.on.a.c": (1, "serving", "p"), "p.on.c.b": (1, "serving", "p")}
    again = await deploy(scene.cluster, scene.full, scene.blobs)
    assert (again.epoch, again.changed) == (1, False)
    assert await undeploy(scene.cluster, scene.full) == {"a": [1], "b": [1]}
    assert [await scene.states(name) for name in NAMES] == [{}, {}, {}]


async def test_a_former_alternative_is_taken_down_and_a_lost_one_is_brought_up_again(scene: Scene):
    await deploy(scene.cluster, scene.full, scene.blobs)
    fewer = scene.with_alternatives(scene.without_b)
    assert (await deploy(scene.cluster, fewer, scene.blobs)).epoch == 2
    assert "p.on.c.b" not in await scene.states("c")
    assert "p.alone.a" not in await scene.states("a")
    await scene.nodes["c"].unload("p.on.a.c", 1)
    repaired = await deploy(scene.cluster, fewer, scene.blobs)
    assert (repaired.epoch, repaired.changed) == (2, True), "the plan itself is as it was"
    assert (await scene.states("c"))["p.on.a.c"] == (2, "serving", "p")


async def test_a_node_that_cannot_hold_an_alternative_refuses_all_of_it(scene: Scene, tmp_path: Path):
    await scene.stop("c")
    await scene.start("c", max_tensor_bytes=8)
    with pytest.raises(
        LimitExceeded, match=r"alternative 'p.on.a.c': .*--max-tensor-bytes; .*--no-alternatives"
    ):
        await deploy(scene.cluster, scene.full, scene.blobs)
    assert [await scene.states(name) for name in NAMES] == [{}, {}, {}]
    assert (await deploy(scene.cluster, scene.plan, scene.blobs)).epoch == 1


async def test_a_stage_that_does_not_load_on_a_node_of_an_alternative_leaves_nothing_behind(scene: Scene):
    await scene.stop("c")
    await scene.start("c", backend=functions(1, 2))
    with pytest.raises(Exception, match=r"alternative 'p.on.c.b': .*'c'"):
        await deploy(scene.cluster, scene.full, scene.blobs)
    assert [await scene.states(name) for name in NAMES] == [{}, {}, {}]


async def test_an_alternative_takes_no_other_plans_name(scene: Scene):
    other, blobs = chain("c", name="p.on.a.c")
    await deploy(scene.cluster, other, blobs)
    with pytest.raises(Conflict, match=r"node 'c' runs a plan named 'p.on.a.c'"):
        await deploy(scene.cluster, scene.full, scene.blobs)
    assert await scene.states("a") == {}


# --- requests -------------------------------------------------------------------------


async def lost(scene: Scene, name: str) -> None:
    await scene.stop(name)
    async with timeout(5):
        while scene.cluster.links.get(name) is not None:  # noqa: ASYNC110 - the link has no event
            await asyncio.sleep(0.01)


async def test_requests_go_down_the_ladder_and_back_up(scene: Scene):
    await deploy(scene.cluster, scene.full, scene.blobs)
    local = LocalModel(lambda arrays: [expected(2, arrays[0])], (spec(0),), (spec(2),))
    client = await scene.cluster.follow(scene.full, credits=4, local=local)

    async def via() -> str:
        result = await client.run(INPUT, 5.0)
        assert np.array_equal(result.outputs["t2"], expected(2))
        return result.via

    assert await via() == "primary"
    await lost(scene, "b")
    assert await via() == "alternative:p.on.a.c"
    await lost(scene, "c")
    assert await via() == "alternative:p.alone.a"
    await lost(scene, "a")
    assert await via() == "local"
    await scene.start(*NAMES)
    async with timeout(10):
        while await via() != "primary":
            pass
    await scene.cluster.unfollow(client)
    await local.close()


async def test_without_a_local_model_a_request_that_nobody_can_answer_says_so(scene: Scene):
    await deploy(scene.cluster, scene.full, scene.blobs)
    client = await scene.cluster.follow(scene.full, retry=RetryPolicy(patience_us=50_000))
    await lost(scene, "a")
    await lost(scene, "b")
    with pytest.raises(NodeLost, match="and its 3 alternatives: each needs a node that is lost"):
        await client.run(INPUT, 5.0)
    await scene.cluster.unfollow(client)


async def test_a_plan_whose_node_is_gone_is_opened_by_its_alternatives_and_used_when_it_is_back(scene: Scene):
    await deploy(scene.cluster, scene.full, scene.blobs)
    await lost(scene, "b")
    client = await scene.cluster.follow(scene.full, credits=2)
    assert client.granted == 2
    assert (await client.run(INPUT, 5.0)).via == "alternative:p.on.a.c"
    await scene.start("b")
    async with timeout(10):
        while (await client.run(INPUT, 5.0)).via != "primary":
            pass
    await scene.cluster.unfollow(client)


async def test_nothing_to_open_is_said_as_before(scene: Scene):
    await deploy(scene.cluster, scene.full, scene.blobs)
    for name in NAMES:
        await lost(scene, name)
    with pytest.raises(PeerUnreachable):
        await scene.cluster.follow(scene.full)


async def test_a_client_on_an_alternative_finds_the_plan_that_took_the_primarys_place(scene: Scene):
    await deploy(scene.cluster, scene.full, scene.blobs)
    client = await scene.cluster.follow(scene.full, credits=2)
    await lost(scene, "b")
    assert (await client.run(INPUT, 5.0)).via == "alternative:p.on.a.c"
    better, blobs = chain("c", "a")
    spare = scene.alternative("a", "a", name="p.alone.a", without=("c",))
    await deploy(scene.cluster, validate(better.replace(alternatives=(spare,))), blobs)
    async with timeout(10):
        while True:
            result = await client.run(INPUT, 5.0)
            if result.via == "primary":
                break
            await asyncio.sleep(0.02)
    assert (result.path, result.epoch) == (("c", "a"), 2)
    await scene.cluster.unfollow(client)


async def test_a_full_plan_is_refused_rather_than_run_on_its_alternatives(scene: Scene):
    await deploy(scene.cluster, scene.full, scene.blobs)
    client = await scene.cluster.follow(scene.full, credits=1, retry=RetryPolicy())
    results = await asyncio.gather(*(client.run(INPUT, 5.0) for _ in range(8)), return_exceptions=True)
    answered = [r for r in results if not isinstance(r, BaseException)]
    assert {result.via for result in answered} == {"primary"}
    assert {type(r) for r in results if isinstance(r, BaseException)} == {Overloaded}
    await scene.cluster.unfollow(client)


# --- reports --------------------------------------------------------------------------


async def test_what_a_node_answers_alone_is_reported_once_and_kept_by_whoever_asks(
    scene: Scene, tmp_path: Path
):
    await deploy(scene.cluster, scene.full, scene.blobs)
    client = await scene.cluster.follow(scene.full, credits=4)
    await lost(scene, "b")
    await lost(scene, "c")
    async with timeout(5):
        while scene.nodes["a"].state != "offline":  # noqa: ASYNC110 - a state, not an event
            await asyncio.sleep(0.01)
    for _ in range(3):
        assert (await client.run(INPUT, 5.0)).via == "alternative:p.alone.a"
    await scene.nodes["a"].reporter.close()
    seen = await fetch(scene.cluster, "a", None)
    assert [(r.plan, r.outcome, r.alone) for r in seen.reports] == [("p.alone.a", "ok", True)] * 3
    assert (seen.waiting, seen.dropped) == (3, 0)
    file = await asyncio.to_thread(ReportFile, tmp_path / "reports.jsonl")
    kept = await fetch(scene.cluster, "a", file)
    assert kept.reports == seen.reports
    assert kept.waiting == 0
    assert (await fetch(scene.cluster, "a", file)).reports == ()
    again = await asyncio.to_thread(ReportFile, tmp_path / "reports.jsonl")
    assert again.last("a") == seen.reports[-1].number
    await scene.cluster.unfollow(client)


async def test_a_controller_takes_reports_when_a_node_is_back(scene: Scene, tmp_path: Path):
    await deploy(scene.cluster, scene.full, scene.blobs)
    client = await scene.cluster.follow(scene.full)
    await lost(scene, "b")
    await lost(scene, "c")
    assert (await client.run(INPUT, 5.0)).via == "alternative:p.alone.a"
    await scene.cluster.unfollow(client)
    await lost(scene, "a")
    file = await asyncio.to_thread(ReportFile, tmp_path / "reports.jsonl")
    pulling = asyncio.ensure_future(ReportPull(scene.cluster, ["inproc://a"], file, 0.02).run())
    await scene.start("a")
    async with timeout(10):
        while not file.last("a") or scene.nodes["a"].reporter.waiting:  # noqa: ASYNC110 - another's task
            await asyncio.sleep(0.01)
    pulling.cancel()
    await asyncio.gather(pulling, return_exceptions=True)


def test_a_file_of_reports_takes_none_twice_and_goes_on_behind_a_torn_line(tmp_path: Path):
    def report(number: int, node: str = "a") -> Report:
        fields = {"plan": "p", "epoch": 1, "request": "00", "at_ms": 1, "compute_ms": 0.1}
        return Report(node=node, number=number, outcome="ok", digest="", alone=True, **fields)

    path = tmp_path / "reports.jsonl"
    file = ReportFile(path)
    file.add([report(1), report(2)])
    file.add([report(2), report(3), report(7, "b")])
    with open(path, "ab") as torn:
        torn.write(b'{"node": "a", "numb')
    again = ReportFile(path)
    assert (again.last("a"), again.last("b"), again.last("c")) == (3, 7, 0)
    again.add([report(3), report(4)])
    assert ReportFile(path).last("a") == 4
