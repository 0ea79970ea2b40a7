"""What two looks at nodes say together."""

from __future__ import annotations

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.watching import UNREACHABLE, Look, compare
from collab.telemetry.histogram import BOUNDS_US

NONE = [0] * (len(BOUNDS_US) + 1)


def buckets(**at: int) -> list[int]:
    """So many durations in the bucket under a bound: ``us1000=3``."""
    made = list(NONE)
    for name, count in at.items():
        made[BOUNDS_US.index(int(name.removeprefix("us")))] = count
    return made


def reply(ok: int = 0, failed: int = 0, counts: list[int] = NONE, **more: object) -> pb.StatusReply:
    fields: dict[str, object] = {"state": "serving", "uptime_ms": 5000, "bounds_us": BOUNDS_US, **more}
    return pb.StatusReply(
        plans=[
            pb.LoadedPlan(plan="p", epoch=2, digest="d" * 64, state="serving", stages=["s0"], in_flight=3)
        ],
        stages=[pb.StageLoad(plan="p", stage="s0", queued=4)],
        answers=[pb.PlanAnswers(plan="p", ok=ok, failed=failed, buckets=counts)],
        peers=[pb.Peer(name="b", kind="grpc", role="node", rtt_us=1500, sent_bytes=ok * 10)],
        **fields,
    )


def test_rates_and_latencies_are_those_between_the_looks():
    before = Look(10.0, {"a": reply(100, 5, buckets(us1000=100), cpu_us=1_000_000)})
    after = Look(
        12.0, {"a": reply(300, 6, buckets(us1000=200, us10000=100), cpu_us=2_000_000, uptime_ms=7000)}
    )
    view = compare(before, after)
    (plan,), (node,), (link,) = view.plans, view.nodes, view.links
    assert (plan.answers_s, plan.failures_s, plan.epochs, plan.in_flight) == (100.0, 0.5, (2,), 3)
    assert plan.stages == {"s0": ("a",)}
    assert plan.p50_ms == 1.0
    assert plan.p95_ms == 9.5
    assert (node.cpu, node.queued, node.in_flight, node.links) == (0.5, 4, 3, 1)
    assert (link.rtt_ms, link.sent_s) == (1.5, 1000.0)
    assert view.events == ()


def test_a_first_look_has_no_rates():
    view = compare(None, Look(12.0, {"a": reply(300, 6, buckets(us1000=300))}))
    assert view.plans[0].answers_s == view.nodes[0].cpu == view.links[0].sent_s == 0
    assert view.plans[0].p50_ms is None
    assert view.events == ()


def test_a_node_that_began_anew_counts_from_its_start():
    before = Look(10.0, {"a": reply(1000, counts=buckets(us1000=1000))})
    after = Look(11.0, {"a": reply(10, counts=buckets(us500=10), uptime_ms=100)})
    view = compare(before, after)
    assert view.plans[0].answers_s == 10
    assert view.plans[0].p50_ms is not None
    assert view.plans[0].p50_ms <= 0.5
    assert view.events == ("node a has restarted",)


def test_a_node_with_other_buckets_has_no_latencies():
    before = Look(10.0, {"a": reply(1, bounds_us=[1, 2], counts=[1, 0, 0])})
    after = Look(11.0, {"a": reply(9, bounds_us=[1, 2], counts=[9, 0, 0])})
    assert compare(before, after).plans[0].p50_ms is None


def test_what_goes_and_comes_is_an_event():
    here, gone = Look(1.0, {"a": reply()}), Look(2.0, {"a": None})
    assert compare(here, gone).events == ("node a does not answer",)
    assert compare(here, gone).nodes[0].state == UNREACHABLE
    assert compare(gone, Look(3.0, {"a": None})).events == ()
    assert compare(gone, here).events == ("node a is back",)
    bare = reply(state="offline")
    del bare.peers[:], bare.plans[:]
    assert compare(here, Look(2.0, {"a": bare})).events == (
        *("node a is offline, was serving", "node a: link with b over grpc is gone"),
        "node a: plan p epoch 2 has left",
    )
    assert "node a: plan p epoch 2 serves" in compare(Look(1.0, {"a": bare}), here).events


def loaded(**about: object) -> pb.LoadedPlan:
    fields: dict[str, object] = {"plan": "p", "epoch": 2, "state": "serving", "stages": ["s0"], **about}
    return pb.LoadedPlan(**fields)


def said(*plans: pb.LoadedPlan, **more: object) -> Look:
    return Look(float(more.pop("at", 1)), {"a": pb.StatusReply(state="serving", plans=plans, **more)})


def test_a_plan_tells_its_release_and_that_a_new_one_is_on_trial():
    here = said(
        loaded(epoch=1, state="retired", release="digits:1"), loaded(release="digits:2", trial="canary")
    )
    (plan,) = compare(None, here).plans
    assert (plan.release, plan.trial, plan.notes) == ("digits:2", "canary", ())


def test_an_alternative_that_answers_and_a_member_that_is_left_out_are_noted():
    alternative = loaded(primary="digits", fault="epoch 3: no model")

    def at(second: int, ok: int, left_out: int) -> Look:
        counters = [pb.Counter(name="quarantined:p/mean/m1", value=left_out)] if left_out else []
        answers = [pb.PlanAnswers(plan="p", ok=ok, buckets=NONE)]
        return said(alternative, at=second, counters=counters, answers=answers, bounds_us=BOUNDS_US)

    (quiet,) = compare(at(1, 7, 4), at(2, 7, 4)).plans
    assert quiet.notes == ("for digits", "epoch 3: no model")
    (busy,) = compare(at(1, 7, 0), at(2, 9, 4)).plans
    assert busy.notes == ("failover: answers for digits", "quarantine: mean/m1 out of 4", "epoch 3: no model")
    assert compare(None, at(1, 7, 4)).plans[0].notes[0] == "for digits"
