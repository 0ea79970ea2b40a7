"""Further attempts of one requester: at once on a replica, paid for, hedged, and waiting for credits."""

from __future__ import annotations

from typing import Any

import pytest

from collab.client.actions import Answer, Resolve, Send
from collab.client.latency import ENOUGH
from collab.client.policy import PARK_US, RetryPolicy
from collab.core.plan import FireQuorum
from collab.core.token import Fault, Hop, Kind
from collab.errors import NodeLost, Overloaded
from tests.unit.client.test_requester import LATER, Q, R, answer, bare, failed, requester, resolved, submit
from tests.unit.node.cases import only, sent
from tests.unit.node.plans import chain, edge, plan, stage

VALUE, ERROR, CANCEL = Kind.VALUE, Kind.ERROR, Kind.CANCEL
PAIR = chain("a", ("b", "c"))
TRIO = chain("a", ("b", "c", "d"))
HEDGE = RetryPolicy(hedge=True)


def values(actions: list) -> list:
    return [a.token for a in actions if isinstance(a, Send) and a.token.kind is VALUE]


def other(node: str) -> str:
    return {"b": "c", "c": "b"}[node]


def counters(r: Any) -> dict[str, int]:
    return {name: count for name, count in r.counters.items() if count}


def warmed(retry: RetryPolicy = HEDGE, graph: Any = PAIR, latency_us: int = 10_000) -> Any:
    """A requester that has seen enough answers, and the time after them."""
    r, now = requester(graph, retry), 0
    for number in range(ENOUGH):
        token = only(submit(r, bytes([number]) * 16, now, now + LATER)).token
        now += latency_us
        r.receive(token.route[-1], answer(r, token), now)
    return r, now


# --- lost nodes ----------------------------------------------------------------


def test_by_default_a_lost_node_costs_a_retry_at_once_where_a_replica_is():
    r = requester(PAIR)
    token = only(submit(r)).token
    actions = r.node_lost(token.route[1], 100)
    assert sent(actions) == [("a", 0, CANCEL), ("a", 0, VALUE)]
    (again,) = values(actions)
    assert again.route[1] == other(token.route[1])
    outcome = resolved(r.receive(again.route[1], answer(r, again), 200))
    assert (outcome.attempt, outcome.attempts, outcome.hedged) == (1, 2, False)
    assert counters(r) == {"retries": 1}


def test_a_broken_link_further_on_costs_a_retry_at_once_too():
    r = requester(PAIR)
    token = only(submit(r)).token
    actions = r.receive("a", failed(r, token, "link_lost", token.route[1], "s1"), 5)
    assert only(values(actions)).route[1] == other(token.route[1])


def test_the_answer_of_an_attempt_that_was_replaced_counts_when_it_is_first():
    r = requester(PAIR)
    token = only(submit(r)).token
    (again,) = values(r.node_lost(token.route[1], 0))
    actions = r.receive(token.route[1], answer(r, token), 10)
    assert resolved(actions).path == token.route
    assert sent(actions) == [("a", 0, CANCEL)]
    assert r.receive(again.route[1], answer(r, again), 20) == []
    assert counters(r) == {"retries": 1, "late": 1}
    assert r.available(20) == 64


def test_without_a_replica_the_grace_is_waited_for():
    r = requester(chain("a", "b"))
    submit(r)
    assert r.node_lost("b", 0) == []
    assert resolved(r.tick(250_000)).code == "node_lost"


def test_a_replica_that_comes_back_within_the_grace_is_used():
    r = requester(PAIR)
    r.node_lost("c", 0)
    token = only(submit(r)).token
    assert r.node_lost("b", 0) == []
    r.node_back("c")
    (again,) = values(r.tick(250_000))
    assert (token.route[1], again.route[1]) == ("b", "c")


def test_a_request_whose_node_and_then_its_replica_fail_tries_the_first_again():
    r = requester(PAIR)
    token = only(submit(r)).token
    first = token.route[1]
    (second,) = values(r.receive("a", failed(r, token, "not_loaded", first, "s1"), 1))
    (third,) = values(r.receive("a", failed(r, second, "not_loaded", second.route[1], "s1"), 2))
    assert (second.route[1], third.route[1]) == (other(first), first)
    assert resolved(r.receive("a", failed(r, third, "not_loaded", first, "s1"), 3)).code == "not_loaded"


def test_a_replica_with_too_much_to_do_is_not_asked_again_and_is_not_taken_for_failing():
    r = requester(PAIR)
    token = only(submit(r)).token
    first = token.route[1]
    (second,) = values(r.receive("a", failed(r, token, "overloaded", first, "s1"), 1))
    assert second.route[1] == other(first)
    actions = r.receive("a", failed(r, second, "overloaded", other(first), "s1"), 2)
    assert not values(actions)
    assert resolved(actions).code == "deadline"
    routes = {only(submit(r, bytes([i]) * 16, now=3)).token.route[1] for i in range(6)}
    assert routes == {first, other(first)}


