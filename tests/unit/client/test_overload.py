"""A requester under overload: what it refuses, what waits for a credit, and nodes that drain."""

from __future__ import annotations

from typing import Any

import pytest

from collab.client.actions import Answer
from collab.client.policy import RetryPolicy
from collab.core.token import Fault, Kind, Priority
from collab.errors import Overloaded
from tests.unit.client.test_attempts import PAIR, counters, values
from tests.unit.client.test_requester import ABC, LATER, answer, requester, resolved, submit
from tests.unit.node.cases import only
from tests.unit.node.plans import chain

ENTRIES = chain(("a", "b"), "c")
EACH_US = 10_000


def busy(retry: RetryPolicy = RetryPolicy()) -> Any:
    """A requester that has learned, and has ten requests under way; and the time."""
    r, now = requester(ABC, retry), 0
    for burst in range(20):
        tokens = [only(submit(r, bytes([burst, n]) * 8, now, now + LATER)).token for n in range(5)]
        for token in tokens:
            now += EACH_US
            r.receive("c", answer(r, token), now)
    for number in range(10):
        submit(r, bytes([number]) * 16, now, now + LATER)
    return r, now


def no_credit(r: Any, like: Any, granted: int) -> Any:
    fault = Fault("overloaded", "others need them", like.route[0], "s0", granted)
    return answer(r, like, Kind.FAILED, edge=0, fault=fault)


# --- deadlines -------------------------------------------------------------------


def test_a_request_whose_deadline_is_too_short_for_what_is_ahead_is_refused_and_leaves_no_trace():
    r, now = busy()
    with pytest.raises(Overloaded, match="10 requests are ahead"):
        submit(r, b"x" * 16, now, now + 60_000)
    assert (r.in_flight, counters(r)) == (10, {"hopeless": 1})
    only(submit(r, b"x" * 16, now, now + 400_000))


def test_a_higher_priority_is_begun_though_the_others_would_be_late_and_its_tokens_say_so():
    r, now = busy()
    payloads = {0: "x"}
    action = only(r.submit(b"x" * 16, payloads, now, now + 60_000, priority=Priority.HIGH))
    assert action.token.priority is Priority.HIGH


def test_nothing_is_refused_where_that_is_not_wanted():
    r, now = busy(RetryPolicy(refuse_hopeless=False))
    only(submit(r, b"x" * 16, now, now + 60_000))


# --- credits that went to others ---------------------------------------------------


def test_a_request_refused_because_others_need_credits_waits_for_one():
    r = requester(ABC, lease=2)
    first, second = (only(submit(r, bytes([i]) * 16)).token for i in range(2))
    assert values(r.receive("a", no_credit(r, second, 1), 10)) == []
    assert r.in_doubt
    assert r.short
    assert r.in_flight == 2
    (again,) = values(r.receive("c", answer(r, first), 20))
    assert (again.key.request, again.key.attempt) == (second.key.request, 1)
    assert isinstance(resolved(r.receive("c", answer(r, again), 30)), Answer)
    assert counters(r) == {"waited": 1, "retries": 1}


def test_as_many_requests_may_wait_as_were_once_promised_and_no_more():
    r = requester(ABC, lease=4)
    r.leased(1, LATER * 10)
    tokens = [only(submit(r, b"0" * 16)).token]
    for number in (1, 2, 3):
        assert submit(r, bytes([number]) * 16) == []
    with pytest.raises(Overloaded):
        submit(r, b"4" * 16)
    for _ in range(3):
        (token,) = values(r.receive("c", answer(r, tokens[-1]), 10))
        tokens.append(token)
    assert [t.key.request[0] for t in tokens[1:]] == [1, 2, 3]


def test_a_lease_that_gives_nothing_lets_nobody_wait():
    r = requester(ABC, lease=4)
    r.leased(0, LATER * 10)
    with pytest.raises(Overloaded):
        submit(r)
    assert r.short
    r.leased(1, LATER * 10)
    assert not r.short


# --- nodes that drain ----------------------------------------------------------------


def test_new_attempts_go_past_a_node_that_drains_and_old_ones_go_on():
    r = requester(PAIR)
    token = only(submit(r)).token
    leaving = token.route[1]
    r.node_draining(leaving, True)
    routes = {only(submit(r, bytes([i]) * 16)).token.route[1] for i in range(6)}
    assert leaving not in routes
    assert isinstance(resolved(r.receive(leaving, answer(r, token), 10)), Answer)
    r.node_draining(leaving, False)
    routes = {only(submit(r, bytes([i]) * 16)).token.route[1] for i in range(10, 16)}
    assert leaving in routes
    assert counters(r) == {}


def test_a_node_that_drains_and_has_no_replica_is_used_as_before():
    r = requester(ABC)
    r.node_draining("b", True)
    assert only(submit(r)).token.route == ("a", "b", "c")


def test_requests_wait_for_credits_of_the_entry_that_is_left():
    r = requester(ENTRIES, lease=2)
    tokens = [only(submit(r, bytes([i]) * 16)).token for i in range(2)]
    (leaving,) = {"a", "b"} - {"a"}
    r.node_draining(leaving, True)
    r.leased(0, LATER * 10, leaving)
    held = [t for t in tokens if t.route[0] == "a"]
    started = [a for i in range(2, 4) for a in submit(r, bytes([i]) * 16)]
    assert all(action.token.route[0] == "a" for action in started)
    assert len(held) + len(started) == 2
    (token,) = values(r.receive("c", answer(r, held[0]), 10)) or [started[0].token]
    assert token.route[0] == "a"
