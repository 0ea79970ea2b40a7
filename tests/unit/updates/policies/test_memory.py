"""Hysteresis: a measure that wavers does not make a policy waver."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import InputError
from collab.updates.policies.clauses import MAX_CLAUSES
from collab.updates.policies.decide import decide
from collab.updates.policies.memory import Held, Memory, digest_of, memory_of, turned
from collab.updates.policies.parse import policy_of
from collab.updates.policies.state import DeviceState

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def policy(**bounds):
    clause = {"kind": "level", "measure": "battery", **bounds}
    return policy_of({"name": "p", "rules": [{"then": "check", "when": clause}]})


def followed(rules, values, step_s=60.0):
    """Verdicts over values that come one by one."""
    memory, found = Memory(), []
    for at, value in enumerate(values):
        decision = decide(rules, DeviceState(time_s=1e9 + at * step_s, battery=value), memory)
        memory = decision.memory
        found.append(decision.action == "check")
    return found


def changes(found):
    return sum(a != b for a, b in itertools.pairwise(found))


@given(VALUES)
def test_nothing_changes_between_the_two_bounds(values):
    found = followed(policy(at_least=0.6, until=0.4), values)
    for (was, now), value in zip(itertools.pairwise(found), values[1:], strict=True):
        if 0.4 <= value < 0.6:
            assert was == now
        assert was == now or now == (value >= 0.6)


@given(VALUES)
def test_a_change_needs_the_whole_band_to_be_crossed(values):
    # Each change after the first state needs a pass from one bound to the other.
    sides = [value >= 0.6 for value in values if not 0.4 <= value < 0.6]
    assert changes(followed(policy(at_least=0.6, until=0.4), values)) <= changes(sides) + 1


@given(VALUES)
def test_most_and_least_mirror_each_other(values):
    low = followed(policy(at_least=0.6, until=0.4), values)
    high = followed(policy(at_most=-0.6 + 1, until=-0.4 + 1), [1 - value for value in values])
    near = any(min(abs(value - 0.6), abs(value - 0.4)) < 1e-9 for value in values)
    assert near or low == high


@given(VALUES, st.integers(1, 10))
def test_a_change_waits_until_it_has_lasted(values, periods):
    found = followed(policy(at_least=0.5, hold_s=60.0 * periods), values)
    for at in range(1, len(found)):
        if found[at] != found[at - 1]:
            assert all((value >= 0.5) == found[at] for value in values[at - periods : at + 1])
            assert at >= periods
    # Between two changes lie as many periods: it cannot flap faster than that.
    turns = [n for n in range(1, len(found)) if found[n] != found[n - 1]]
    assert all(b - a >= periods for a, b in itertools.pairwise(turns))


def test_a_lasting_change_comes_through_and_the_wait_is_said():
    rules = policy(at_least=0.5, hold_s=120)
    assert followed(rules, [0.9, 0.1, 0.1, 0.1, 0.1]) == [True, True, True, False, False]
    first = decide(rules, DeviceState(time_s=1e9, battery=0.9))
    waiting = decide(rules, DeviceState(time_s=1e9 + 60, battery=0.1), first.memory)
    assert "held true: changed for 0 s of 120 s" in waiting.why
    assert waiting.again_s == 1e9 + 180


def test_what_is_not_measured_for_a_while_keeps_its_state_but_not_its_wait():
    rules = policy(at_least=0.5, until=0.3, hold_s=120)
    assert followed(rules, [0.9, 0.1, None, 0.1, 0.1, 0.1, None, 0.4]) == [
        *(True, True, False, True, True),
        *(False, False, False),
    ]


@pytest.mark.parametrize("back_s", [1.0, 1e6])
def test_a_clock_that_is_put_back_starts_the_wait_anew(back_s):
    held = turned(Held(on=True), False, False, 1e9, 60)
    again = turned(held, False, False, 1e9 - back_s, 60)
    assert again == Held(on=True, turning_s=1e9 - back_s)
    assert turned(again, False, False, 1e9 - back_s + 60, 60) == Held(on=False)


def test_another_policy_does_not_inherit_what_one_remembers():
    rules, other = policy(at_least=0.6, until=0.4), policy(at_least=0.6, until=0.3)
    memory = decide(rules, DeviceState(time_s=0, battery=0.7)).memory
    assert decide(rules, DeviceState(time_s=1, battery=0.5), memory).action == "check"
    assert decide(other, DeviceState(time_s=1, battery=0.5), memory).action == "wait"
    assert digest_of(rules) != digest_of(other)


def test_a_memory_is_read_strictly_and_is_bounded():
    assert memory_of({"policy": "a", "held": {"x": {"on": True}}}).held["x"].on
    wrong: tuple[dict, ...] = (
        {"hold": {}},
        {"held": {"x": 1}},
        {"held": {str(n): {"on": True} for n in range(MAX_CLAUSES + 1)}},
    )
    for tree in wrong:
        with pytest.raises(InputError, match="memory"):
            memory_of(tree)
