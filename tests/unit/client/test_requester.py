"""One requester's rules: routes, credits, answers, failures, retries, time."""

from __future__ import annotations

from typing import Any

import pytest

from collab.client.actions import Answer, Resolve, Send
from collab.client.policy import RetryPolicy
from collab.client.requester import Requester
from collab.client.wiring import wire
from collab.core.plan import FireAny, FireQuorum, Plan
from collab.core.token import Fault, Hop, Key, Kind, Token
from collab.errors import InputError, NodeLost, Overloaded
from tests.unit.node.cases import only, sent
from tests.unit.node.plans import IN, chain, diamond, edge, ensemble, plan, stage

VALUE, ABSENT, ERROR, CANCEL, FAILED = Kind.VALUE, Kind.ABSENT, Kind.ERROR, Kind.CANCEL, Kind.FAILED
R, Q = b"r" * 16, b"q" * 16
LATER = 5_000_000
ABC = chain("a", "b", "c")
TWICE = RetryPolicy(max_attempts=2)


def bare(plan: Plan, retry: RetryPolicy = RetryPolicy(), name: Any = "r", epoch: Any = 1) -> Any:
    return Requester(name, plan, epoch, retry)


def requester(plan: Plan, retry: RetryPolicy = RetryPolicy(), lease: int = 64) -> Any:
    made = bare(plan, retry)
    made.leased(lease, LATER * 10)
    return made


def submit(r: Any, request: Any = R, now: int = 0, deadline: int = LATER) -> Any:
    return r.submit(request, {e: f"x{e}" for e in wire(r.plan).entry_edges}, now, deadline)


def answer(r: Any, like: Token, kind: Kind = VALUE, **more: Any) -> Token:
    more.setdefault("edge", wire(r.plan).output_edge)
    if kind is VALUE:
        more.setdefault("payload", "y")
    if kind in (ERROR, FAILED):
        more.setdefault("fault", Fault("stage_failed", "broke", "b", "s1"))
    key = Key(like.key.plan, like.key.epoch, like.key.request, more.pop("attempt", like.key.attempt))
    base = {"requester": "r", "route": like.route, "deadline_us": LATER, "key": key, "kind": kind}
    return Token(**{**base, **more})


def failed(r: Any, like: Token, code: str, node: str, stage_id: str = "", edge: int = 0) -> Token:
    return answer(r, like, FAILED, edge=edge, fault=Fault(code, "it failed", node, stage_id))


def resolved(actions: list) -> Any:
    return only([action.outcome for action in actions if isinstance(action, Resolve)])


# --- asking and answering ----------------------------------------------------------


def test_a_request_is_one_value_for_each_entry_edge_with_its_route():
    r = requester(ensemble())
    actions = submit(r)
    assert sent(actions) == [("a", 0, VALUE), ("b", 1, VALUE), ("c", 2, VALUE)]
    token = actions[1].token
    assert (token.payload, token.route, token.requester) == ("x1", ("a", "b", "c", "d"), "r")
    assert (token.key, token.deadline_us) == (Key("p", 1, R, 0), LATER)


def test_an_answer_resolves_the_request_with_its_path_and_hops():
    r = requester(ABC)
    token = only(submit(r)).token
    hops = (Hop(0, "a", 1, 2, 3, 4),)
    outcome = resolved(r.receive("c", answer(r, token, hops=hops), 10))
    assert outcome == Answer("y", hops, ("a", "b", "c"), 0)
    assert r.in_flight == 0


def test_an_absent_answer_is_an_answer_that_says_why():
    r = requester(ABC)
    token = only(submit(r)).token
    outcome = resolved(r.receive("c", answer(r, token, ABSENT, reason="guard"), 10))
    assert (outcome.payload, outcome.absent) == (None, "guard")


def test_an_error_answer_resolves_with_its_fault_and_frees_the_nodes():
    r = requester(ABC)
    token = only(submit(r)).token
    actions = r.receive("c", answer(r, token, ERROR), 10)
    assert resolved(actions).code == "stage_failed"
    assert sent(actions) == [("a", 0, CANCEL)]


