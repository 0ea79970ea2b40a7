"""The simulator against what can be worked out by hand, and against the planner."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from collab.core.ids import NodeName, StageId
from collab.core.plan import ModelRef, NodeRef, StageSpec
from collab.core.profile import CodecAt, CodecSpeed, CutProfile
from collab.core.tensor import TensorSpec
from collab.emulation.simulator import Inputs, prepare, simulate
from collab.emulation.summary import summarise
from collab.errors import ConfigError
from collab.planner.ensemble import Doubt, Member, cascade
from tests.unit.core.trees import SHA
from tests.unit.emulation.scenarios import PROFILE, WIRE, latencies, run, scenario

LOOPBACK = {"shape": "mesh", "profile": "loopback"}


def test_an_idle_chain_takes_its_stages_and_the_bits_on_its_links():
    results = run()
    # 5 ms and a microsecond a byte for each of three moves, 52 bytes around each packet of 1,448.
    moves_ms = 3 * 5 + (1000 + 52 + 4000 + 3 * 52 + 2000 + 2 * 52) / 1000
    assert latencies(results.askings) == pytest.approx([moves_ms + 2 + 6] * 3, abs=0.02)
    assert [hop.compute_ms for hop in results.askings[0].hops] == [2.0, 6.0]
    assert results.askings[0].path == ("a", "b")


def test_an_idle_chain_takes_what_the_planner_predicts():
    results = run(plans=["local", "offload", {"name": "two", "at": [2], "assign": ["a", "b"]}])
    for plan in results.plans:
        assert latencies(results.of(plan.name)) == pytest.approx([plan.predicted_ms] * 3, rel=0.01)


def test_a_plan_by_hand_packs_what_crosses_an_edge_as_it_says():
    speeds = (CodecSpeed(codec="raw+zstd", encode_mb_s=4.0, decode_mb_s=2.0),)
    profile = replace(
        PROFILE,
        cuts=(CutProfile(at=2, bytes=4000, codecs=(CodecAt(codec="raw+zstd", ratio=2.0),)),),
        devices=tuple(replace(device, codecs=speeds) for device in PROFILE.devices),
    )
    plan = {"name": "two", "at": [2], "assign": ["a", "b"]}
    plain = simulate(scenario(plans=[plan]), Inputs(profile))
    packed = simulate(scenario(plans=[plan | {"codecs": ["raw", "zstd", "raw"]}]), Inputs(profile))
    # Half of 4,000 bytes and a packet's 52 less at a microsecond each; 1 ms to encode, 2 ms to decode.
    saved_ms = plain.askings[0].latency_ms - packed.askings[0].latency_ms
    assert saved_ms == pytest.approx(2.052 - 3, abs=0.02)
    assert [(hop.decode_ms, hop.encode_ms) for hop in packed.askings[0].hops] == [(0, 1), (2, 0)]


def test_messages_cost_what_the_stack_costs():
    free, dear = run(), run(stack={"message_us": 300, "ns_per_byte": 1000, "header_bytes": 0})
    extra = 3 * 0.3 + (1000 + 4000 + 2000) / 1000
    assert dear.askings[0].latency_ms - free.askings[0].latency_ms == pytest.approx(extra, abs=0.01)


def test_waiting_before_a_stage_is_that_of_a_queue_with_poisson_arrivals():
    results = run(
        hosts={"me": {"device": "slow"}, "a": {"device": "fast"}},
        topology=LOOPBACK,
        plans=["local"],
        workload={"kind": "poisson", "rate": 50, "requests": 5_000, "warmup": 100},
    )
    waits = [asking.hops[0].queue_ms for asking in results.askings]
    # M/D/1 (Pollaczek and Khinchine): half the load in services of 10 ms.
    assert sum(waits) / len(waits) == pytest.approx(0.5 * 10 / (2 * 0.5), rel=0.06)


def test_a_pipeline_answers_as_often_as_its_slowest_stage_allows():
    results = run(
        topology=LOOPBACK, workload={"kind": "closed", "requests": 300, "concurrency": 4, "warmup": 20}
    )
    (plan,) = summarise(results)["plans"]
    assert plan["throughput_rps"] == pytest.approx(1000 / 6, rel=0.03)


def test_a_stage_runs_one_request_at_a_time_and_two_stages_of_a_host_share_its_cores():
    hosts = {"me": {"device": "slow"}, "a": {"device": "fast", "cores": 2}}
    load = {"kind": "closed", "requests": 300, "concurrency": 6, "warmup": 20}
    rates = []
    for cores, at, assign in ((2, [], ["a"]), (2, [2], ["a", "a"]), (1, [2], ["a", "a"])):
        hosts["a"]["cores"] = cores
        plan = {"name": "p", "at": at, "assign": assign}
        results = run(hosts=hosts, topology=LOOPBACK, plans=[plan], workload=load)
        rates.append(summarise(results)["plans"][0]["throughput_rps"])
    # Five operators of 1 ms, cut before the third.
    assert rates == pytest.approx([1000 / 5, 1000 / 3, 1000 / 5], rel=0.03)


def test_at_twice_the_capacity_what_is_late_is_refused_at_once_and_the_rest_is_answered():
    load = {"kind": "poisson", "rate": 2000 / 6, "duration_s": 8, "deadline_ms": 90, "warmup": 500}
    results = run(topology=LOOPBACK, workload=load)
    (plan,) = summarise(results)["plans"]
    assert plan["throughput_rps"] >= 0.9 * 1000 / 6
    refused = [asking.latency_ms for asking in results.askings if asking.outcome == "overloaded"]
    assert len(refused) > 0.4 * len(results.askings)
    assert sum(ms <= 20 for ms in refused) >= 0.98 * len(refused)
    assert plan["errors"].get("deadline", 0) < 0.05 * len(results.askings)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    changes = {
        "topology": {"shape": "star", "profile": {"profile": "lte", "up": {"loss": 0.02}}},
        "workload": {"kind": "poisson", "rate": 20, "requests": 60},
        "noise": 0.2,
    }
    first, again, other = (run(**changes, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert latencies(first.askings) != latencies(other.askings)


def test_a_quorum_answers_without_the_slowest_member():
    hosts: dict[str, dict] = {n: {"device": "fast"} for n in ("me", "a", "b")}
    hosts["c"] = {"device": "fast", "stretch": 100}
    ensemble = {"members": ["a", "b", "c"], "node": "me", "quorum": 2}
    plan = {"name": "vote", "ensemble": ensemble}
    results = run(hosts=hosts, topology=LOOPBACK, plans=[plan])
    assert all(asking.answered and asking.latency_ms < 20 for asking in results.askings)
    patient = {"name": "vote", "ensemble": ensemble | {"quorum": 3}}
    slow = run(hosts=hosts, topology=LOOPBACK, plans=[patient])
    assert all(asking.answered and asking.latency_ms > 400 for asking in slow.askings)


def test_a_cascade_hands_on_as_often_as_it_is_said_to():
    ins, outs = (TensorSpec("x", (1, 250), "float32"),), (TensorSpec("y", (1, 10), "float32"),)

    def member(node):
        stage = StageSpec(id=StageId("s"), nodes=(node,), inputs=ins, outputs=outs, ops=(0, 5), sha256=SHA)
        return Member(ModelRef(sha256=SHA, ops=5), (stage,), (), ins, outs)

    nodes = [NodeRef(name=NodeName(name)) for name in "ab"]
    plan = cascade("c", member("a"), member("b"), Doubt("max", 0.9), ("a",), nodes)
    found = scenario(
        plans=[{"name": "c", "file": "c.yaml", "escalated": 0.25}],
        workload={"kind": "closed", "requests": 200},
        topology=LOOPBACK,
    )
    results = simulate(found, Inputs(PROFILE, {"c.yaml": plan}))
    asked = sum(asking.latency_ms > 10 for asking in results.askings)
    assert asked / 200 == pytest.approx(0.25, abs=0.08)


REPLICAS = [{"name": "both", "at": [], "assign": ["a+b"]}]
STEADY = {"kind": "poisson", "rate": 120, "duration_s": 3}


@pytest.mark.parametrize(
    ("fault", "retried"),
    [
        ({"kill": "a", "at_s": 1, "for_s": 1}, True),
        ({"stop": "a", "at_s": 1, "for_s": 1}, True),
        ({"cut": ["me", "a"], "at_s": 1, "for_s": 1}, True),
        ({"kill": "me", "at_s": 1, "for_s": 1}, False),
    ],
    ids=["killed", "frozen", "cut off", "another host"],
)
def test_a_lost_replica_costs_a_retry_and_no_answer(fault, retried):
    results = run(plans=REPLICAS, workload=STEADY, faults=[fault])
    assert all(asking.answered for asking in results.askings)
    assert any(asking.attempts > 1 for asking in results.askings) == retried
    meanwhile = [a for a in results.askings if 1600 < a.start_ms < 1950]
    after = [a for a in results.askings if a.start_ms > 2500]
    if retried:
        assert {asking.path for asking in meanwhile} == {("b",)}
    assert ("a",) in {asking.path for asking in after}


def test_a_cut_between_two_nodes_that_the_client_reaches_costs_a_retry_and_no_deadline():
    results = run(
        hosts={"me": {"device": "slow"}, **{name: {"device": "fast"} for name in "abc"}},
        plans=[{"name": "p", "at": [2], "assign": ["a", "b+c"]}],
        workload={"kind": "poisson", "rate": 20, "duration_s": 8, "deadline_ms": 5000},
        faults=[{"cut": ["a", "b"], "at_s": 1, "for_s": 2}],
    )
    assert all(asking.answered for asking in results.askings)
    assert any(asking.attempts > 1 for asking in results.askings)
    assert max(asking.latency_ms for asking in results.askings if asking.start_ms < 2900) < 1000
    assert ("a", "b") in {asking.path for asking in results.askings if asking.start_ms > 5000}


def test_a_chain_without_replicas_fails_while_a_node_is_gone_and_says_so():
    results = run(workload=STEADY, faults=[{"kill": "b", "at_s": 1, "for_s": 1}])
    codes = {asking.outcome for asking in results.askings if not asking.answered}
    assert codes == {"node_lost"}
    assert all(asking.answered for asking in results.askings if asking.start_ms > 2500)


def test_a_link_that_changes_changes_what_requests_take():
    worse = {**WIRE, "up": {"delay_ms": 50}, "down": {"delay_ms": 50}}
    links = [{"from": "me", "to": "a", "profile": WIRE, "schedule": [{"at_s": 1, "profile": worse}]}]
    results = run(links=links, workload={"kind": "poisson", "rate": 10, "duration_s": 2})
    before = [a.latency_ms for a in results.askings if a.start_ms < 900]
    after = [a.latency_ms for a in results.askings if a.start_ms > 1000]
    assert min(after) - max(before) == pytest.approx(45, abs=15)
    assert [mark.text for mark in results.marks] == ["me – a: wire"]


def test_losses_cost_time_and_no_answer():
    lossy = {**WIRE, "up": {**WIRE["up"], "loss": 0.05}, "down": {**WIRE["down"], "loss": 0.05}}
    results = run(topology={"shape": "mesh", "profile": lossy}, workload={"kind": "closed", "requests": 300})
    assert all(asking.answered for asking in results.askings)
    (plan,) = summarise(results)["plans"]
    assert plan["latency_ms"]["p50"] < 40 < plan["latency_ms"]["p99"]
    assert sum(link["dropped"]["loss"] for link in plan["links"]) > 50


def test_a_broker_adds_its_own_way():
    direct = run()
    links = [{"from": host, "to": "hub", "profile": WIRE} for host in "ab"]
    links.append({"from": "me", "to": "hub", "profile": WIRE})
    hosts = {n: {"device": "fast"} for n in ("me", "a", "b", "hub")}
    brokered = run(hosts=hosts, topology=None, links=links, cluster={"transport": "mqtt", "broker": "hub"})
    assert brokered.askings[0].latency_ms > direct.askings[0].latency_ms + 3 * 5


def test_a_broker_may_be_on_the_host_of_a_node():
    hosts = {n: {"device": "fast"} for n in ("me", "a", "b")}
    for broker, moves in (("a", 4), ("me", 4), ("b", 4)):
        results = run(hosts=hosts, cluster={"transport": "mqtt", "broker": broker})
        # Of six ways to and from the broker two are within its host.
        assert latencies(results.askings) == pytest.approx([moves * 5 + 12 + 5] * 3, abs=6)


def test_messages_after_a_pause_cost_more_and_the_planner_knows_it():
    load = {"kind": "closed", "requests": 3, "think_ms": 100}
    plain = {"message_us": 500, "ns_per_byte": 0, "header_bytes": 0}
    quick, cold = (run(workload=load, stack=stack) for stack in (plain, plain | {"idle_us": 1000}))
    assert cold.askings[2].latency_ms - quick.askings[2].latency_ms == pytest.approx(3 * 1.0, rel=0.3)
    more = (cold.plans[0].predicted_ms or 0) - (quick.plans[0].predicted_ms or 0)
    assert more == pytest.approx(3 * 1.0)


def test_runs_spread_as_they_were_measured_unless_the_scenario_says_how():
    wide = ((0.0, 0.5), (0.5, 1.0), (0.9, 1.5), (1.0, 3.0))
    profile = replace(PROFILE, devices=tuple(replace(d, run_quantiles=wide) for d in PROFILE.devices))
    load = {"kind": "closed", "requests": 2_000}
    found = [
        sorted(asking.hops[0].compute_ms for asking in simulate(given, Inputs(profile)).askings)
        for given in (scenario(workload=load), scenario(workload=load, noise=0.0))
    ]
    assert [found[0][i] for i in (0, 1_000, 1_800)] == pytest.approx([1.0, 2.0, 3.0], rel=0.1)
    assert set(found[1]) == {2.0}


def test_hosts_of_a_group_cost_what_was_measured_on_each():
    devices = tuple(replace(PROFILE.devices[0], name=name) for name in ("me", "w-0", "w-1"))
    plan = {"name": "p", "at": [], "assign": ["w"]}
    given = scenario(hosts={"me": {}, "w": {"count": 2}}, plans=[plan])
    results = simulate(given, Inputs(replace(PROFILE, devices=devices)))
    assert {asking.path for asking in results.askings} <= {("w-0",), ("w-1",)}
    with pytest.raises(ConfigError, match=r"hosts\.w\.device: the profile has no device 'w'"):
        simulate(given, Inputs(replace(PROFILE, devices=devices[:2])))


def test_hosts_of_a_cell_share_its_rate_fairly_or_in_turn():
    for share in ("fair", "fifo"):
        cell = {"up_mbit_s": 1, "down_mbit_s": 100, "share": share}
        wide = {"name": "wide", "up": {"delay_ms": 1}, "down": {"delay_ms": 1}}
        results = run(
            topology={"shape": "star", "profile": wide, "cell": cell},
            workload={"kind": "closed", "requests": 100, "concurrency": 4, "warmup": 10},
        )
        (plan,) = summarise(results)["plans"]
        # Input, cut and answer all go up through the cell: 7,312 bytes with headers.
        assert plan["throughput_rps"] == pytest.approx(1e6 / 8 / 7312, rel=0.05)


def test_groups_can_be_replicas_and_many_hosts_are_only_assigned_by_hand():
    hosts = {"me": {"device": "fast"}, "edge": {"device": "fast", "count": 80}}
    topology = {"shape": "star", "profile": "ethernet"}
    results = run(
        hosts=hosts,
        topology=topology,
        plans=[{"name": "wide", "at": [], "assign": ["edge"]}],
        cluster={"credits": 200},
        workload={"kind": "bursts", "size": 50, "every_s": 1, "requests": 100},
    )
    assert len({asking.path for asking in results.askings}) > 30
    with pytest.raises(ConfigError, match="81 hosts are too many to choose from"):
        prepare(scenario(hosts=hosts, topology=topology, plans=[{"name": "best"}]), Inputs(PROFILE))
