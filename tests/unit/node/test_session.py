"""One node's rules for tokens: firing, settling, checking who may send what, giving up."""

from __future__ import annotations

from typing import Any

import pytest

from collab.core.plan import FireAny, FireQuorum
from collab.core.token import Fault, Hop, Kind, Priority
from collab.errors import NotLoaded
from collab.node.session import Compute, Computed, Drop, SessionLimits
from tests.unit.node.cases import LATER, bare, counted, only, result, sent, session, token
from tests.unit.node.plans import GUARD, IN, chain, diamond, edge, ensemble, plan, stage

VALUE, ABSENT, ERROR, CANCEL, FAILED = Kind.VALUE, Kind.ABSENT, Kind.ERROR, Kind.CANCEL, Kind.FAILED

ABC = chain("a", "b", "c")
"""Edges 0 to 3."""


# --- firing --------------------------------------------------------------------


def test_a_value_is_computed_and_the_result_goes_to_the_next_node():
    b = session("b", ABC)
    hop = Hop(0, "a", compute_us=5)
    compute = only(b.receive("a", token(ABC, 1, hops=(hop,), trace=b"t"), 10))
    assert isinstance(compute, Compute)
    assert (compute.plan, compute.epoch, compute.stage) == ("p", 1, 1)
    assert (compute.inputs, compute.out_edges, compute.deadline_us) == (((1, "on 1"),), (2,), LATER)
    send = only(b.computed(compute.work, result(compute, "b"), 20))
    assert (send.peer, send.token.edge, send.token.kind, send.token.payload) == ("c", 2, VALUE, "made for 2")
    assert send.token.hops == (hop, Hop(1, "b"))
    assert send.token.trace == b"t"
    assert send.token.route == ("a", "b", "c")
    assert send.token.deadline_us == LATER
    assert counted(b) == {}


def test_the_last_stage_answers_to_the_requester():
    c = session("c", ABC)
    compute = only(c.receive("b", token(ABC, 2), 0))
    assert sent(c.computed(compute.work, result(compute), 0)) == [("r", 3, VALUE)]


def test_tokens_between_stages_on_one_node_never_leave_it():
    p = chain("a", "a", "a", "b")
    a = session("a", p)
    compute = only(a.receive("r", token(p, 0), 0))
    for index in (1, 2):
        compute = only(a.computed(compute.work, result(compute, "a"), 0))
        assert isinstance(compute, Compute)
        assert compute.stage == index
    send = only(a.computed(compute.work, result(compute, "a"), 0))
    assert (send.peer, send.token.edge, [h.stage for h in send.token.hops]) == ("b", 3, [0, 1, 2])


def test_a_long_way_within_one_node_needs_no_recursion():
    p = chain(*["a"] * 256)
    a = session("a", p)
    compute = only(a.receive("r", token(p, 0), 0))
    send = only(a.computed(compute.work, Fault("stage_failed", "broke"), 0))
    assert (send.token.kind, send.token.fault.stage) == (ERROR, "s0")


def test_all_fires_when_every_edge_carries_a_value_in_edge_order():
    p = diamond()
    d = session("d", p)
    assert d.receive("c", token(p, 4), 0) == []
    compute = only(d.receive("b", token(p, 3), 0))
    assert compute.inputs == ((3, "on 3"), (4, "on 4"))


def test_the_hops_of_a_join_are_those_of_the_token_that_came_last():
    p = diamond()
    d = session("d", p)
    d.receive("c", token(p, 4, hops=(Hop(2, "c"),)), 0)
    compute = only(d.receive("b", token(p, 3, hops=(Hop(1, "b"),)), 0))
    send = only(d.computed(compute.work, result(compute, "d"), 0))
    assert [hop.node for hop in send.token.hops] == ["b", "d"]


def test_all_passes_an_error_on_at_once():
    p = diamond()
    d = session("d", p)
    send = only(d.receive("b", token(p, 3, ERROR), 0))
    assert (send.peer, send.token.kind, send.token.fault.node) == ("r", ERROR, "elsewhere")
    assert d.receive("c", token(p, 4), 0) == []
    assert counted(d) == {"late": 1}


def test_all_passes_an_absent_on_at_once_with_its_reason():
    p = diamond()
    d = session("d", p)
    send = only(d.receive("b", token(p, 3, ABSENT, reason="guard"), 0))
    assert (send.token.kind, send.token.reason) == (ABSENT, "guard")


def test_any_fires_on_the_first_value_and_drops_the_rest():
    p = ensemble(FireAny())
    d = session("d", p)
    compute = only(d.receive("b", token(p, 4), 0))
    assert compute.inputs == ((3, None), (4, "on 4"), (5, None))
    assert d.receive("a", token(p, 3), 0) == []
    assert sent(d.computed(compute.work, result(compute), 0)) == [("r", 6, VALUE)]
    assert d.receive("c", token(p, 5), 0) == []
    assert counted(d) == {"late": 2}


@pytest.mark.parametrize(
    ("kinds", "out"), [((ABSENT, ABSENT, ABSENT), ABSENT), ((ABSENT, ERROR, ABSENT), ERROR)]
)
def test_any_gives_up_when_no_value_can_come(kinds, out):
    p = ensemble(FireAny())
    d = session("d", p)
    actions = [d.receive(n, token(p, e, k), 0) for n, e, k in zip("abc", (3, 4, 5), kinds, strict=True)]
    assert actions[:2] == [[], []]
    assert sent(actions[2]) == [("r", 6, out)]