def test_a_second_answer_is_dropped_and_counted():
    r = requester(ABC)
    token = only(submit(r)).token
    r.receive("c", answer(r, token), 10)
    assert r.receive("c", answer(r, token), 11) == []
    assert r.counters["late"] == 1


@pytest.mark.parametrize("peer", ["a", "b", "x", "r"])
def test_an_answer_comes_only_from_the_output_stages_node(peer):
    r = requester(ABC)
    token = only(submit(r)).token
    assert r.receive(peer, answer(r, token), 10) == []
    assert r.counters["forged"] == 1
    assert r.in_flight == 1


@pytest.mark.parametrize(
    "broken",
    [{"edge": 2}, {"requester": "q"}, {"route": ("a", "b", "x")}, {"kind": CANCEL}],
    ids=str,
)
def test_an_answer_that_contradicts_its_attempt_is_forged_or_ignored(broken):
    r = requester(ABC)
    token = only(submit(r)).token
    assert r.receive("c", answer(r, token, **{"kind": VALUE, **broken}), 10) == []
    assert r.in_flight == 1


@pytest.mark.parametrize("key", [{"epoch": 2}, {"plan": "q"}, {"request": Q}, {"attempt": 1}], ids=str)
def test_an_answer_of_another_epoch_request_or_attempt_is_not_taken(key):
    r = requester(ABC)
    token = only(submit(r)).token
    assert r.receive("c", answer(r, token, key=token.key._replace(**key)), 10) == []
    assert (r.in_flight, r.counters["late"]) == (1, 1)


def test_with_a_relay_the_answer_comes_from_its_last_hop():
    p = plan([stage("s", "a")], [edge(IN, "s", "x", "y"), edge("s", IN, "y", "x")])
    r = requester(p)
    send = only(submit(r))
    assert send.peer == "x"
    assert r.receive("a", answer(r, send.token), 0) == []
    assert isinstance(resolved(r.receive("x", answer(r, send.token), 0)), Answer)


def test_when_members_raced_the_losers_are_cancelled():
    r = requester(ensemble(FireAny()))
    token = submit(r)[0].token
    actions = r.receive("d", answer(r, token), 10)
    assert sent(actions) == [("a", 0, CANCEL), ("b", 1, CANCEL), ("c", 2, CANCEL)]


def test_after_an_absent_answer_the_nodes_are_told_since_some_may_still_be_at_it():
    r = requester(diamond())
    token = only(submit(r)).token
    assert sent(r.receive("d", answer(r, token, ABSENT, reason="guard"), 10)) == [("a", 0, CANCEL)]


def test_after_a_value_from_a_plan_without_races_nothing_more_is_sent():
    r = requester(diamond())
    token = only(submit(r)).token
    assert sent(r.receive("d", answer(r, token), 10)) == []


def test_the_payloads_are_those_of_the_entry_edges():
    with pytest.raises(InputError, match="give one for each of 0, 1, 2"):
        requester(ensemble()).submit(R, {0: "x"}, 0, LATER)


def test_an_id_is_used_once_at_a_time():
    r = requester(ABC)
    submit(r)
    with pytest.raises(InputError, match="in use"):
        submit(r)


# --- credits -------------------------------------------------------------------


def test_without_a_lease_nothing_is_submitted():
    r = bare(ABC)
    with pytest.raises(Overloaded, match="no credit is free"):
        submit(r)
    assert r.needs_renewal(0) == ("a",)
    assert r.in_flight == 0


def test_a_lease_bounds_what_is_under_way_and_credits_come_back():
    r = requester(ABC, lease=1)
    token = only(submit(r)).token
    assert r.available(0) == 0
    with pytest.raises(Overloaded):
        submit(r, Q)
    r.receive("c", answer(r, token), 1)
    assert r.available(1) == 1
    submit(r, Q)


def test_a_lease_expires_and_is_renewed_before():
    r = bare(ABC, RetryPolicy(renew_us=100))
    r.leased(4, 1000)
    assert (r.available(999), r.needs_renewal(899)) == (4, ())
    assert (r.available(1000), r.needs_renewal(900)) == (0, ("a",))


