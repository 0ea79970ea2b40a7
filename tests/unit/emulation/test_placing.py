"""Plans of a scenario for its model."""

from __future__ import annotations

import msgspec
import pytest

from collab.core.ids import NodeName
from collab.core.plan import NodeRef
from collab.core.profile import CutProfile, DeviceProfile, Profile
from collab.core.validate import validate
from collab.emulation.devices import Limits
from collab.emulation.placing import distrusted, limits_of, real_plan
from collab.emulation.plans import Field, placed_plans
from collab.emulation.scenario_check import check_scenario
from tests.integration.models import Reference
from tests.unit.emulation.scenarios import scenario


@pytest.fixture(scope="module")
def digits():
    return Reference.of("digits")


def profile_of(graph):
    device = DeviceProfile(
        name="slow", memory_bytes=10**9, op_ms=(1.0,) * graph.op_count, op_bytes=(1,) * graph.op_count
    )
    return Profile(
        model_sha256=graph.sha256,
        input_bytes=sum(spec.nbytes for spec in graph.inputs),
        output_bytes=sum(spec.nbytes for spec in graph.outputs),
        cuts=(CutProfile(at=10, bytes=4000), CutProfile(at=20, bytes=2000)),
        devices=(device, msgspec.structs.replace(device, name="fast", op_ms=(0.1,) * graph.op_count)),
        links=(),
    )


def made(digits, *plans, files=None, measured=None, **changes):
    given = scenario(plans=list(plans), **changes)
    field = Field(given, check_scenario(given), profile_of(digits.graph), measured, traces={})
    placed = placed_plans(field, files or {})
    refs = {NodeName(n): NodeRef(name=NodeName(n), endpoints=(f"grpc://{n}:1",)) for n in given.machines}
    real = [
        real_plan(one, choice, digits.path, digits.graph, refs, given.cluster.transport)
        for one, choice in zip(placed, given.plans, strict=True)
    ]
    return field, placed, [validate(plan) for plan in real]


def test_baselines_chains_and_replicas_become_plans_of_the_model(digits):
    chain = {"name": "two", "at": [10], "assign": ["a", "b+me"]}
    cluster = {"transport": "coap+tcp", "credits": 9}
    _, placed, (local, offload, two) = made(digits, "local", "offload", chain, cluster=cluster)
    assert [plan.name for plan in (local, offload, two)] == ["local", "offload", "two"]
    assert [stage.nodes for stage in local.stages] == [("me",)]
    assert [stage.nodes for stage in offload.stages] == [("a",)]
    assert [(s.ops, s.nodes) for s in two.stages] == [
        ((0, 10), ("a",)),
        ((10, digits.graph.op_count), ("b", "me")),
    ]
    assert two.inputs == digits.graph.inputs
    assert {edge.transport for edge in two.edges} == {"coap+tcp"}
    assert two.credits == 9
    assert two.endpoints()["a"] == ("grpc://a:1",)
    assert [s.id for s in two.stages] == [s.id for s in placed[2].plan.stages]


def test_an_ensemble_has_the_whole_model_on_each_member(digits):
    spec = {"name": "both", "ensemble": {"members": ["a", "b"], "node": "me", "quorum": 1, "wait_ms": 5}}
    _, _, (plan,) = made(digits, spec)
    assert {stage.nodes for stage in plan.stages} == {("a",), ("b",), ("me",)}
    assert {ref.name for ref in plan.nodes} == {"a", "b", "me"}


def test_a_plan_file_gets_the_addresses_of_the_emulated_nodes(digits):
    chain = {"name": "two", "at": [10], "assign": ["a", "b"]}
    _, _, (two,) = made(digits, chain)
    elsewhere = two.replace(
        nodes=tuple(NodeRef(name=ref.name, endpoints=("grpc://x:9",)) for ref in two.nodes)
    )
    _, _, (plan,) = made(digits, {"name": "again", "file": "p.yaml"}, files={"p.yaml": elsewhere})
    assert plan.name == "again"
    assert plan.endpoints() == two.endpoints()


def test_measured_hosts_are_planned_with_what_was_measured(digits):
    base = profile_of(digits.graph)
    measured = {
        NodeName(n): msgspec.structs.replace(base.devices[0], name=NodeName(n)) for n in ("me", "a", "b")
    }
    measured[NodeName("b")] = msgspec.structs.replace(base.devices[1], name=NodeName("b"))
    hosts = {"me": {}, "a": {"stretch": 50}, "b": {"stretch": 50}}
    _, placed, _ = made(digits, "offload", hosts=hosts, measured=measured)
    assert placed[0].plan.stages[0].nodes == ("b",)


def test_limits_are_those_of_hosts_that_have_some():
    given = scenario(hosts={"me": {}, "a": {"cpu": 0.5, "count": 2}, "b": {"memory_mb": 200}})
    assert limits_of(given.machines) == {
        "a-0": Limits(cpu=0.5),
        "a-1": Limits(cpu=0.5),
        "b": Limits(memory_bytes=200_000_000),
    }


def test_stages_too_short_for_a_quota_are_named(digits):
    hosts = {
        "me": {"device": "slow"},
        "a": {"device": "fast", "cpu": 0.5},
        "b": {"device": "slow", "cpu": 0.5},
    }
    plan = {"name": "two", "at": [20], "assign": ["a", "b"]}
    field, placed, _ = made(digits, plan, hosts=hosts)
    lines = distrusted(field, placed[0], limits_of(field.scenario.machines))
    assert len(lines) == 2
    assert lines[0].startswith("plan two on a: stage stage-0: 4 ms under a quota of 0.5 cores")