def test_a_quorum_without_patience_fires_with_the_kth_value():
    p = ensemble(FireQuorum(k=2))
    d = session("d", p)
    assert d.receive("a", token(p, 3), 0) == []
    assert only(d.receive("c", token(p, 5), 0)).inputs == ((3, "on 3"), (4, None), (5, "on 5"))


def test_a_patient_quorum_fires_as_soon_as_every_edge_is_settled():
    p = ensemble(FireQuorum(k=1, wait_ms=50))
    d = session("d", p)
    assert d.receive("a", token(p, 3), 0) == []
    assert d.receive("b", token(p, 4, ERROR), 0) == []
    assert isinstance(only(d.receive("c", token(p, 5, ABSENT), 0)), Compute)
    assert d.next_wakeup_us() == LATER


def test_a_patient_quorum_fires_when_its_patience_ends():
    p = ensemble(FireQuorum(k=2, wait_ms=50))
    d = session("d", p)
    d.receive("a", token(p, 3), 1000)
    assert d.receive("b", token(p, 4), 2000) == []
    assert d.next_wakeup_us() == 51_000
    assert d.tick(50_900) == []
    assert isinstance(only(d.tick(51_000)), Compute)


def test_after_its_patience_a_quorum_fires_with_the_value_that_makes_it_complete():
    p = ensemble(FireQuorum(k=2, wait_ms=50))
    d = session("d", p)
    d.receive("a", token(p, 3), 0)
    assert d.tick(50_000) == []
    assert d.next_wakeup_us() == LATER
    assert isinstance(only(d.receive("b", token(p, 4), 60_000)), Compute)


@pytest.mark.parametrize("kind", [ABSENT, ERROR])
def test_a_quorum_gives_up_as_soon_as_it_cannot_be_reached(kind):
    p = ensemble(FireQuorum(k=2))
    d = session("d", p)
    assert d.receive("a", token(p, 3, kind), 0) == []
    assert sent(d.receive("b", token(p, 4, kind), 0)) == [("r", 6, kind)]


def test_a_guard_that_says_no_makes_its_edge_absent():
    stages = [stage("s", "a"), stage("big", "b"), stage("out", "c", fires=FireAny())]
    edges = [
        edge(IN, "s"),
        edge("s", "big", guard=GUARD),
        edge("s", "out", guard=GUARD),
        edge("big", "out"),
        edge("out", IN),
    ]
    p = plan(stages, edges)
    a = session("a", p)
    compute = only(a.receive("r", token(p, 0), 0))
    actions = a.computed(compute.work, Computed({2: "sure"}, frozenset({1}), Hop(0, "a")), 0)
    assert sent(actions) == [("b", 1, ABSENT), ("c", 2, VALUE)]
    assert actions[0].token.reason == "guard"
    b = session("b", p)
    assert sent(b.receive("a", actions[0].token, 0)) == [("c", 3, ABSENT)]


def test_a_fault_goes_out_on_every_edge_naming_node_and_stage():
    p = diamond()
    a = session("a", p)
    compute = only(a.receive("r", token(p, 0), 0))
    actions = a.computed(compute.work, Fault("stage_failed", "out of memory"), 0)
    assert sent(actions) == [("b", 1, ERROR), ("c", 2, ERROR)]
    assert actions[0].token.fault == Fault("stage_failed", "out of memory", "a", "a")


def test_a_result_that_lacks_an_edge_is_the_stages_fault():
    p = diamond()
    a = session("a", p)
    compute = only(a.receive("r", token(p, 0), 0))
    actions = a.computed(compute.work, Computed({1: "x"}, frozenset(), Hop(0, "a")), 0)
    assert sent(actions) == [("b", 1, VALUE), ("c", 2, ERROR)]
    assert actions[1].token.fault.code == "stage_failed"


def test_an_error_that_loops_back_frees_a_join_on_the_same_node():
    stages = [stage("s0", "a"), stage("s1", "b"), stage("s2", "a")]
    p = plan(stages, [edge(IN, "s0"), edge("s0", "s1"), edge("s0", "s2"), edge("s1", "s2"), edge("s2", IN)])
    a = session("a", p)
    compute = only(a.receive("r", token(p, 0), 0))
    assert sent(a.computed(compute.work, Fault("stage_failed", "broke"), 0)) == [
        ("b", 1, ERROR),
        ("r", 4, ERROR),
    ]
    assert a.in_flight == 0


# --- duplicates and tombstones ---------------------------------------------------


def test_a_duplicate_of_a_waiting_token_is_dropped():
    p = diamond()
    d = session("d", p)
    d.receive("b", token(p, 3), 0)
    assert d.receive("b", token(p, 3, payload="other"), 0) == []
    assert only(d.receive("c", token(p, 4), 0)).inputs[0] == (3, "on 3")
    assert counted(d) == {"duplicates": 1}


def test_a_settled_stage_is_not_revived_by_a_duplicate():
    b = session("b", ABC)
    compute = only(b.receive("a", token(ABC, 1), 0))
    assert b.receive("a", token(ABC, 1), 0) == []
    b.computed(compute.work, result(compute), 0)
    assert b.receive("a", token(ABC, 1), 0) == []
    assert b.computed(compute.work, result(compute), 0) == []
    assert counted(b) == {"late": 3}
    assert (b.in_flight, b.tombstones) == (0, 1)


def test_tombstones_go_a_while_after_the_deadline():
    b = session("b", ABC)
    compute = only(b.receive("a", token(ABC, 1), 0))
    b.computed(compute.work, result(compute), 0)
    b.tick(LATER)
    assert b.tombstones == 1
    assert b.next_wakeup_us() == LATER + 1_000_000
    b.tick(LATER + 1_000_000)
    assert b.tombstones == 0
    assert b.next_wakeup_us() is None


