"""What a policy file or a state may not say is refused by its path."""

from __future__ import annotations

import pytest

from collab.errors import ConfigError, InputError
from collab.updates.policies.clauses import MAX_CLAUSES, MAX_DEPTH, MAX_RULES
from collab.updates.policies.parse import policy_of
from collab.updates.policies.state import state_of

ALWAYS = {"kind": "always"}


def rule(when, **more):
    return {"name": "p", "rules": [{"then": "check", "when": when, **more}]}


def nested(depth):
    clause = ALWAYS
    for _ in range(depth - 1):
        clause = {"kind": "not", "of": clause}
    return clause


LEVEL = {"kind": "level", "measure": "battery"}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (None, "policy: Expected `object`"),
        ({"name": "p"}, "missing required field `rules`"),
        ({"name": "p", "rules": []}, "rules: 0 rules"),
        ({"name": "p", "rules": [{"then": "check", "when": ALWAYS}] * (MAX_RULES + 1)}, "rules: 33 rules"),
        ({"name": "p", "rules": [], "more": 1}, "unknown field `more`"),
        (rule(ALWAYS, extra=1), r"rules\[0\]: .*unknown field `extra`"),
        ({"name": "p", "rules": [{"then": "explode", "when": ALWAYS}]}, "Invalid enum value 'explode'"),
        (rule(ALWAYS, by=1), "rules.0.by: 1 is not above 1"),
        (rule({"kind": "sometimes"}), "Invalid value 'sometimes'"),
        (rule({"kind": "is", "flag": "hungry"}), "Invalid enum value 'hungry'"),
        (rule({"kind": "all", "of": []}), "rules.0.when.of: is empty"),
        (
            rule({"kind": "all", "of": [ALWAYS, {"kind": "first", "of": []}]}),
            "rules.0.when.of.1.of: is empty",
        ),
        (rule(nested(MAX_DEPTH + 1)), "nested deeper than 8"),
        (rule(nested(5_000)), "nested deeper|recursion"),
        (rule({"kind": "any", "of": [ALWAYS] * MAX_CLAUSES}), "over 128 clauses"),
        (rule({"kind": "every", "hours": 0}), "hours: 0 is not within"),
        (rule({"kind": "every", "hours": float("nan")}), "hours: nan is not within"),
        (rule({"kind": "every", "hours": 1, "jitter": 1}), "jitter: 1 is not within"),
        (rule({"kind": "every", "hours": 1, "fastest_hours": 0}), "fastest_hours: 0"),
        (rule({"kind": "every", "hours": 1, "fastest_hours": 9, "slowest_hours": 8}), "slowest_hours: 8"),
        (rule({"kind": "window", "from": "1:30", "to": "02:00"}), "when.from: '1:30' is no time"),
        (rule({"kind": "window", "from": "01:30", "to": "25:00"}), "when.to: '25:00' is no time"),
        (rule({"kind": "window", "from": "01:30", "to": "02:00", "spread": 1}), "spread: 1"),
        (rule({"kind": "window", "from": "01:30", "to": "02:00", "days": ["Monday"]}), "'Monday'"),
        (rule(LEVEL), "give at_least or at_most"),
        (rule(LEVEL | {"at_least": 1, "at_most": 2}), "give at_least or at_most"),
        (rule(LEVEL | {"at_least": float("inf")}), "inf is no bound"),
        (rule(LEVEL | {"at_least": 0.4, "until": 0.5}), "until: 0.5 is over at_least 0.4"),
        (rule(LEVEL | {"at_most": 0.4, "until": 0.3}), "until: 0.3 is under at_most 0.4"),
        (rule(LEVEL | {"at_most": 0.4, "hold_s": -1}), "hold_s: -1"),
        (rule({"kind": "worse", "drop": 0}), "drop: 0"),
        (rule({"kind": "worse", "alpha": 1}), "alpha: 1"),
    ],
)
def test_a_wrong_policy_is_refused_by_its_field(tree, said):
    with pytest.raises(ConfigError, match=said):
        policy_of(tree)


def test_bounds_themselves_are_allowed():
    policy_of(rule(nested(MAX_DEPTH)))
    policy_of(rule({"kind": "any", "of": [ALWAYS] * (MAX_CLAUSES - 1)}))


COUNTS = {"name": "x", "reference": [1, 2], "observed": [1, 2]}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batery": 1}, "unknown field `batery`"),
        ({"battery": 1.5}, "battery: 1.5"),
        ({"idle": -0.1}, "idle: -0.1"),
        ({"time_s": -1}, "time_s"),
        ({"answers": 1, "corrections": 2}, "corrections: 2 of 1"),
        ({"inputs": [COUNTS] * 65}, "inputs: 65 are over 64"),
        ({"inputs": [COUNTS | {"observed": [1]}]}, "as many observed"),
        ({"inputs": [{"name": "x", "reference": [1], "observed": [1]}]}, "at least 2"),
        ({"inputs": [COUNTS | {"observed": [1, -2]}]}, "counts are at least 0"),
        ({"inputs": [{"name": "x", "reference": [1] * 65, "observed": [1] * 65}]}, "65 are over 64"),
        ({"labelled": {"baseline": 0}}, "labelled.baseline: 0"),
        ({"labelled": {"baseline": 0.9, "tallies": [{"labelled": 1, "correct": 2}]}}, "correct is within"),
        ({"labelled": {"baseline": 0.9, "tallies": [{"labelled": 1, "correct": 1}] * 65}}, "65|tallies"),
        ({"latency": {"baseline_ms": 0}}, "latency.baseline_ms"),
        ({"latency": {"baseline_ms": 1, "recent_ms": [1.0] * 257}}, "257 are over 256"),
    ],
)
def test_a_wrong_state_is_refused_by_its_field(fields, said):
    with pytest.raises(InputError, match=said):
        state_of({"time_s": 0.0, **fields})