def test_a_third_replica_is_preferred_to_one_that_has_failed_the_request():
    r = requester(TRIO)
    token = only(submit(r)).token
    (second,) = values(r.receive("a", failed(r, token, "node_lost", token.route[1], "s1"), 1))
    (third,) = values(r.receive("a", failed(r, second, "node_lost", second.route[1], "s1"), 2))
    assert {t.route[1] for t in (token, second, third)} == {"b", "c", "d"}


def test_the_last_replica_is_tried_over_another_node_when_one_did_not_reach_it():
    r = requester(chain("a", ("b", "c"), ("d", "e")))
    r.node_lost("e", 0)
    token = only(submit(r)).token
    (again,) = values(r.receive("a", failed(r, token, "node_lost", "d", "s2"), 1))
    assert again.route == ("a", other(token.route[1]), "d")
    actions = r.receive("a", failed(r, again, "node_lost", "d", "s2"), 2)
    assert resolved(actions).code == "node_lost"


def test_an_overloaded_last_replica_is_not_tried_over_another_node():
    r = requester(chain("a", ("b", "c"), "d"))
    token = only(submit(r)).token
    actions = r.receive("a", failed(r, token, "overloaded", "d", "s2"), 1)
    assert resolved(actions).code == "deadline"


def test_what_the_requester_has_lost_itself_is_not_tried_over_another_node():
    r = requester(chain("a", ("b", "c"), "d"))
    token = only(submit(r)).token
    r.node_lost("d", 0)
    actions = r.receive("a", failed(r, token, "node_lost", "d", "s2"), 1)
    assert resolved(actions).code == "node_lost"


def test_a_node_that_failed_one_request_is_not_given_the_next():
    r = requester(PAIR)
    token = only(submit(r)).token
    r.receive("a", failed(r, token, "node_lost", token.route[1], "s1"), 1)
    routes = {only(submit(r, bytes([i]) * 16, now=2)).token.route[1] for i in range(6)}
    assert routes == {other(token.route[1])}


def test_a_fault_that_names_a_stranger_blames_nobody():
    r = requester(PAIR)
    token = only(submit(r)).token
    again = only(values(r.receive("a", failed(r, token, "node_lost", "z"), 1)))
    assert again.key.attempt == 1
    assert r._router.standing.flawless


def test_a_failed_ensemble_is_not_tried_again_with_the_members_that_it_lacked():
    members = [stage("s", "a"), stage("t", "b"), stage("u", "c", "d")]
    edges = [edge("@requester", s) for s in "stu"] + [edge(s, "v") for s in "stu"] + [edge("v", "@requester")]
    r = requester(plan([*members, stage("v", "e", fires=FireQuorum(k=2))], edges))
    token = submit(r)[0].token
    assert r.receive("b", failed(r, token, "node_lost", "b", "t", edge=1), 5) == []
    third = token.route[2]
    again = values(r.receive(third, failed(r, token, "node_lost", third, "u", edge=2), 6))
    assert {t.route[2] for t in again} == {{"c": "d", "d": "c"}[third]}


# --- the budget ----------------------------------------------------------------


def test_when_the_budget_is_empty_the_fault_is_passed_on():
    r = requester(PAIR, RetryPolicy(budget_burst=1, budget_floor_per_s=0, budget_ratio=0))
    tokens = [only(submit(r, bytes([i]) * 16)).token for i in range(2)]
    actions = [r.receive("a", failed(r, t, "node_lost", t.route[1], "s1"), 5) for t in tokens]
    assert len(values(actions[0])) == 1
    assert resolved(actions[1]).code == "node_lost"
    assert counters(r) == {"retries": 1, "unpaid": 1}


def test_without_a_budget_a_lost_node_has_its_grace():
    r = requester(PAIR, RetryPolicy(budget_burst=0, budget_floor_per_s=0, budget_ratio=0))
    token = only(submit(r)).token
    assert r.node_lost(token.route[1], 0) == []
    assert isinstance(resolved(r.receive(token.route[1], answer(r, token), 10)), Answer)


def test_requests_earn_attempts():
    r = requester(PAIR, RetryPolicy(budget_burst=1, budget_floor_per_s=0, budget_ratio=0.5))
    for number in range(6):
        token = only(submit(r, bytes([number]) * 16)).token
        r.receive("a", failed(r, token, "node_lost", token.route[1], "s1"), 5)
    assert r.counters["retries"] == 3


