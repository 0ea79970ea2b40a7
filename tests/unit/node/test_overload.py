"""Twice the capacity of a chain, in virtual time: what is answered, what is refused, and for whom."""

from __future__ import annotations

import pytest

from collab.core.token import Priority
from tests.unit.node.overload import SERVICE_US, World

CAPACITY = 1e6 / SERVICE_US
DEADLINE_US = 5 * 3 * SERVICE_US
SECONDS = 8.0
LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH


def warm(world: World) -> World:
    world.run(2.0)
    world.forget()
    world.run(SECONDS)
    return world


@pytest.mark.parametrize("seed", [1, 2])
def test_at_twice_the_capacity_nine_tenths_of_it_are_answered_in_time_and_the_rest_is_refused_at_once(seed):
    world = World("r", seed=seed)
    world.ask("r", 2 * CAPACITY, DEADLINE_US)
    (client,) = warm(world).clients.values()
    assert client.count("answered") >= 0.9 * CAPACITY * SECONDS
    refused_us = [us for end, _, us in client.ends if end == "overloaded"]
    assert len(refused_us) >= 0.9 * CAPACITY * SECONDS
    assert sum(us <= 50_000 for us in refused_us) >= 0.99 * len(refused_us)
    assert client.share("deadline") < 0.02


def test_without_refusals_most_of_what_is_computed_comes_too_late():
    world = World("r", refuse=False)
    world.ask("r", 2 * CAPACITY, DEADLINE_US)
    (client,) = warm(world).clients.values()
    assert client.count("answered") < 0.6 * CAPACITY * SECONDS


def test_who_asks_four_times_as_much_takes_nothing_from_who_asks_less_than_a_half():
    world = World("gm")
    world.ask("g", 1.6 * CAPACITY, DEADLINE_US)
    world.ask("m", 0.4 * CAPACITY, DEADLINE_US)
    greedy, modest = warm(world).clients.values()
    assert modest.share("answered") >= 0.85
    assert greedy.count("answered") >= 0.8 * 0.6 * CAPACITY * SECONDS


def test_two_who_both_ask_too_much_get_half_each():
    world = World("gm")
    world.ask("g", 2.4 * CAPACITY, DEADLINE_US)
    world.ask("m", 0.8 * CAPACITY, DEADLINE_US)
    greedy, modest = (client.count("answered") for client in warm(world).clients.values())
    assert greedy + modest >= 0.85 * CAPACITY * SECONDS
    assert 0.7 <= modest / greedy <= 1.3


def test_of_three_classes_the_highest_is_answered_and_the_lowest_is_refused_first():
    world = World("r")
    world.ask("r", 2 * CAPACITY, DEADLINE_US, {HIGH: 0.15, NORMAL: 0.6, LOW: 0.25})
    (client,) = warm(world).clients.values()
    assert client.share("answered", HIGH) >= 0.99
    assert client.share("answered", NORMAL) > client.share("answered", LOW)
    assert client.count("answered") >= 0.85 * CAPACITY * SECONDS


def test_queues_are_as_long_as_deadlines_allow_and_never_longer_than_the_credits():
    world = World("r")
    world.ask("r", 4 * CAPACITY, DEADLINE_US)
    assert max(stage.most for stage in warm(world).stages.values()) <= DEADLINE_US / SERVICE_US
    world = World("rq", refuse=False, credits=16)
    for name in "rq":
        world.ask(name, 4 * CAPACITY, 10 * DEADLINE_US)
    assert max(stage.most for stage in warm(world).stages.values()) <= 32
