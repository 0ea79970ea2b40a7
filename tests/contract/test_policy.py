"""What every update policy promises (`collab.updates.policies.base`); a new one joins in `SUBJECTS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import pytest
from msgspec.structs import replace

from collab.assembly import policies
from collab.errors import ConfigError
from collab.updates.policies.base import UpdatePolicy
from collab.updates.policies.clauses import MAX_CLAUSES, Action
from collab.updates.policies.decide import Decision
from collab.updates.policies.memory import Held, Memory
from collab.updates.policies.state import Compared, DeviceState

NOW = 1_700_000_000.0
RULES = """
name: p
rules:
  - then: faster
    when: {kind: level, measure: confidence_drop, at_least: 0.2, until: 0.1, hold_s: 60}
  - then: rollback
    when: {kind: level, measure: confidence_drop, at_least: 0.4}
  - then: install
    when: {kind: is, flag: newer}
  - then: round
    when: {kind: level, measure: correction_share, at_least: 0.1}
  - then: check
    when: {kind: every, hours: 10}
"""


class Newest(UpdatePolicy):
    """A third party's: takes whatever is offered, and counts nothing."""

    name = "newest"
    digest = "newest-1"

    def _decide(self, state: DeviceState, memory: Memory, cannot: Mapping[Action, str]) -> Decision:
        newer = state.offered is not None and state.offered > state.running
        action: Action = "install" if newer else "check"
        if action in cannot:
            return Decision("wait", None, cannot[action], 1.0, None, (), memory)
        return Decision(action, 0, "newest", 1.0, None, (), memory)


def rules(tmp_path) -> UpdatePolicy:
    file = tmp_path / "policy.yaml"
    file.write_text(RULES)
    return policies()["rules"](file)


SUBJECTS: dict[str, Callable[..., UpdatePolicy]] = {
    "rules": rules,
    "a third party's": lambda tmp_path: Newest(),
}
STATES = [
    DeviceState(time_s=NOW),
    DeviceState(time_s=NOW, running=1, previous=0, offered=2, checked_s=NOW - 3600),
    DeviceState(time_s=NOW, running=2, previous=1, offered=2, checked_s=NOW - 90_000),
    DeviceState(
        time_s=NOW,
        running=2,
        previous=1,
        checked_s=NOW,
        confidence=Compared(baseline=0.9, now=0.4),
        answers=90,
    ),
    DeviceState(time_s=NOW, checked_s=NOW, answers=100, corrections=50),
]


@pytest.fixture(params=SUBJECTS)
def policy(request, tmp_path):
    return SUBJECTS[request.param](tmp_path)


@pytest.mark.parametrize("state", STATES)
def test_the_same_state_and_memory_give_the_same_decision(policy, state):
    first = policy.decide(state)
    assert policy.decide(state) == first
    assert first.action in get_args(Action)
    assert first.memory.policy == policy.digest
    assert first.again_s is None or first.again_s > state.time_s


@pytest.mark.parametrize("state", STATES)
def test_what_cannot_be_done_is_never_decided(policy, state):
    for _ in range(len(get_args(Action))):
        decided = policy.decide(state)
        cannot = {decided.action: "not now"} if decided.action != "wait" else {}
        assert policy.decide(state, cannot=cannot).action not in cannot
    everything = dict.fromkeys(set(get_args(Action)) - {"wait"}, "not now")
    assert policy.decide(state, cannot=everything).action == "wait"


def test_a_memory_of_another_policy_is_none(policy):
    strange = Memory(policy="another", held={"rules.0.when": Held(on=True)})
    for state in STATES:
        assert policy.decide(state, strange) == policy.decide(state)


def test_memory_goes_round_and_stays_bounded(policy):
    memory = Memory()
    for step in range(200):
        state = replace(STATES[step % len(STATES)], time_s=NOW + 60 * step)
        memory = policy.decide(state, memory).memory
        assert len(memory.held) <= MAX_CLAUSES


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda d: ZeroDivisionError("x / 0"), "ZeroDivisionError"),
        (lambda d: replace_action(d, "explode"), "'explode' is not known"),
        (lambda d: replace_action(d, "check"), "check cannot be done: not now"),
    ],
)
def test_a_policy_that_breaks_its_promise_is_named(wrong, says):
    class Broken(Newest):
        name = "broken"

        def _decide(self, state, memory, cannot):
            made = wrong(super()._decide(state, memory, {}))
            if isinstance(made, Exception):
                raise made
            return made

    with pytest.raises(ConfigError, match="policy 'broken' failed") as caught:
        Broken().decide(STATES[0], cannot={"check": "not now"})
    assert says in str(caught.value)


def replace_action(decision: Decision, action: str) -> Decision:
    import dataclasses

    return dataclasses.replace(decision, action=action)