# --- hedges --------------------------------------------------------------------


def test_an_answer_later_than_usual_starts_an_attempt_on_the_other_replica():
    r, now = warmed()
    token = only(submit(r, R, now, now + LATER)).token
    assert r.next_wakeup_us() == now + 10_000
    assert r.tick(now + 9_999) == []
    (hedge,) = values(r.tick(now + 10_000))
    assert (hedge.key.attempt, hedge.route[1]) == (1, other(token.route[1]))
    actions = r.receive(hedge.route[1], answer(r, hedge), now + 15_000)
    outcome = resolved(actions)
    assert (outcome.attempts, outcome.hedged, outcome.path) == (2, True, hedge.route)
    assert [(a.token.kind, a.token.key.attempt) for a in actions if isinstance(a, Send)] == [(CANCEL, 0)]
    assert counters(r) == {"hedged": 1}


def test_nobody_hedges_who_has_not_asked_for_it():
    r, now = warmed(RetryPolicy())
    submit(r, R, now, now + LATER)
    assert r.next_wakeup_us() == now + LATER


def test_before_enough_answers_nothing_is_unusual():
    r = requester(PAIR, HEDGE)
    submit(r)
    assert r.next_wakeup_us() == LATER


def test_without_another_way_nothing_is_hedged():
    r, now = warmed(graph=chain("a", "b"))
    submit(r, R, now, now + LATER)
    assert r.tick(now + 100_000) == []
    assert counters(r) == {}


def test_a_request_is_hedged_once():
    r, now = warmed()
    submit(r, R, now, now + LATER)
    assert len(values(r.tick(now + 10_000))) == 1
    assert r.tick(now + 1_000_000) == []


def test_a_hedge_is_paid_for():
    r, now = warmed(RetryPolicy(hedge=True, budget_burst=0, budget_floor_per_s=0, budget_ratio=0))
    submit(r, R, now, now + LATER)
    assert r.tick(now + 10_000) == []
    assert counters(r) == {"unpaid": 1}


def test_a_hedge_needs_a_credit():
    r, now = warmed()
    r.leased(1, LATER * 10)
    submit(r, R, now, now + LATER)
    assert r.tick(now + 10_000) == []
    assert counters(r) == {}


def test_an_answer_in_time_leaves_no_timer():
    r, now = warmed()
    token = only(submit(r, R, now, now + LATER)).token
    r.receive(token.route[1], answer(r, token), now + 1)
    assert r.next_wakeup_us() is None


@pytest.mark.parametrize("first", [0, 1])
def test_while_one_of_two_attempts_lives_the_failure_of_the_other_ends_nothing(first):
    r, now = warmed()
    pair = [only(submit(r, R, now, now + LATER)).token, *values(r.tick(now + 10_000))]
    actions = r.receive("a", failed(r, pair[first], "node_lost", pair[first].route[1]), now + 10_001)
    assert [(a.token.kind, a.token.key.attempt) for a in actions] == [(CANCEL, first)]
    left = pair[1 - first]
    outcome = resolved(r.receive(left.route[1], answer(r, left), now + 10_002))
    assert outcome.path == left.route
    assert r.counters["retries"] == 0


def test_when_both_attempts_fail_a_third_is_made():
    r, now = warmed(graph=TRIO)
    pair = [only(submit(r, R, now, now + LATER)).token, *values(r.tick(now + 10_000))]
    r.receive("a", failed(r, pair[0], "node_lost", pair[0].route[1]), now + 10_001)
    (third,) = values(r.receive("a", failed(r, pair[1], "node_lost", pair[1].route[1]), now + 10_002))
    assert third.route[1] not in {t.route[1] for t in pair[1:]}
    assert third.key.attempt == 2


def test_a_hedged_attempt_whose_node_is_lost_has_its_grace_beside_the_other():
    r, now = warmed()
    pair = [only(submit(r, R, now, now + LATER)).token, *values(r.tick(now + 10_000))]
    assert r.node_lost(pair[0].route[1], now + 10_001) == []
    assert sent(r.tick(now + 261_000)) == [("a", 0, CANCEL)]
    assert r.in_flight == 1


def test_a_node_that_was_beaten_by_a_hedge_is_passed_by():
    r, now = warmed()
    token = only(submit(r, R, now, now + LATER)).token
    (hedge,) = values(r.tick(now + 10_000))
    hops = (Hop(1, hedge.route[1], compute_us=1000),)
    r.receive(hedge.route[1], answer(r, hedge, hops=hops), now + 15_000)
    routes = {only(submit(r, bytes([i]) * 16, now + 15_001, now + LATER)).token.route[1] for i in range(4)}
    assert routes == {other(token.route[1])}