def test_a_smaller_lease_lets_what_is_under_way_finish():
    r = requester(ABC, lease=2)
    submit(r)
    token = only(submit(r, Q)).token
    r.leased(1, LATER)
    assert r.available(0) == 0
    r.receive("c", answer(r, token), 1)
    assert r.available(1) == 0


def test_each_entry_replica_has_its_own_lease():
    p = chain(("a", "b"), "c")
    r = bare(p)
    r.leased(1, LATER, "a")
    r.leased(2, LATER, "b")
    peers = [only(submit(r, bytes([i]) * 16)).peer for i in range(3)]
    assert sorted(peers) == ["a", "b", "b"]
    with pytest.raises(Overloaded):
        submit(r)


def test_requests_are_bounded():
    r = requester(ABC, RetryPolicy(max_requests=1))
    submit(r)
    with pytest.raises(Overloaded, match="under way"):
        submit(r, Q)


# --- routes --------------------------------------------------------------------


def test_replicas_take_turns():
    r = requester(chain("a", ("b", "c", "d")))
    routes = []
    for i in range(6):
        token = only(submit(r, bytes([i]) * 16)).token
        routes.append(token.route[1])
        r.receive(token.route[1], answer(r, token), 0)
    assert sorted(routes) == ["b", "b", "c", "c", "d", "d"]


def test_the_least_loaded_replica_is_taken():
    r = requester(chain("a", ("b", "c")))
    tokens = [only(submit(r, bytes([i]) * 16)).token for i in range(4)]
    assert sorted(t.route[1] for t in tokens) == ["b", "b", "c", "c"]
    for token in tokens:
        if token.route[1] == "b":
            r.receive("b", answer(r, token), 0)
    assert {only(submit(r, bytes([9 + i]) * 16)).token.route[1] for i in range(2)} == {"b"}


def test_lost_nodes_are_not_chosen_until_they_are_back():
    r = requester(chain("a", ("b", "c")))
    r.node_lost("b", 0)
    assert {only(submit(r, bytes([i]) * 16)).token.route[1] for i in range(4)} == {"c"}
    r.node_back("b")
    assert only(submit(r)).token.route[1] == "b"


def test_when_every_node_of_a_stage_is_lost_the_request_is_refused_by_name():
    r = requester(chain("a", ("b", "c")))
    r.node_lost("b", 0)
    r.node_lost("c", 0)
    with pytest.raises(NodeLost, match=r"stage 's1': of its nodes \(b, c\) none is left"):
        submit(r)
    assert r.available(0) == 64


def test_when_the_entry_is_lost_nothing_is_available():
    r = requester(ABC)
    r.node_lost("a", 0)
    assert r.available(0) == 0
    with pytest.raises(NodeLost, match="'s0'"):
        submit(r)


def test_when_a_relay_is_lost_the_request_is_refused():
    r = requester(plan([stage("s", "a")], [edge(IN, "s", "x"), edge("s", IN)]))
    r.node_lost("x", 0)
    with pytest.raises(NodeLost, match="relay"):
        submit(r)


def test_an_ensemble_is_asked_even_when_a_member_is_lost():
    r = requester(ensemble(FireQuorum(k=2)))
    r.node_lost("b", 0)
    assert len(submit(r)) == 3
    r.node_lost("c", 0)
    with pytest.raises(NodeLost):
        submit(r, Q)


# --- failures ------------------------------------------------------------------


def test_a_failure_resolves_the_request_and_frees_the_nodes():
    r = requester(ABC)
    token = only(submit(r)).token
    actions = r.receive("a", failed(r, token, "not_loaded", "b", "s1"), 5)
    assert (resolved(actions).code, sent(actions)) == ("not_loaded", [("a", 0, CANCEL)])


@pytest.mark.parametrize(("peer", "at"), [("c", 0), ("b", 0), ("a", 1), ("c", 3)])
def test_a_failure_is_taken_only_from_the_consumer_of_an_entry_edge(peer, at):
    r = requester(ABC)
    token = only(submit(r)).token
    assert r.receive(peer, failed(r, token, "not_loaded", "b", edge=at), 5) == []
    assert r.counters["forged"] == 1


