"""What a node says of itself to those who scrape it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from collab.assembly import requester_metrics
from collab.client.control import Control
from collab.coordinator.deploy import deploy, undeploy
from collab.core.ids import REQUESTER, Attempt, EdgeId, Epoch, NodeName, PlanName, RequestId
from collab.core.token import Fault, Hop, Key, Kind, Token
from collab.errors import NodeLost, StageFailed
from collab.node import tally as tallies
from collab.node.actions import Computed, Work
from collab.node.limits import Counters
from collab.node.metrics import NodeMetrics
from collab.node.service import NodeService
from collab.node.tally import Tally
from collab.telemetry import catalogue as metrics
from collab.telemetry.catalogue import CLIENTS, OTHERS, Metric
from collab.transport.inproc import InprocTransport
from tests.unit.functions import X, chain, coordinator, node

PLAN = PlanName("p")


def work(stage: int = 0, plan: str = "p") -> Work:
    return Work(Key(PlanName(plan), Epoch(1), RequestId(b"r" * 16), Attempt(0)), stage)


def token(kind: Kind, edge: int, route: tuple[str, ...], fault: Fault | None = None) -> Token:
    hops = (Hop(0, NodeName("a"), 1, 2, 3, 4), Hop(1, NodeName("b"), 10, 20, 30, 40))
    return Token(
        *(work().key, EdgeId(edge), kind, NodeName("me"), tuple(map(NodeName, route)), 0),
        fault=fault,
        hops=hops,
    )


def test_runs_are_counted_by_part_and_stage():
    plan, _ = chain("a", "b")
    tally = Tally(NodeName("b"))
    done = Computed({}, frozenset(), Hop(1, NodeName("b"), 10, 20, 30, 40, 1000, 250))
    tally.computed(work(1), done, plan)
    tally.computed(work(1), Fault(StageFailed.code, "no"), plan)
    stage = tally.stages[PLAN, plan.stages[1].id]
    assert [part.counts.total_us for part in stage.parts] == [10, 20, 30, 40]
    assert (stage.raw_bytes, stage.sent_bytes, stage.failed) == (1000, 250, 1)


def test_only_what_answers_a_requester_and_was_made_here_is_an_answer():
    plan, _ = chain("a", "b")
    tally = Tally(NodeName("b"))
    last = len(plan.edges) - 1
    assert plan.edges[last].target == REQUESTER
    fault = Fault(NodeLost.code, "gone", "a", "stage-0")
    tally.sent(token(Kind.VALUE, last, ("a", "b")), plan)
    tally.sent(token(Kind.ERROR, last, ("a", "b"), fault), plan)
    tally.sent(token(Kind.ERROR, last, ("a", "b"), Fault("made_up", "x")), plan)
    before = dict(tally.plans[PLAN].outcomes)
    tally.sent(token(Kind.VALUE, 1, ("a", "b")), plan)  # on to the next stage
    tally.sent(token(Kind.CANCEL, last, ("a", "b")), plan)
    tally.sent(token(Kind.VALUE, last, ("a", "c")), plan)  # handed on for another node
    tally.sent(token(Kind.VALUE, last, ("a", "b")), None)
    assert tally.plans[PLAN].outcomes == before == {"ok": 1, "absent": 0, "failed": 2}
    assert tally.plans[PLAN].causes == {NodeLost.code: 1, OTHERS: 1}
    assert tally.plans[PLAN].seconds.counts.total_us == 110


def test_what_is_kept_is_bounded_and_goes_with_its_plan(monkeypatch):
    monkeypatch.setattr(tallies, "MAX_STAGES", 2)
    tally = Tally(NodeName("a"))
    done = Computed({}, frozenset(), Hop(0, NodeName("a"), 1, 1, 1, 1))
    for name in ("x", "y", "z"):
        plan, _ = chain("a", name=name)
        tally.computed(work(0, name), done, plan)
    assert [plan for plan, _ in tally.stages] == ["y", "z"]
    tally.unloaded(PlanName("z"))
    assert [plan for plan, _ in tally.stages] == ["y"]


def test_every_cause_of_a_refusal_is_a_counter_of_the_session():
    assert set(metrics.REFUSAL_CAUSES) <= set(Counters.__slots__)


@pytest.fixture
async def hub():
    return InprocTransport()


async def test_a_node_tells_of_its_plans_stages_links_and_credits(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("collab.node.control.resident_bytes", lambda: 0)
    plan, blobs = chain("a", "b")
    async with node("a", hub, tmp_path) as a, node("b", hub, tmp_path) as b, coordinator(hub) as cluster:
        await cluster.reach(["inproc://a", "inproc://b"])
        await deploy(cluster, plan, blobs)
        served = await asyncio.to_thread(requester_metrics, cluster, "0")
        client = await cluster.follow(plan, credits=2)
        await asyncio.gather(*(client.run({plan.inputs[0].name: X}) for _ in range(2)))
        assert cluster.metrics is not None
        asked = {(metric, labels): value for metric, labels, value in cluster.metrics.values()}
        async with served:
            assert served.url.startswith("http://127.0.0.1:")
        first, second = taken(a), taken(b)
        await undeploy(cluster, plan)
        after = taken(b)
    assert asked[metrics.CLIENT_REQUESTS, ("p", "ok", "primary")] == 2
    stages = [stage.id for stage in plan.stages]
    assert first[metrics.CREDITS]["p", "leased"] == 2
    assert metrics.CREDITS not in second, "attempts enter on a alone"
    assert metrics.REQUESTS not in first, "b answers"
    assert second[metrics.REQUESTS]["p", "ok"] == 2
    assert second[metrics.REQUEST_SECONDS]["p",].total_us > 0
    assert second[metrics.STAGE_SECONDS]["p", stages[1], "compute"].buckets != ()
    assert set(first[metrics.QUEUE]) == {("p", stages[0])}
    assert first[metrics.LINK_BYTES]["b", "inproc", "sent"] > 0
    assert first[metrics.LINK_BYTES][CLIENTS, "inproc", "received"] > 0
    assert first[metrics.LINK_UP]["b", "inproc"] == 1
    assert first[metrics.STATE] == {("serving",): 1, ("draining",): 0, ("offline",): 0}
    assert {labels[0] for labels in first[metrics.REFUSALS]} == set(metrics.REFUSAL_CAUSES)
    assert ("p", "1", "serving", plan.models[0].sha256, "") in first[metrics.PLAN_INFO]
    assert metrics.STAGE_SECONDS not in after
    assert metrics.QUEUE not in after


async def test_bytes_of_a_link_that_has_ended_are_kept(hub, tmp_path):
    async with node("a", hub, tmp_path) as a:
        async with node("b", hub, tmp_path, join=("inproc://a",)):
            await Control(await a.links.wait_for(NodeName("b"))).describe()
            before = taken(a)[metrics.LINK_BYTES]["b", "inproc", "received"]
        after = taken(a)
    assert after[metrics.LINK_BYTES]["b", "inproc", "received"] >= before > 0
    assert metrics.LINK_UP not in after


def taken(service: NodeService) -> dict[Metric, dict[tuple[str, ...], Any]]:
    found: dict[Metric, dict[tuple[str, ...], Any]] = {}
    for metric, labels, value in NodeMetrics(service).values():
        assert labels not in found.setdefault(metric, {}), (metric.name, labels)
        found[metric][labels] = value
    return found