def test_the_oldest_tombstone_makes_room_and_its_attempt_would_be_computed_again():
    b = session("b", ABC, limits=SessionLimits(tombstones=2))
    for i in range(3):
        compute = only(b.receive("a", token(ABC, 1, request=bytes([i]) * 16), 0))
        b.computed(compute.work, result(compute), 0)
    assert (b.tombstones, counted(b)) == (2, {"evicted": 1})
    assert b.receive("a", token(ABC, 1, request=bytes([2]) * 16), 0) == []
    assert isinstance(only(b.receive("a", token(ABC, 1, request=bytes([0]) * 16), 0)), Compute)


def test_attempts_of_one_request_do_not_meet():
    p = diamond()
    d = session("d", p)
    assert d.receive("b", token(p, 3), 0) == []
    assert d.receive("c", token(p, 4, attempt=1), 0) == []
    assert d.in_flight == 2


# --- who may send what ---------------------------------------------------------


@pytest.mark.parametrize("peer", ["r", "c", "b", "mallory"])
@pytest.mark.parametrize("kind", [VALUE, ABSENT, ERROR, CANCEL])
def test_a_token_is_taken_only_from_its_producer(peer, kind):
    b = session("b", ABC)
    assert b.receive(peer, token(ABC, 1, kind), 0) == []
    assert counted(b) == {"forged": 1}
    assert b.in_flight == b.tombstones == 0


@pytest.mark.parametrize("peer", ["r", "a", "mallory"])
def test_a_failure_is_taken_only_from_the_consumer(peer):
    b = session("b", ABC)
    assert b.receive(peer, token(ABC, 2, FAILED), 0) == []
    assert counted(b) == {"forged": 1}


def test_an_entry_edge_is_the_requesters_alone():
    a = session("a", ABC)
    assert a.receive("mallory", token(ABC, 0), 0) == []
    assert counted(a) == {"forged": 1}


def test_a_replica_that_the_route_does_not_name_is_not_the_producer():
    p = chain(("a", "x"), "b")
    b = session("b", p)
    assert b.receive("x", token(p, 1, route=("a", "b")), 0) == []
    assert counted(b) == {"forged": 1}
    assert isinstance(only(b.receive("x", token(p, 1, route=("x", "b")), 0)), Compute)


def test_tokens_of_one_attempt_must_agree_on_route_and_requester():
    p = diamond()
    d = session("d", p)
    d.receive("b", token(p, 3), 0)
    assert d.receive("c", token(p, 4, requester="q"), 0) == []
    assert d.receive("c", token(p, 4, route=("a", "b", "c", "x")), 0) == []
    assert counted(d) == {"forged": 2}


@pytest.mark.parametrize(
    "broken",
    [
        {"edge": 9},
        {"edge": -1},
        {"edge": 0},
        {"edge": 3},
        {"route": ("a", "b")},
        {"route": ("a", "b", "x")},
        {"route": ("b", "b", "c")},
        {"route": ()},
        {"hops": (Hop(0, "a"),) * 4},
    ],
    ids=str,
)
def test_a_malformed_token_is_answered_with_a_failure(broken):
    b = session("b", ABC)
    at = broken.pop("edge", 1)
    send = only(b.receive("a", token(ABC, at, **broken), 0))
    assert (send.peer, send.token.kind, send.token.edge) == ("a", FAILED, at)
    assert (send.token.fault.code, send.token.fault.node) == ("protocol", "b")
    assert counted(b) == {"malformed": 1}


@pytest.mark.parametrize("at", [9, -1, 0])
def test_an_answer_to_a_malformed_token_may_be_undeliverable(at):
    b = session("b", ABC)
    send = only(b.receive("a", token(ABC, at), 0))
    assert b.undeliverable(send.token, 0) == []


@pytest.mark.parametrize("kind", [CANCEL, FAILED])
def test_a_malformed_cancel_or_failure_is_not_answered(kind):
    b = session("b", ABC)
    assert b.receive("a", token(ABC, 1, kind, route=()), 0) == []
    assert counted(b) == {"malformed": 1}


@pytest.mark.parametrize("kind", [ERROR, FAILED])
def test_an_error_without_a_fault_is_malformed(kind):
    b = session("b", ABC)
    at, peer = (1, "a") if kind is ERROR else (2, "c")
    b.receive(peer, token(ABC, at, kind, fault=None), 0)
    assert counted(b) == {"malformed": 1}


def test_an_epoch_that_is_not_loaded_is_refused_by_name_saying_what_is():
    b = session("b", ABC, epoch=5)
    b.restore(chain("b", name="q"), 3, 0)
    send = only(b.receive("a", token(ABC, 1, epoch=4), 0))
    assert (send.peer, send.token.kind, send.token.fault.code) == ("a", FAILED, "not_loaded")
    assert "'p' epoch 4 is not loaded on node 'b'; epoch 5 is" in send.token.fault.message
    send = only(b.receive("a", token(chain("b", name="z"), 0), 0))
    assert "no epoch of it is" in send.token.fault.message
    assert b.receive("a", token(ABC, 1, CANCEL, epoch=4), 0) == []
    assert b.receive("c", token(ABC, 2, FAILED, epoch=4), 0) == []
    assert counted(b) == {"not_loaded": 4}


