"""Workloads dealt out to processes."""

from __future__ import annotations

from collab.emulation.arrivals import arrival_times
from collab.emulation.base import stream
from collab.emulation.scenario import Arrivals, Bursts, Closed, Poisson
from collab.emulation.turns import deal, expected_requests


def test_slots_of_a_closed_workload_are_shared_and_its_numbers_never_meet():
    load = Closed(requests=10, concurrency=5, think_ms=3)
    turns = deal(load, 2, 1)
    assert [one.slots for one in turns] == [3, 2]
    numbers = [set(range(one.first, one.requests or 0, one.step)) for one in turns]
    assert numbers[0] | numbers[1] == set(range(10))
    assert not numbers[0] & numbers[1]
    assert {one.think_ms for one in turns} == {3}
    assert expected_requests(load, turns) == 10


def test_with_fewer_slots_than_processes_the_last_ones_ask_nothing():
    turns = deal(Closed(duration_s=4, concurrency=1), 3, 1)
    assert [one.idle for one in turns] == [False, True, True]
    assert turns[0].step == 1
    assert turns[0].duration_s == 4
    assert expected_requests(Closed(duration_s=4), turns) is None


def test_bursts_and_traces_go_around():
    first, second = deal(Bursts(size=3, every_s=2, requests=5), 2, 1)
    assert first.at == ((0, 0), (2, 0), (4, 2_000_000))
    assert second.at == ((1, 0), (3, 2_000_000))
    assert (first.longest_pause_s, deal(Closed(requests=1, think_ms=5), 1, 1)[0].longest_pause_s) == (
        2,
        0.005,
    )
    (only,) = deal(Arrivals(at_s=(0.5, 1)), 1, 1)
    assert only.at == ((0, 500_000), (1, 1_000_000))


def test_chance_deals_the_times_that_the_simulator_has():
    load = Poisson(rate=100, requests=50)
    turns = deal(load, 3, 7)
    assert turns == deal(load, 3, 7)
    assert turns != deal(load, 3, 8)
    assert all(len(one.at) > 3 for one in turns)
    together = sorted(at for one in turns for at in one.at)
    assert [at_us for _, at_us in together] == list(arrival_times(load, stream(7, "arrivals")))
    assert expected_requests(load, turns) == 50
