"""Every branch of every clause, as a table; how clauses compose; which rule is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from collab.updates.policies.clauses import AllOf, AnyOf, First, Is, Level, Not
from collab.updates.policies.decide import _COMPOSED, decide, drawn
from collab.updates.policies.parse import policy_of
from collab.updates.policies.state import DeviceState, state_of

NOW = 1_700_000_000.0
"""A Tuesday, 22:13 UTC."""
HOUR = 3600.0
EVEN = {"name": "x", "reference": [100] * 10, "observed": [10] * 10}
MOVED = {"name": "x", "reference": [100] * 10, "observed": [0] * 8 + [50, 50]}


def device(**fields) -> DeviceState:
    return state_of({"time_s": NOW, "device": "pi-1", **fields})


def judged(clause, state, memory=None):
    """The first line of a policy with one clause."""
    policy = policy_of({"name": "p", "rules": [{"then": "check", "when": clause}]})
    return decide(policy, state, *(() if memory is None else (memory,)))


def due(decision):
    """When time alone changes it, where it does."""
    assert decision.again_s is not None
    return decision.again_s


def level(measure, **bounds):
    return {"kind": "level", "measure": measure, **bounds}


def tallies(labelled, correct, count=10):
    return {"baseline": 0.9, "tallies": [{"labelled": labelled, "correct": correct}] * count}


EVERY = {"kind": "every", "hours": 10, "jitter": 0}
WORSE = {"kind": "worse", "drop": 0.1, "alpha": 0.01}

TABLE = [
    ({"kind": "always"}, {}, "yes", "always"),
    # --- how often
    (EVERY, {}, "yes", "never looked"),
    (EVERY, {"checked_s": NOW - 9 * HOUR}, "no", "due in 1.0 h"),
    (EVERY, {"checked_s": NOW - 11 * HOUR}, "yes", "11.0 h since"),
    (EVERY, {"checked_s": NOW + 1}, "yes", "put back"),
    # --- windows, here of a Tuesday 22:13 UTC
    ({"kind": "window", "from": "22:00", "to": "02:00"}, {}, "yes", "in the window"),
    ({"kind": "window", "from": "20:00", "to": "22:00"}, {}, "no", "opens in 21.8 h"),
    ({"kind": "window", "from": "22:00", "to": "02:00", "days": ["mon"]}, {}, "no", "opens in 143.8 h"),
    ({"kind": "window", "from": "22:00", "to": "22:30", "days": ["tue"]}, {}, "yes", "in the window"),
    ({"kind": "window", "from": "07:00", "to": "08:00"}, {"time_zone": "Asia/Tokyo"}, "yes", "in the"),
    ({"kind": "window", "from": "07:00", "to": "08:00"}, {"time_zone": "Mars/Base"}, "unknown", "not known"),
    # --- flags
    ({"kind": "is", "flag": "charging"}, {}, "unknown", "charging is not known"),
    ({"kind": "is", "flag": "charging"}, {"charging": True}, "yes", "charging"),
    ({"kind": "is", "flag": "metered"}, {"metered": False}, "no", "not metered"),
    ({"kind": "is", "flag": "newer"}, {"running": 3}, "unknown", "newer is not known"),
    ({"kind": "is", "flag": "newer"}, {"running": 3, "offered": 4}, "yes", "newer"),
    ({"kind": "is", "flag": "newer"}, {"running": 4, "offered": 4}, "no", "not newer"),
    ({"kind": "is", "flag": "can_go_back"}, {"previous": 3}, "yes", "can_go_back"),
    ({"kind": "is", "flag": "can_go_back"}, {}, "no", "not can_go_back"),
    # --- levels of what the device is in
    (level("battery", at_least=0.4), {}, "unknown", "battery is not known"),
    (level("battery", at_least=0.4), {"battery": 0.4}, "yes", "battery 0.4 ≥ 0.4"),
    (level("battery", at_least=0.4), {"battery": 0.39}, "no", "battery 0.39 < 0.4"),
    (level("temperature_c", at_most=60), {"temperature_c": 60}, "yes", "temperature_c 60 ≤ 60"),
    (level("temperature_c", at_most=60), {"temperature_c": 61}, "no", "temperature_c 61 > 60"),
    (level("temperature_c", at_most=60), {"temperature_c": float("nan")}, "unknown", "is not known"),
    (level("idle", at_least=0.5), {"idle": 0.7}, "yes", "idle"),
    (level("rate_mbit_s", at_least=5), {"rate_mbit_s": 2}, "no", "rate_mbit_s 2"),
    (level("free_memory_mb", at_least=64), {"free_memory_bytes": 63e6}, "no", "63"),
    (level("free_disk_mb", at_least=64), {"free_disk_bytes": 65e6}, "yes", "65"),
    (level("offered_mb", at_most=4), {"offered_bytes": 3_000_000}, "yes", "3"),
    (level("offered_mb", at_most=4), {}, "unknown", "not known"),
    (level("benefit", at_least=0.01), {"benefit": 0.005}, "no", "0.005"),
    (level("versions_behind", at_least=2), {"running": 3, "offered": 5}, "yes", "2"),
    (level("versions_behind", at_least=2), {"running": 3}, "unknown", "not known"),
    (level("hours_since_check", at_least=48), {"checked_s": NOW - 50 * HOUR}, "yes", "50"),
    (level("hours_since_check", at_least=48), {}, "unknown", "not known"),
    # --- feedback
    (level("psi", at_least=0.25), {}, "unknown", "psi is not known"),
    (level("psi", at_least=0.25), {"inputs": [EVEN]}, "no", "psi"),
    (level("psi", at_least=0.25), {"inputs": [EVEN, MOVED]}, "yes", "psi"),
    (level("ks", at_least=0.3), {"inputs": [EVEN]}, "no", "ks 0 <"),
    (level("ks", at_least=0.3), {"inputs": [EVEN, MOVED]}, "yes", "ks 0.8"),
    (level("ks_p_value", at_most=0.01), {"inputs": [EVEN, EVEN]}, "no", "ks_p_value 1"),
    (level("ks_p_value", at_most=0.01), {"inputs": [EVEN, MOVED]}, "yes", "ks_p_value"),
    (level("ks_p_value", at_most=0.01), {}, "unknown", "not known"),
    (WORSE, {}, "unknown", "no labelled feedback"),
    (WORSE, {"labelled": tallies(0, 0)}, "unknown", "no labelled feedback"),
    (WORSE, {"labelled": tallies(20, 18)}, "no", "180 of 200 labelled answers right"),
    (WORSE, {"labelled": tallies(20, 15)}, "yes", "150 of 200"),
    (level("confidence_drop", at_least=0.1), {"confidence": {"baseline": 0.9, "now": 0.7}}, "yes", "0.2"),
    (level("confidence_drop", at_least=0.1), {}, "unknown", "not known"),
    (level("agreement_drop", at_least=0.1), {"agreement": {"baseline": 0.9, "now": 0.85}}, "no", "0.05"),
    (
        level("latency_ratio", at_least=1.5),
        {"latency": {"baseline_ms": 10, "recent_ms": [20] * 3}},
        "yes",
        "2",
    ),
    (
        level("latency_ratio", at_least=1.5),
        {"latency": {"baseline_ms": 10, "recent_ms": [20] * 2}},
        "unknown",
        "",
    ),
    (level("latency_ratio", at_least=1.5), {}, "unknown", "not known"),
    (level("correction_share", at_least=0.1), {"answers": 20, "corrections": 3}, "yes", "0.15"),
    (level("correction_share", at_least=0.1), {"answers": 19, "corrections": 19}, "unknown", "not known"),
    # --- composed
    ({"kind": "not", "of": {"kind": "is", "flag": "charging"}}, {"charging": True}, "no", "charging"),
    ({"kind": "not", "of": {"kind": "is", "flag": "charging"}}, {}, "unknown", "not known"),
]


@pytest.mark.parametrize(("clause", "fields", "verdict", "why"), TABLE)
def test_a_clause_says_what_it_should_and_why(clause, fields, verdict, why):
    decision = judged(clause, device(**fields))
    assert decision.lines[0].verdict == verdict
    assert why in decision.lines[0].why
    assert decision.action == ("check" if verdict == "yes" else "wait")


def test_the_table_has_every_measure_and_flag_both_known_and_unknown():
    from collab.updates.policies.measures import FLAGS, MEASURES

    judged_ones = {clause.get("measure", clause.get("flag")) for clause, *_ in TABLE} - {None}
    assert judged_ones == {*MEASURES, *FLAGS}


def test_clauses_within_are_explained_after_the_one_around_them():
    clause = {
        "kind": "all",
        "of": [
            {"kind": "first", "of": [level("battery", at_least=0.4), {"kind": "is", "flag": "charging"}]},
            {"kind": "any", "of": [{"kind": "is", "flag": "metered"}, {"kind": "always"}]},
        ],
    }
    decision = judged(clause, device(charging=True, metered=False))
    assert [(line.path.removeprefix("rules.0.when"), line.kind, line.verdict) for line in decision.lines] == [
        ("", "all", "yes"),
        (".of.0", "first", "yes"),
        (".of.0.of.0", "level", "unknown"),
        (".of.0.of.1", "is", "yes"),
        (".of.1", "any", "yes"),
        (".of.1.of.0", "is", "no"),
        (".of.1.of.1", "always", "yes"),
    ]
    assert decision.why == "charging; always"


# --- composition, over all verdicts ------------------------------------------------------

RANK = {"no": 0, "unknown": 1, "yes": 2}
VERDICTS = st.lists(st.sampled_from(sorted(RANK)), min_size=1, max_size=6)


@given(VERDICTS)
def test_all_is_the_least_and_any_the_greatest_of_what_is_within(verdicts):
    least, greatest = min(verdicts, key=RANK.get), max(verdicts, key=RANK.get)
    assert _COMPOSED[AllOf](verdicts)[0] == least
    assert _COMPOSED[AnyOf](verdicts)[0] == greatest


@given(VERDICTS)
def test_not_any_is_all_not_and_not_not_is_nothing(verdicts):
    def turned(verdict):
        return _COMPOSED[Not]([verdict])[0]

    opposite = [turned(verdict) for verdict in verdicts]
    assert turned(_COMPOSED[AnyOf](verdicts)[0]) == _COMPOSED[AllOf](opposite)[0]
    assert [turned(verdict) for verdict in opposite] == verdicts


@given(VERDICTS)
def test_first_is_unknown_only_where_everything_is(verdicts):
    known = [verdict for verdict in verdicts if verdict != "unknown"]
    assert _COMPOSED[First](verdicts)[0] == (known[0] if known else "unknown")


@given(VERDICTS)
def test_a_verdict_rests_on_clauses_that_alone_give_the_same(verdicts):
    for kind in (AllOf, AnyOf, First):
        verdict, because = _COMPOSED[kind](verdicts)
        assert because
        assert {verdicts[at] for at in because} == {verdict}


# --- rules -------------------------------------------------------------------------------


def rules(*pairs, **more):
    return policy_of({"name": "p", "rules": [{"then": then, "when": when, **more} for then, when in pairs]})


YES, NO = {"kind": "always"}, {"kind": "not", "of": {"kind": "always"}}


@pytest.mark.parametrize(
    ("given_rules", "fields", "action", "rule", "said"),
    [
        ([("check", NO), ("round", YES), ("check", YES)], {}, "round", 1, "always"),
        ([("check", NO)], {}, "wait", None, "no rule holds"),
        ([("wait", YES), ("check", YES)], {}, "wait", 0, "always"),
        ([("rollback", YES)], {}, "wait", None, "no version to go back to"),
        ([("rollback", YES), ("check", YES)], {}, "check", 1, "no version to go back to"),
        ([("rollback", YES)], {"previous": 2}, "rollback", 0, "always"),
        ([("install", YES)], {}, "wait", None, "no newer version"),
        ([("install", YES)], {"running": 2, "offered": 2}, "wait", None, "no newer version"),
        ([("install", YES)], {"running": 2, "offered": 3}, "install", 0, "always"),
        ([("faster", YES)], {}, "wait", None, "no rule holds"),
    ],
)
def test_the_first_rule_that_holds_and_can_be_done_is_taken(given_rules, fields, action, rule, said):
    decision = decide(rules(*given_rules), device(**fields))
    assert (decision.action, decision.rule) == (action, rule)
    assert said in decision.why


@pytest.mark.parametrize(
    ("pairs", "pace", "due_h"),
    [
        ((("check", EVERY),), 1, 10),
        ((("check", EVERY), ("faster", YES)), 4, 2.5),
        ((("check", EVERY), ("faster", YES), ("slower", YES)), 1, 10),
        ((("check", EVERY), ("slower", YES)), 0.25, 40),
        ((("check", EVERY), ("faster", NO)), 1, 10),
        ((("check", EVERY | {"fastest_hours": 5}), ("faster", YES)), 4, 5),
        ((("check", EVERY | {"slowest_hours": 20}), ("slower", YES)), 0.25, 20),
    ],
)
def test_rules_of_pace_shorten_and_lengthen_intervals_wherever_they_stand(pairs, pace, due_h):
    decision = decide(rules(*pairs, by=4), device(checked_s=NOW - HOUR))
    assert decision.pace == pace
    assert decision.again_s == pytest.approx(NOW + (due_h - 1) * HOUR)


def test_jitter_differs_between_devices_and_stays_the_same_for_one():
    policy = rules(("check", EVERY | {"jitter": 0.5}))
    dues = [due(decide(policy, device(checked_s=NOW - 1, device=f"pi-{n}"))) - NOW for n in range(200)]
    assert min(dues) < 5.5 * HOUR
    assert max(dues) > 14.5 * HOUR
    assert all(5 * HOUR - 1 <= each <= 15 * HOUR for each in dues)
    again = decide(policy, device(checked_s=NOW - 1, device="pi-7", time_s=NOW + 10))
    assert due(again) - NOW == pytest.approx(dues[7])


def test_devices_begin_at_places_of_their_own_within_a_window():
    clause = {"kind": "window", "from": "23:00", "to": "03:00", "spread": 0.5}
    begins = [due(judged(clause, device(device=f"pi-{n}"))) for n in range(100)]
    opens = NOW + 46 * 60 + 40
    assert all(opens <= each < opens + 2 * HOUR for each in begins)
    assert len(set(begins)) == 100


def test_a_decision_says_when_time_alone_changes_it_and_then_it_does():
    clause = {"kind": "all", "of": [EVERY, {"kind": "window", "from": "01:00", "to": "02:00"}]}
    state = device(checked_s=NOW - 9 * HOUR)
    moments = []
    decision = judged(clause, state)
    while decision.action == "wait":
        moments.append(due(decision))
        state = replace(state, time_s=moments[-1])
        decision = judged(clause, state)
    # Not the day's window before, in which the interval would not be over.
    assert len(moments) == 1
    assert judged(clause, replace(state, time_s=moments[0] - 1)).action == "wait"
    assert (moments[-1] - 1 * HOUR) % 86_400 == 0


@pytest.mark.parametrize(
    ("kind", "within", "hours"),
    [
        ("all", [EVERY, NO], None),
        ("all", [EVERY, YES], 1),
        ("all", [EVERY, EVERY | {"hours": 12}], 3),
        ("all", [{"kind": "not", "of": EVERY}, {"kind": "not", "of": EVERY | {"hours": 12}}], 1),
        ("any", [EVERY, NO], 1),
        ("any", [EVERY, YES], None),
        ("any", [EVERY, EVERY | {"hours": 12}], 1),
        ("any", [{"kind": "not", "of": EVERY}, {"kind": "not", "of": EVERY | {"hours": 12}}], 3),
        ("first", [{"kind": "is", "flag": "charging"}, EVERY], 1),
    ],
)
def test_the_next_moment_is_that_of_all_clauses_that_have_to_change(kind, within, hours):
    decision = judged({"kind": kind, "of": within}, device(checked_s=NOW - 9 * HOUR))
    assert decision.again_s == (None if hours is None else NOW + hours * HOUR)


@given(st.integers().map(str))
def test_what_is_drawn_lies_within_zero_and_one(seed):
    assert 0 <= drawn(seed) < 1
    assert drawn(seed) == drawn(seed)


def test_clauses_made_in_code_are_those_of_a_file():
    policy = policy_of({"name": "p", "rules": [{"then": "check", "when": level("battery", at_least=0.5)}]})
    assert policy.rules[0].when == Level(measure="battery", at_least=0.5)
    assert policy_of(
        {"name": "p", "rules": [{"then": "check", "when": {"kind": "is", "flag": "charging"}}]}
    ).rules[0].when == Is(flag="charging")