def test_a_client_may_have_a_nodes_name():
    a = session("a", ABC, lease=1)
    a.lease("p", 1, "a", 1, 0)
    compute = only(a.receive("a", token(ABC, 0, requester="a"), 0))
    assert sent(a.computed(compute.work, result(compute), 0)) == [("b", 1, VALUE)]
    c = session("c", ABC)
    compute = only(c.receive("b", token(ABC, 2, requester="c"), 0))
    assert sent(c.computed(compute.work, result(compute), 0)) == [("c", 3, VALUE)]


# --- relays --------------------------------------------------------------------

RELAYED = plan(
    [stage("s", "a"), stage("t", "b")], [edge(IN, "s", "x"), edge("s", "t", "x", "y"), edge("t", IN, "y")]
)


@pytest.mark.parametrize("kind", [VALUE, ABSENT, ERROR, CANCEL])
def test_a_relay_hands_tokens_on_without_remembering_them(kind):
    x = session("x", RELAYED)
    given = token(RELAYED, 1, kind, payload=object())
    send = only(x.receive("a", given, 0))
    assert send.peer == "y"
    assert send.token is given
    assert (x.in_flight, x.tombstones) == (0, 0)


def test_a_relay_hands_failures_back():
    y = session("y", RELAYED)
    assert sent(y.receive("b", token(RELAYED, 1, FAILED), 0)) == [("x", 1, FAILED)]
    x = session("x", RELAYED)
    assert sent(x.receive("a", token(RELAYED, 0, FAILED), 0)) == [("r", 0, FAILED)]


def test_a_relay_takes_tokens_only_from_the_hop_before_it():
    y = session("y", RELAYED)
    assert y.receive("a", token(RELAYED, 1), 0) == []
    assert y.receive("a", token(RELAYED, 1, FAILED), 0) == []
    assert counted(y) == {"forged": 2}
    b = session("b", RELAYED)
    assert b.receive("a", token(RELAYED, 1), 0) == []
    assert counted(b) == {"forged": 1}
    assert isinstance(only(b.receive("y", token(RELAYED, 1), 0)), Compute)


def test_answers_leave_by_the_relay():
    b = session("b", RELAYED)
    compute = only(b.receive("y", token(RELAYED, 1), 0))
    assert sent(b.computed(compute.work, result(compute), 0)) == [("y", 2, VALUE)]


def test_a_relay_that_is_an_end_of_the_edge_is_skipped():
    p = plan(
        [stage("s", "a", "x"), stage("t", "b")], [edge(IN, "s"), edge("s", "t", "x", "b"), edge("t", IN)]
    )
    x = session("x", p)
    compute = only(x.receive("r", token(p, 0, route=("x", "b")), 0))
    assert sent(x.computed(compute.work, result(compute), 0)) == [("b", 1, VALUE)]


# --- cancels -------------------------------------------------------------------


def test_a_cancel_frees_the_join_and_follows_the_edges_once():
    p = diamond()
    b = session("b", p)
    compute = only(b.receive("a", token(p, 1), 0))
    actions = b.receive("a", token(p, 1, CANCEL), 0)
    assert sent(actions) == [("d", 3, CANCEL)]
    assert actions[0] == Drop(compute.work)
    assert b.computed(compute.work, result(compute), 0) == []
    assert b.receive("a", token(p, 1, CANCEL), 0) == []
    assert b.in_flight == 0
    assert counted(b) == {"cancelled": 1, "late": 1, "duplicates": 1}


def test_a_cancel_passes_through_a_stage_that_is_settled():
    b = session("b", ABC)
    compute = only(b.receive("a", token(ABC, 1), 0))
    b.computed(compute.work, result(compute), 0)
    assert sent(b.receive("a", token(ABC, 1, CANCEL), 0)) == [("c", 2, CANCEL)]


def test_a_cancel_that_comes_first_stops_what_follows():
    b = session("b", ABC)
    assert sent(b.receive("a", token(ABC, 1, CANCEL), 0)) == [("c", 2, CANCEL)]
    assert b.receive("a", token(ABC, 1), 0) == []
    assert counted(b) == {"late": 1}


def test_a_cancel_is_not_sent_to_the_requester():
    c = session("c", ABC)
    assert c.receive("b", token(ABC, 2, CANCEL), 0) == []


def test_a_cancel_follows_edges_within_the_node():
    p = chain("a", "a", "b")
    a = session("a", p)
    assert sent(a.receive("r", token(p, 0, CANCEL), 0)) == [("b", 2, CANCEL)]


def test_a_cancel_counts_even_when_the_deadline_has_passed():
    p = diamond()
    d = session("d", p)
    d.receive("b", token(p, 3), 0)
    assert d.receive("c", token(p, 4, CANCEL, deadline_us=1), 5) == []
    assert d.in_flight == 0


# --- failures going upstream -----------------------------------------------------


def test_a_failure_goes_back_by_the_lowest_in_edge_and_frees_the_joins():
    p = diamond()
    p = plan((*p.stages, stage("e", "e")), (*p.edges[:5], edge("d", "e"), edge("e", IN)))
    d = session("d", p)
    d.receive("b", token(p, 3), 0)
    compute = only(d.receive("c", token(p, 4), 0))
    d.computed(compute.work, result(compute), 0)
    lost = Fault("node_lost", "gone", "e", "e")
    send = only(d.receive("e", token(p, 5, FAILED, fault=lost), 0))
    assert (send.peer, send.token.edge, send.token.fault) == ("b", 3, lost)