def test_an_ensemble_goes_on_without_a_member_that_failed_until_too_many_have():
    r = requester(ensemble(FireQuorum(k=2)))
    token = submit(r)[0].token
    assert r.receive("b", failed(r, token, "node_lost", "b", "b", edge=1), 5) == []
    actions = r.receive("c", failed(r, token, "node_lost", "c", "c", edge=2), 6)
    assert resolved(actions).node == "c"


def test_an_attempt_that_the_entry_refuses_is_over_even_in_an_ensemble():
    r = requester(ensemble(FireAny()))
    token = submit(r)[0].token
    actions = r.receive("a", failed(r, token, "overloaded", "a", "a"), 5)
    assert resolved(actions).code == "overloaded"
    assert r.needs_renewal(0) == ("a",)
    r.leased(4, LATER * 10)
    assert r.needs_renewal(0) == ()


def test_a_token_that_cannot_be_sent_fails_the_request_naming_node_and_stage():
    r = requester(ABC)
    send = only(submit(r))
    fault = resolved(r.undeliverable(send.peer, send.token, 0))
    assert (fault.code, fault.node, fault.stage) == ("node_lost", "a", "s0")
    assert r.undeliverable(send.peer, send.token, 0) == []


# --- lost nodes ------------------------------------------------------------------


def test_after_a_node_is_lost_an_answer_may_still_come():
    r = requester(ABC, RetryPolicy(grace_us=1000))
    token = only(submit(r)).token
    assert r.node_lost("b", 100) == []
    assert r.tick(1000) == []
    assert isinstance(resolved(r.receive("c", answer(r, token), 1050)), Answer)
    assert r.next_wakeup_us() is None


def test_when_the_grace_is_over_the_request_fails_naming_the_node_and_its_stages():
    r = requester(chain("a", "b", "c", "b"), RetryPolicy(grace_us=1000))
    submit(r)
    r.node_lost("b", 100)
    assert r.next_wakeup_us() == 2000
    fault = resolved(r.tick(2000))
    assert (fault.code, fault.node, fault.stage) == ("node_lost", "b", "s1")
    assert "'b'" in fault.message
    assert "'s1', 's3'" in fault.message


def test_a_lost_relay_is_named_too():
    r = requester(plan([stage("s", "a")], [edge(IN, "s"), edge("s", IN, "x")]))
    submit(r)
    r.node_lost("x", 0)
    assert resolved(r.tick(251_000)).message == "node 'x' was lost while it held a relay of the request"


def test_nodes_that_are_not_on_the_way_do_not_matter():
    r = requester(chain("a", ("b", "c")))
    token = only(submit(r)).token
    r.node_lost({"b": "c", "c": "b"}[token.route[1]], 0)
    r.node_lost("z", 0)
    assert r.next_wakeup_us() == LATER


def test_a_lost_member_of_an_ensemble_does_not_end_the_request():
    r = requester(ensemble(FireAny()))
    submit(r)
    r.node_lost("c", 0)
    assert r.next_wakeup_us() == LATER
    r.node_lost("d", 0)
    assert r.next_wakeup_us() == 250_000


def test_a_broken_link_further_on_starts_the_grace():
    r = requester(ABC)
    token = only(submit(r)).token
    assert r.receive("a", failed(r, token, "link_lost", "b", "s1"), 0) == []
    assert resolved(r.tick(250_000)).code == "node_lost"


# --- retries -------------------------------------------------------------------


@pytest.mark.parametrize("code", ["node_lost", "overloaded", "not_loaded"])
def test_a_retryable_failure_starts_another_attempt_that_avoids_the_node(code):
    r = requester(chain("a", ("b", "c")), TWICE)
    token = only(submit(r)).token
    bad = token.route[1]
    actions = r.receive("a", failed(r, token, code, bad, "s1"), 5)
    assert sent(actions) == [("a", 0, CANCEL), ("a", 0, VALUE)]
    again = actions[1].token
    assert (again.key.attempt, again.payload, again.route[1]) == (1, "x0", {"b": "c", "c": "b"}[bad])
    assert r.available(5) == 63
    outcome = resolved(r.receive(again.route[1], answer(r, again), 9))
    assert outcome.attempt == 1
    assert r.available(9) == 64


