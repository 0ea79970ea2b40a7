"""How a plan's credits are shared out among those who ask for them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from collab.node.leases import TRIAL_US, Leases, fair

LEASE_US = 30_000_000
DEMANDS = st.dictionaries(st.sampled_from("pqrstuvw"), st.integers(0, 100), max_size=8)


def leases(credits: int = 64) -> Any:
    return Leases(credits, LEASE_US)


@given(DEMANDS, st.integers(0, 200))
def test_nobodys_share_can_grow_but_at_the_cost_of_one_that_is_not_larger(demands, credits):
    shares = fair(demands, credits)
    assert shares.keys() == demands.keys()
    assert all(0 <= shares[name] <= demands[name] for name in demands)
    assert sum(shares.values()) == min(credits, sum(demands.values()))
    for name, share in shares.items():
        if share < demands[name]:
            assert all(other <= share + 1 for other in shares.values())


@given(
    st.lists(
        st.tuples(
            st.sampled_from("pqrst"),
            st.sampled_from(["ask", "short", "release", "start", "start", "start", "end", "wait"]),
            st.integers(0, 80),
        ),
        max_size=60,
    ),
    st.integers(1, 64),
)
def test_what_is_granted_and_in_flight_together_keeps_to_the_rooms(steps, credits):
    made, now = leases(credits), 0
    in_flight: dict[str, int] = {}
    for name, what, number in steps:
        if what in ("ask", "short"):
            lease = made.ask(name, number, now, in_flight, short=what == "short")
            assert lease.granted <= min(number, credits)
            assert lease.granted == made.granted(name, now)
        elif what == "release":
            made.release(name)
        elif what == "start" and in_flight.get(name, 0) < made.granted(name, now):
            in_flight[name] = in_flight.get(name, 0) + 1
            made.used(name, in_flight[name], now)
        elif what == "end" and in_flight.get(name):
            in_flight[name] -= 1
        else:
            now += number * 20_000
        held = {one: max(made.granted(one, now), in_flight.get(one, 0)) for one in "pqrst"}
        assert sum(held.values()) <= 2 * credits
        assert sum(made.granted(one, now) for one in "pqrst") <= credits


def test_who_comes_second_gets_half_at_once_and_the_first_keeps_what_is_in_flight():
    made = leases(64)
    assert made.ask("p", 64, 0).granted == 64
    made.used("p", 64, 0)
    assert made.ask("q", 64, 10, {"p": 64}).granted == 32
    assert made.granted("p", 10) == 32


def test_rooms_that_are_still_taken_are_not_granted_again():
    made = leases(10)
    assert made.ask("p", 10, 0).granted == 10
    assert made.ask("q", 10, 0, {"p": 10}).granted == 5
    assert made.ask("r", 10, 0, {"p": 10, "q": 5}).granted == 3
    assert made.ask("s", 10, 0, {"p": 10, "q": 5, "r": 3}).granted == 2
    assert made.ask("t", 10, 0, {"p": 10, "q": 5, "r": 3, "s": 2}).granted == 0
    assert made.ask("t", 10, 0, {"p": 9, "q": 5, "r": 3, "s": 2}).granted == 1


def test_credits_that_are_not_used_go_to_who_needs_them_and_come_back_when_they_are_short():
    made = leases(64)
    made.ask("idle", 64, 0)
    made.ask("busy", 64, 0)
    made.used("busy", 32, TRIAL_US)
    assert made.ask("busy", 64, TRIAL_US, {"busy": 32}, short=True).granted == 63
    assert made.granted("idle", TRIAL_US) == 1
    later = TRIAL_US + 10
    assert made.ask("idle", 64, later, {"busy": 63, "idle": 1}, short=True).granted == 32
    assert made.granted("busy", later) == 32


def test_what_a_requester_used_is_remembered_for_a_while():
    made = leases(64)
    made.ask("p", 64, 0)
    made.ask("q", 64, 0)
    made.used("p", 10, TRIAL_US)
    assert made.ask("q", 64, TRIAL_US + 10, {}, short=True).granted == 64 - 21
    assert made.ask("q", 64, 3 * TRIAL_US, {}, short=True).granted == 63


def test_without_others_a_requester_keeps_all_that_it_wants():
    made = leases(64)
    made.ask("p", 64, 0)
    assert made.ask("p", 64, 10 * TRIAL_US).granted == 64
    assert made.ask("p", 0, 10 * TRIAL_US).granted == 0
    assert made.granted("p", 10 * TRIAL_US) == 0


def test_a_lease_that_is_not_renewed_ends():
    made = leases(4)
    made.ask("p", 4, 0)
    assert made.granted("p", LEASE_US - 1) == 4
    assert made.granted("p", LEASE_US) == 0
    assert made.ask("q", 4, LEASE_US, {"p": 4}).granted == 4