def test_one_nodes_failure_goes_up_once_and_frees_what_the_attempt_holds():
    p = diamond()
    a = session("a", p)
    compute = only(a.receive("r", token(p, 0), 0))
    lost = Fault("node_lost", "gone", "d", "d")
    assert sent(a.receive("b", token(p, 1, FAILED, fault=lost), 0)) == [("r", 0, FAILED)]
    assert a.in_flight == 0
    assert a.receive("c", token(p, 2, FAILED, fault=lost), 0) == []
    assert a.computed(compute.work, result(compute), 0) == []
    assert counted(a) == {"cancelled": 1, "duplicates": 1, "late": 1}


def test_a_failure_passes_stages_of_the_same_node():
    p = chain("a", "a", "b")
    a = session("a", p)
    assert sent(a.receive("b", token(p, 2, FAILED), 0)) == [("r", 0, FAILED)]


def test_an_ensemble_goes_on_without_a_member():
    stages = [stage("s", "a"), stage("m", "b"), stage("n", "c"), stage("d", "a", fires=FireAny())]
    p = plan(
        stages, [edge(IN, "s"), edge("s", "m"), edge("s", "n"), edge("m", "d"), edge("n", "d"), edge("d", IN)]
    )
    a = session("a", p)
    compute = only(a.receive("r", token(p, 0), 0))
    a.computed(compute.work, result(compute), 0)
    lost = Fault("not_loaded", "gone", "b", "m")
    assert sent(a.receive("b", token(p, 1, FAILED, fault=lost), 0)) == [("r", 0, FAILED)]
    assert isinstance(only(a.receive("c", token(p, 4), 0)), Compute)


def test_a_broken_link_is_told_but_frees_nothing():
    p = diamond()
    a = session("a", p)
    compute = only(a.receive("r", token(p, 0), 0))
    broken = Fault("link_lost", "broke", "d", "d")
    assert sent(a.receive("b", token(p, 1, FAILED, fault=broken), 0)) == [("r", 0, FAILED)]
    assert sent(a.computed(compute.work, result(compute), 0))


def test_a_token_that_cannot_be_sent_becomes_a_failure_naming_its_consumer():
    b = session("b", ABC)
    compute = only(b.receive("a", token(ABC, 1), 0))
    send = only(b.computed(compute.work, result(compute), 0))
    failure = only(b.undeliverable(send.token, 0))
    assert (failure.peer, failure.token.edge, failure.token.kind) == ("a", 1, FAILED)
    assert (failure.token.fault.code, failure.token.fault.node, failure.token.fault.stage) == (
        "node_lost",
        "c",
        "s2",
    )
    assert b.undeliverable(send.token, 0) == []


def test_an_answer_that_cannot_be_sent_is_the_fault_of_its_sender():
    c = session("c", ABC)
    compute = only(c.receive("b", token(ABC, 2), 0))
    send = only(c.computed(compute.work, result(compute), 0))
    failure = only(c.undeliverable(send.token, 0))
    assert (failure.peer, failure.token.edge) == ("b", 2)
    assert (failure.token.fault.node, failure.token.fault.stage) == ("c", "s2")


def test_a_relay_that_cannot_reach_the_next_hop_says_so_to_the_one_before():
    x = session("x", RELAYED)
    send = only(x.receive("a", token(RELAYED, 1), 0))
    failure = only(x.undeliverable(send.token, 0))
    assert (failure.peer, failure.token.edge) == ("a", 1)
    assert (failure.token.fault.node, failure.token.fault.stage) == ("y", "t")


def test_a_failure_that_cannot_be_sent_tries_the_next_in_edge():
    p = diamond()
    d = session("d", p)
    assert sent(d.undeliverable(token(p, 3, FAILED), 0)) == [("c", 4, FAILED)]
    assert d.undeliverable(token(p, 4, FAILED), 0) == []


def test_a_cancel_that_cannot_be_sent_is_forgotten():
    b = session("b", ABC)
    assert b.undeliverable(token(ABC, 2, CANCEL), 0) == []
    assert b.undeliverable(token(ABC, 2, epoch=9), 0) == []
    assert b.undeliverable(token(ABC, 2, route=()), 0) == []
    assert counted(b) == {"undeliverable": 3}


# --- lost peers ------------------------------------------------------------------


def test_a_join_that_waits_for_a_lost_peer_is_freed_by_an_error():
    p = diamond()
    d = session("d", p)
    d.receive("b", token(p, 3), 0)
    send = only(d.peer_lost("c", 5))
    assert (send.peer, send.token.kind) == ("r", ERROR)
    assert (send.token.fault.code, send.token.fault.node, send.token.fault.stage) == ("node_lost", "c", "c")
    assert d.in_flight == 0
    assert d.peer_lost("c", 5) == []


def test_a_quorum_does_without_a_lost_member():
    p = ensemble(FireQuorum(k=2, wait_ms=500))
    d = session("d", p)
    d.receive("a", token(p, 3), 0)
    d.receive("b", token(p, 4), 0)
    assert isinstance(only(d.peer_lost("c", 5)), Compute)


def test_what_a_lost_peer_was_given_is_under_suspicion():
    b = session("b", ABC)
    compute = only(b.receive("a", token(ABC, 1), 0))
    assert b.peer_lost("c", 0) == []
    b.computed(compute.work, result(compute), 0)
    send = only(b.peer_lost("c", 0))
    assert (send.peer, send.token.kind, send.token.edge) == ("a", FAILED, 1)
    assert (send.token.fault.code, send.token.fault.node, send.token.fault.stage) == ("link_lost", "c", "s2")
    assert b.peer_lost("c", 0) == []