def test_an_error_answer_may_be_retried_too():
    r = requester(chain("a", ("b", "c"), "d"), TWICE)
    token = only(submit(r)).token
    lost = Fault("node_lost", "gone", token.route[1], "s1")
    assert sent(r.receive("d", answer(r, token, ERROR, fault=lost), 5)) == [("a", 0, CANCEL), ("a", 0, VALUE)]


def test_a_stage_that_failed_is_not_tried_again():
    r = requester(chain("a", ("b", "c")), TWICE)
    token = only(submit(r)).token
    assert resolved(r.receive(token.route[1], answer(r, token, ERROR), 5)).code == "stage_failed"


def test_there_is_no_retry_without_another_node():
    r = requester(ABC, TWICE)
    token = only(submit(r)).token
    assert resolved(r.receive("a", failed(r, token, "node_lost", "b"), 5)).node == "b"


def test_there_are_no_more_attempts_than_allowed():
    r = requester(chain("a", ("b", "c", "d")), TWICE)
    token = only(submit(r)).token
    again = r.receive("a", failed(r, token, "node_lost", token.route[1]), 5)[1].token
    assert isinstance(resolved(r.receive("a", failed(r, again, "node_lost", again.route[1]), 6)), Fault)


def test_the_first_complete_attempt_is_delivered_even_if_it_was_given_up():
    r = requester(chain("a", ("b", "c")), TWICE)
    token = only(submit(r)).token
    cancel, value = r.node_lost(token.route[1], 0)
    assert (cancel.token.kind, value.token.kind, value.token.key.attempt) == (CANCEL, VALUE, 1)
    actions = r.receive(token.route[1], answer(r, token), 260_000)
    assert resolved(actions).attempt == 0
    assert [(a.token.kind, a.token.key.attempt) for a in actions if isinstance(a, Send)] == [(CANCEL, 1)]
    assert r.receive(value.token.route[1], answer(r, value.token), 270_000) == []
    assert r.available(0) == 64


def test_a_late_error_of_an_attempt_that_was_given_up_does_not_end_the_other():
    r = requester(chain("a", ("b", "c")), TWICE)
    token = only(submit(r)).token
    r.node_lost(token.route[1], 0)
    assert r.receive(token.route[1], answer(r, token, ERROR), 260_000) == []
    assert r.receive("a", failed(r, token, "node_lost", token.route[1]), 260_000) == []
    assert r.in_flight == 1


# --- time and withdrawal -----------------------------------------------------------


def test_at_the_deadline_the_request_fails_and_the_nodes_are_told():
    r = requester(ensemble())
    submit(r)
    assert r.next_wakeup_us() == LATER
    assert r.tick(LATER - 1) == []
    actions = r.tick(LATER)
    assert resolved(actions).code == "deadline"
    assert "within 5000 ms" in resolved(actions).message
    assert sent(actions) == [("a", 0, CANCEL), ("b", 1, CANCEL), ("c", 2, CANCEL)]
    assert (r.in_flight, r.available(0), r.next_wakeup_us()) == (0, 64, None)


def test_at_the_deadline_of_a_retry_the_first_fault_is_told():
    r = requester(chain("a", ("b", "c")), TWICE)
    token = only(submit(r)).token
    r.receive("a", failed(r, token, "node_lost", token.route[1]), 5)
    assert resolved(r.tick(LATER)).message.endswith("before that, it failed")


def test_a_request_without_time_fails_at_once():
    r = requester(ABC)
    assert resolved(submit(r, now=LATER)).code == "deadline"
    assert r.available(0) == 64


def test_a_withdrawn_request_is_cancelled_along_the_entry_edges():
    r = requester(diamond())
    submit(r)
    actions = r.cancel(R, 5)
    assert (resolved(actions).code, sent(actions)) == ("cancelled", [("a", 0, CANCEL)])
    assert r.cancel(R, 6) == []