def test_a_stage_that_breaks_in_one_attempt_may_still_be_answered_by_the_other():
    r, now = warmed()
    pair = [only(submit(r, R, now, now + LATER)).token, *values(r.tick(now + 10_000))]
    r.receive(pair[0].route[1], answer(r, pair[0], ERROR), now + 10_001)
    assert r.in_flight == 1
    assert resolved(r.receive(pair[1].route[1], answer(r, pair[1], ERROR), now + 10_002)).code == (
        "stage_failed"
    )


# --- waiting for credits --------------------------------------------------------


def entry_pair(retry: RetryPolicy = RetryPolicy()) -> Any:
    """Two entry nodes with a credit each, both taken; the token on each."""
    r = bare(chain(("a", "b"), "c"), retry)
    for node in "ab":
        r.leased(1, LATER * 10, node)
    tokens = {}
    for request in (R, Q):
        send = only(submit(r, request))
        tokens[send.peer] = send.token
    return r, tokens


def test_a_retry_waits_for_a_credit_of_the_entry_that_is_left():
    r, tokens = entry_pair()
    assert sent(r.node_lost("a", 10)) == [("a", 0, CANCEL)]
    assert r.next_wakeup_us() == 10 + PARK_US
    actions = r.receive("c", answer(r, tokens["b"]), 20)
    assert [type(a) for a in actions] == [Resolve, Send]
    (again,) = values(actions)
    assert (again.route, again.key.request) == (("b", "c"), tokens["a"].key.request)
    assert isinstance(resolved(r.receive("c", answer(r, again), 30)), Answer)
    assert counters(r) == {"retries": 1, "waited": 1}
    assert r.next_wakeup_us() is None


def test_a_request_that_waits_starts_when_a_lease_grows():
    r, _ = entry_pair()
    r.node_lost("a", 10)
    assert r.tick(10 + PARK_US) == []
    r.leased(2, LATER * 10, "b")
    assert only(values(r.tick(r.next_wakeup_us()))).route == ("b", "c")


def test_the_late_answer_of_an_attempt_ends_a_request_that_waits():
    r, tokens = entry_pair()
    r.node_lost("a", 10)
    assert isinstance(resolved(r.receive("c", answer(r, tokens["a"]), 20)), Answer)
    assert (r.in_flight, r.next_wakeup_us()) == (1, LATER)


def test_a_request_that_waits_ends_at_its_deadline_and_can_be_withdrawn():
    r, tokens = entry_pair()
    r.node_lost("a", 10)
    assert {a.outcome.code for a in r.tick(LATER) if isinstance(a, Resolve)} == {"deadline"}
    assert r.next_wakeup_us() is None
    r, tokens = entry_pair()
    r.node_lost("a", 10)
    assert resolved(r.cancel(tokens["a"].key.request, 11)).code == "cancelled"
    assert r.next_wakeup_us() == LATER


def test_new_requests_wait_for_as_many_credits_as_were_lost_and_no_more():
    r, tokens = entry_pair()
    r.node_lost("a", 10)
    r.receive("c", answer(r, tokens["b"]), 20)
    assert submit(r, b"1" * 16, 30) == []
    with pytest.raises(Overloaded):
        submit(r, b"2" * 16, 31)
    assert r.in_flight == 2


def test_without_a_lost_entry_a_request_without_a_credit_is_refused_at_once():
    r, _ = entry_pair()
    with pytest.raises(Overloaded):
        submit(r, b"1" * 16)


def test_a_request_that_waits_fails_when_the_last_entry_goes():
    r, _ = entry_pair()
    r.node_lost("a", 10)
    r.node_lost("b", 20)
    faults = [a.outcome for a in (*r.tick(PARK_US + 10), *r.tick(251_000)) if isinstance(a, Resolve)]
    assert {f.code for f in faults} <= {"node_lost"}
    assert all(isinstance(f, Fault) for f in faults)
    assert r.in_flight == 0
    with pytest.raises(NodeLost):
        submit(r, b"1" * 16, 300_000)


# --- doubts ----------------------------------------------------------------------


def test_an_entry_that_refuses_its_lease_is_in_doubt_until_it_is_asked_again():
    r = requester(chain(("a", "b"), "c"))
    token = only(submit(r)).token
    assert not r.in_doubt
    r.receive(token.route[0], failed(r, token, "overloaded", token.route[0], "s0"), 5)
    assert r.in_doubt
    r.node_lost(token.route[0], 6)
    assert not r.in_doubt
    r.node_back(token.route[0])
    r.leased(4, LATER, token.route[0])
    assert not r.in_doubt