def test_of_what_a_silent_peer_was_given_the_requester_is_told_once_and_its_answer_still_counts():
    b = session("b", chain("a", "b", "c", "b"))
    p = chain("a", "b", "c", "b")
    compute = only(b.receive("a", token(p, 1), 0))
    assert b.peer_suspected("c", 0) == []
    b.computed(compute.work, result(compute), 0)
    send = only(b.peer_suspected("c", 0))
    assert (send.peer, send.token.kind, send.token.edge) == ("a", FAILED, 1)
    assert (send.token.fault.code, send.token.fault.node, send.token.fault.stage) == ("link_lost", "c", "s2")
    assert b.peer_suspected("c", 0) == []
    assert isinstance(only(b.receive("c", token(p, 3), 0)), Compute)


def test_a_silent_peer_that_owes_something_is_waited_for():
    p = diamond()
    d = session("d", p)
    d.receive("b", token(p, 3), 0)
    assert d.peer_suspected("c", 5) == []
    assert isinstance(only(d.receive("c", token(p, 4), 6)), Compute)


def test_what_is_sent_to_a_silent_peer_is_told_to_the_requester_at_once():
    b = session("b", ABC)
    compute = only(b.receive("a", token(ABC, 1), 0))
    send = only(b.computed(compute.work, result(compute), 0))
    told = only(b.doubtful(send.token))
    assert (told.peer, told.token.kind, told.token.edge) == ("a", FAILED, 1)
    assert (told.token.fault.code, told.token.fault.node) == ("link_lost", "c")
    assert b.doubtful(send.token) == []


def test_a_relay_tells_too_that_the_next_hop_is_silent():
    x = session("x", RELAYED)
    send = only(x.receive("a", token(RELAYED, 1), 0))
    told = only(x.doubtful(send.token))
    assert (told.peer, told.token.kind, told.token.edge) == ("a", FAILED, 1)
    assert (told.token.fault.code, told.token.fault.node) == ("link_lost", "y")


def test_nobody_is_told_that_the_requester_is_silent_or_that_a_cancel_is_in_doubt():
    c = session("c", ABC)
    compute = only(c.receive("b", token(ABC, 2), 0))
    send = only(c.computed(compute.work, result(compute), 0))
    assert c.doubtful(send.token) == []
    b = session("b", ABC)
    assert b.doubtful(token(ABC, 2, CANCEL)) == []
    assert b.doubtful(token(ABC, 2, epoch=9)) == []


def test_losing_a_peer_that_many_attempts_wait_for_keeps_the_bounds():
    p = diamond()
    d = session("d", p, limits=SessionLimits(tombstones=1))
    for i in range(4):
        d.receive("b", token(p, 3, request=bytes([i]) * 16), 0)
    compute = only(d.receive("c", token(p, 4, request=bytes([3]) * 16), 0))
    d.computed(compute.work, result(compute), 0)
    assert sent(d.peer_lost("c", 0)) == [("r", 5, ERROR)] * 3
    assert (d.in_flight, d.tombstones, counted(d)["evicted"]) == (0, 1, 3)


def test_a_stage_further_on_does_not_wait_for_a_lost_node_in_between():
    p = chain("a", "b", "a")
    a = session("a", p)
    compute = only(a.receive("r", token(p, 0), 0))
    a.computed(compute.work, result(compute), 0)
    assert sorted(sent(a.peer_lost("b", 0))) == sorted([("r", 0, FAILED), ("r", 3, ERROR)])


def test_a_lost_stranger_or_requester_changes_nothing_that_is_not_waiting_for_them():
    a = session("a", ABC)
    only(a.receive("r", token(ABC, 0), 0))
    assert a.peer_lost("c", 0) == []
    assert a.peer_lost("r", 0) == []
    assert a.in_flight == 1


# --- time ----------------------------------------------------------------------


def test_a_token_that_comes_too_late_is_an_error_downstream():
    b = session("b", ABC)
    send = only(b.receive("a", token(ABC, 1, deadline_us=50), 50))
    assert (send.peer, send.token.kind, send.token.fault.code) == ("c", ERROR, "deadline")
    assert (send.token.fault.node, send.token.fault.stage) == ("b", "s1")
    assert b.receive("a", token(ABC, 1, deadline_us=50), 60) == []
    assert counted(b) == {"expired": 1, "late": 1}
    b.tick(3_000_000)
    assert b.tombstones == 0


def test_an_error_that_comes_too_late_keeps_its_cause():
    b = session("b", ABC)
    send = only(b.receive("a", token(ABC, 1, ERROR, deadline_us=50), 50))
    assert send.token.fault.code == "stage_failed"


def test_a_join_expires_with_an_error():
    p = diamond()
    d = session("d", p)
    d.receive("b", token(p, 3), 0)
    assert d.next_wakeup_us() == LATER
    send = only(d.tick(LATER))
    assert (send.peer, send.token.kind, send.token.fault.code) == ("r", ERROR, "deadline")
    assert d.in_flight == 0
    assert d.receive("c", token(p, 4, deadline_us=LATER + 9), LATER) == []


def test_a_result_after_the_deadline_is_an_error():
    b = session("b", ABC)
    compute = only(b.receive("a", token(ABC, 1), 0))
    send = only(b.computed(compute.work, result(compute), LATER))
    assert (send.token.kind, send.token.fault.code) == (ERROR, "deadline")


def test_a_stage_that_still_computes_at_the_deadline_is_given_up():
    b = session("b", ABC)
    compute = only(b.receive("a", token(ABC, 1), 0))
    actions = b.tick(LATER)
    assert actions[0] == Drop(compute.work)
    assert sent(actions) == [("c", 2, ERROR)]
    assert b.computed(compute.work, result(compute), LATER) == []


