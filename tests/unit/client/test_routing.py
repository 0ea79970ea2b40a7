"""Which replicas are chosen."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from collab.client.routing import Router
from collab.client.standing import SHUN_US
from collab.client.wiring import wire
from collab.core.token import Hop
from collab.errors import NodeLost
from tests.unit.node.plans import chain

TWO = chain("a", ("b", "c"))
FOUR = chain("a", ("b", "c", "d", "e"))


def router(plan: Any, seed: int = 1) -> Any:
    return Router("r", wire(plan), Random(seed))


def pick(r: Any, now: int = 0, **more: Any) -> Any:
    return r.pick(lambda node: 1, now, **more)


def answered(r: Any, node: str, queue_us: int, compute_us: int, now: int = 0) -> None:
    way = next(w for w in (pick(r, now) for _ in range(50)) if w.route[1] == node)
    r.answered(way, (Hop(1, node, queue_us=queue_us, compute_us=compute_us),), now, now)


def test_idle_replicas_take_turns():
    r = router(FOUR)
    assert Counter(pick(r).route[1] for _ in range(40)) == dict.fromkeys("bcde", 10)


def test_the_same_seed_gives_the_same_choices():
    def choices(seed: int) -> list[str]:
        r = router(FOUR, seed)
        made = []
        for _ in range(60):
            way = pick(r)
            if way.route[1] in "bc":
                r.start(way)
            made.append(way.route[1])
        return made

    assert choices(3) == choices(3)
    assert choices(3) != choices(4)


def test_of_two_replicas_the_one_with_less_in_flight_is_chosen():
    r = router(TWO)
    first = pick(r)
    r.start(first)
    assert pick(r).route[1] != first.route[1]
    r.end(first)


def test_a_replica_that_reports_a_long_queue_is_passed_by_until_that_has_faded():
    r = router(TWO)
    answered(r, "b", 50_000, 1000)
    answered(r, "c", 0, 1000)
    assert {pick(r, 1).route[1] for _ in range(10)} == {"c"}
    later = 10_000_000
    assert {pick(r, later).route[1] for _ in range(10)} == {"b", "c"}


def test_a_quick_replica_gets_more_as_far_as_it_stays_quicker():
    r = router(TWO)
    answered(r, "b", 0, 1000)
    answered(r, "c", 0, 4000)
    load: Counter[str] = Counter()
    for _ in range(10):
        way = pick(r, 1)
        r.start(way)
        load[way.route[1]] += 1
    assert load == {"b": 8, "c": 2}


def test_hops_that_contradict_the_way_teach_nothing():
    r = router(TWO)
    way = pick(r)
    wrong = ("b", "c")[way.route[1] == "b"]
    r.answered(way, (Hop(1, wrong, 9), Hop(7, "b", 9), Hop(-1, "b", 9), Hop(0, "a", 9)), 0, 0)
    assert all(r.standing.wait_us(at, node, 0, 0) is None for at in (-1, 0, 1, 7) for node in "abc")


def test_shunned_nodes_are_taken_where_no_other_is_left_and_avoided_ones_are_not():
    r = router(TWO)
    assert {pick(r, shun={"b"}).route[1] for _ in range(6)} == {"c"}
    assert {pick(r, shun={"a", "b", "c"}).route[1] for _ in range(6)} == {"b", "c"}
    with pytest.raises(NodeLost):
        pick(r, avoid={"b", "c"})


def test_a_node_that_failed_is_passed_by_then_tried_once_then_used_again():
    r = router(TWO)
    r.standing.failed("b", 0)
    assert {pick(r, 1).route[1] for _ in range(6)} == {"c"}
    again = next(w for w in (pick(r, SHUN_US) for _ in range(6)) if w.route[1] == "b")
    r.start(again)
    assert {pick(r, SHUN_US).route[1] for _ in range(6)} == {"c"}
    r.end(again)
    r.answered(again, (), SHUN_US, SHUN_US + 10)
    assert {pick(r, SHUN_US + 20).route[1] for _ in range(6)} == {"b", "c"}


def test_nodes_that_were_beaten_are_passed_by():
    r = router(TWO)
    slow = next(w for w in (pick(r) for _ in range(6)) if w.route[1] == "b")
    quick = next(w for w in (pick(r) for _ in range(6)) if w.route[1] == "c")
    answered(r, "c", 0, 1000)
    r.beaten(slow, quick, 90_000, 0)
    assert {pick(r, 1).route[1] for _ in range(6)} == {"c"}
    assert r.standing.wait_us(0, "a", 0, 1) is None


def test_one_slow_replica_of_four_gets_a_small_share():
    """A closed loop of eight requests over servers of one worker each, on a simulated clock."""
    r, service_us = router(FOUR), {"b": 1000, "c": 1000, "d": 1000, "e": 20_000}
    free_at = dict.fromkeys(service_us, 0)
    under_way: list[tuple[int, int, Any, Hop]] = []
    share: Counter[str] = Counter()
    for number in range(2000):
        now = 0
        if number >= 8:
            under_way.sort(key=lambda entry: entry[0])
            now, started, way, hop = under_way.pop(0)
            r.end(way)
            r.answered(way, (hop,), started, now)
        way = pick(r, now)
        r.start(way)
        node = way.route[1]
        begin = max(now, free_at[node])
        free_at[node] = begin + service_us[node]
        hop = Hop(1, node, queue_us=begin - now, compute_us=service_us[node])
        under_way.append((free_at[node], now, way, hop))
        share[node] += 1
    assert 0 < share["e"] < 60
    assert min(share[node] for node in "bcd") > 500


def test_requesters_that_come_in_step_begin_at_different_replicas():
    first = Counter(pick(router(FOUR, seed)).route[1] for seed in range(400))
    assert set(first) == set("bcde")
    assert all(70 <= count <= 130 for count in first.values())