def test_no_attempt_is_remembered_longer_than_the_budget_allows():
    b = session("b", ABC, limits=SessionLimits(budget_us=1_000_000))
    compute = only(b.receive("a", token(ABC, 1, deadline_us=10**15), 0))
    assert compute.deadline_us == 1_000_000
    b.tick(1_000_000)
    b.tick(2_000_000)
    assert b.next_wakeup_us() is None


# --- admission -------------------------------------------------------------------


def test_an_attempt_without_a_lease_is_refused_at_once():
    a = session("a", ABC)
    send = only(a.receive("q", token(ABC, 0, requester="q"), 0))
    assert (send.peer, send.token.kind, send.token.fault.code) == ("q", FAILED, "overloaded")
    assert (send.token.fault.node, send.token.fault.stage) == ("a", "s0")
    assert counted(a) == {"no_lease": 1}
    assert a.tombstones == 0


def test_an_expired_lease_admits_nothing():
    a = session("a", ABC, limits=SessionLimits(lease_us=1000))
    assert only(a.receive("r", token(ABC, 0), 1000)).token.kind is FAILED


def test_a_lease_bounds_what_is_in_flight_at_the_entry():
    a = session("a", ABC, lease=2)
    computes = [only(a.receive("r", token(ABC, 0, request=bytes([i]) * 16), 0)) for i in range(2)]
    assert only(a.receive("r", token(ABC, 0, request=b"3" * 16), 0)).token.fault.code == "overloaded"
    assert a.receive("r", token(ABC, 0, request=bytes([1]) * 16), 0) == []
    a.computed(computes[0].work, result(computes[0]), 0)
    assert isinstance(only(a.receive("r", token(ABC, 0, request=b"3" * 16), 0)), Compute)


def test_what_entered_elsewhere_does_not_use_up_the_lease():
    stages = [stage("s", "a", "x"), stage("t", "a")]
    p = plan(stages, [edge(IN, "s"), edge("s", "t"), edge("t", IN)])
    a = session("a", p, lease=1)
    only(a.receive("x", token(p, 1, route=("x", "a")), 0))
    assert isinstance(only(a.receive("r", token(p, 0, request=b"2" * 16), 0)), Compute)


def test_credits_are_leased_fairly_and_come_back():
    p = chain("a", credits=10)
    a = session("a", p, lease=6)
    assert a.lease("p", 1, "q", 8, 0).granted == 5
    assert a.lease("p", 1, "z", 1, 0).granted == 1
    assert a.lease("p", 1, "r", 2, 0).granted == 2
    assert a.lease("p", 1, "q", 8, 0).granted == 7
    a.release("p", 1, "r")
    assert a.lease("p", 1, "z", 5, 0).granted == 5
    expires = a.lease("p", 1, "q", 8, 5).expires_us
    assert expires == 5 + SessionLimits().lease_us
    assert a.lease("p", 1, "z", 99, expires).granted == 10


def test_a_refusal_for_lack_of_a_credit_says_how_many_there_are():
    p = chain("a", "b", credits=4)
    a = session("a", p, lease=4)
    for i in range(4):
        assert isinstance(only(a.receive("r", token(p, 0, request=bytes([i]) * 16), 0)), Compute)
    assert a.lease("p", 1, "q", 4, 0).granted == 2
    fault = only(a.receive("r", token(p, 0, request=b"5" * 16), 0)).token.fault
    assert (fault.code, fault.granted) == ("overloaded", 2)
    assert isinstance(only(a.receive("q", token(p, 0, request=b"q" * 16, requester="q"), 0)), Compute)


# --- work that cannot be done in time --------------------------------------------


def test_an_attempt_is_refused_where_its_entry_could_not_be_done_in_time():
    p = chain("a", "b")
    a = session("a", p, expected=lambda *of: 200_000)
    assert isinstance(only(a.receive("r", token(p, 0), 0)), Compute)
    send = only(a.receive("r", token(p, 0, request=b"s" * 16, deadline_us=150_000), 1_000))
    assert (send.peer, send.token.kind, send.token.fault.code) == ("r", FAILED, "overloaded")
    assert send.token.fault.granted is None
    assert "with its queue it would take 200 ms, and 149 ms" in send.token.fault.message
    assert (a.in_flight, counted(a)) == (1, {"hopeless": 1})


def test_a_later_stage_that_could_not_be_done_in_time_answers_with_an_error_on_its_edges():
    asked = []

    def expected(*of: Any) -> int:
        asked.append(of)
        return 200_000

    b = session("b", ABC, expected=expected)
    late = token(ABC, 1, deadline_us=150_000, priority=Priority.HIGH)
    send = only(b.receive("a", late, 0))
    assert (send.peer, send.token.edge, send.token.kind) == ("c", 2, ERROR)
    assert (send.token.fault.code, send.token.fault.node, send.token.fault.stage) == ("overloaded", "b", "s1")
    assert send.token.priority is Priority.HIGH
    assert asked == [("p", 1, 1, Priority.HIGH, "r")]
    assert (b.in_flight, counted(b)) == (0, {"hopeless": 1})


def test_replicas_of_the_entry_split_the_credits():
    p = chain(("a", "b", "c"), credits=8)
    granted = [session(n, p).lease("p", 1, "r", 99, 0).granted for n in "abc"]
    assert sum(granted) == 8
    assert min(granted) == 2
    assert session("b", chain(("a", "b"), credits=1)).lease("p", 1, "r", 9, 0).granted == 1


def test_an_attempt_that_was_there_before_its_entry_token_takes_a_credit_too():
    stages = [stage("s", "a"), stage("t", "a")]
    p = plan(stages, [edge(IN, "s"), edge(IN, "t"), edge("s", "t"), edge("t", IN)])
    a = session("a", p, lease=1)
    assert a.receive("r", token(p, 1), 0) == []
    only(a.receive("r", token(p, 0), 0))
    assert only(a.receive("r", token(p, 0, request=b"2" * 16), 0)).token.kind is FAILED


def test_a_lease_is_given_only_at_the_entry_of_a_committed_epoch():
    b = session("b", ABC)
    with pytest.raises(NotLoaded, match="entered on a, not on node 'b'"):
        b.lease("p", 1, "r", 1, 0)
    with pytest.raises(NotLoaded, match="epoch 2 is not loaded"):
        b.lease("p", 2, "r", 1, 0)
    a = bare("a")
    a.reserve(ABC, 1, "h", 0, None)
    a.prepare("p", 1, ABC.digest, "h", 0)
    with pytest.raises(NotLoaded, match="not loaded"):
        a.lease("p", 1, "r", 1, 0)


@pytest.mark.parametrize("how", ["drain", "retire"])
def test_a_draining_node_or_epoch_admits_nothing_and_finishes_what_it_has(how):
    a = session("a", ABC)
    compute = only(a.receive("r", token(ABC, 0), 0))
    if how == "drain":
        a.drain()
    else:
        a.retire("p", 1)
    send = only(a.receive("r", token(ABC, 0, request=b"2" * 16), 0))
    assert (send.token.kind, send.token.fault.code) == (FAILED, "not_loaded")
    assert ("draining" if how == "drain" else "retired") in send.token.fault.message
    assert a.lease("p", 1, "r", 5, 0).granted == 0
    assert sent(a.computed(compute.work, result(compute), 0)) == [("b", 1, VALUE)]


def test_a_draining_node_goes_on_in_the_middle_of_a_plan():
    b = session("b", ABC)
    b.drain()
    assert isinstance(only(b.receive("a", token(ABC, 1), 0)), Compute)


def test_rooms_of_a_plan_are_twice_its_credits_and_one_requester_gets_half():
    p = diamond(credits=2)
    d = session("d", p)
    for i in range(2):
        assert d.receive("b", token(p, 3, request=bytes([i]) * 16), 0) == []
    send = only(d.receive("b", token(p, 3, request=b"9" * 16), 0))
    assert (send.peer, send.token.kind, send.token.fault.code) == ("b", FAILED, "overloaded")
    for i in range(2):
        assert d.receive("b", token(p, 3, request=bytes([i + 5]) * 16, requester="q"), 0) == []
    assert only(d.receive("b", token(p, 3, request=b"8" * 16, requester="z"), 0)).token.kind is FAILED
    assert counted(d) == {"no_room": 2}


def test_a_join_that_has_begun_can_be_filled_when_every_room_is_taken():
    p = diamond(credits=1)
    d = session("d", p)
    d.receive("b", token(p, 3), 0)
    d.receive("b", token(p, 3, request=b"2" * 16, requester="q"), 0)
    assert isinstance(only(d.receive("c", token(p, 4), 0)), Compute)


@pytest.mark.parametrize(
    "limits", [SessionLimits(attempts=2), SessionLimits(attempts_per_requester=2)], ids=str
)
def test_hard_bounds_hold_over_all_plans(limits):
    p, q = diamond(), diamond(name="q")
    d = session("d", p, limits=limits)
    d.restore(q, 1, 0)
    assert d.receive("b", token(p, 3), 0) == []
    assert d.receive("b", token(q, 3), 0) == []
    send = only(d.receive("b", token(p, 3, request=b"2" * 16), 0))
    assert "limits.attempts" in send.token.fault.message


# --- epochs ----------------------------------------------------------------------


def test_epochs_live_side_by_side_and_never_meet():
    p = diamond()
    d = session("d", p)
    d.reserve(p.replace(credits=9), 2, "h", 0, d.current("p"))
    d.prepare("p", 2, p.replace(credits=9).digest, "h", 0)
    d.commit("p", 2, p.replace(credits=9).digest, "h", 0)
    assert d.receive("b", token(p, 3), 0) == []
    assert d.receive("c", token(p, 4, epoch=2), 0) == []
    assert d.in_flight == 2
    assert isinstance(only(d.receive("c", token(p, 4), 0)), Compute)


def test_unloading_fails_what_is_in_flight():
    p = diamond()
    d = session("d", p)
    d.receive("b", token(p, 3), 0)
    send, free = d.unload("p", 1, 0)
    assert (send.token.kind, send.token.fault.code, send.token.fault.node) == (ERROR, "not_loaded", "d")
    assert (free.plan, free.epoch) == ("p", 1)
    assert not d.loaded("p", 1)
    assert d.current("p") is None
    assert (d.in_flight, d.tombstones, d.next_wakeup_us()) == (0, 0, None)
    assert d.unload("p", 1, 0) == []


def test_what_is_loaded_can_be_listed():
    a = session("a", ABC)
    only(a.receive("r", token(ABC, 0), 0))
    info = only(a.plans())
    assert (info.plan, info.epoch, info.digest, info.state, info.in_flight) == (
        "p",
        1,
        ABC.digest,
        "serving",
        1,
    )
    assert [s.id for s in info.stages] == ["s0"]
    a.retire("p", 1)
    assert only(a.plans()).state == "retired"
