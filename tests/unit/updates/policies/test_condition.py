"""From what nodes report to the state that policies decide on."""

from __future__ import annotations

import msgspec
import pytest

from collab.errors import InputError
from collab.updates.policies.condition import (
    MAX_LINKS,
    MAX_MODELS,
    Condition,
    Day,
    Known,
    LinkSpeed,
    ModelFeedback,
    decode_condition,
    encode_condition,
    state_of_plan,
)
from collab.updates.policies.state import Compared, FeatureCounts, Latencies, Tally

GOOD = {"battery": 0.9, "charging": True, "metered": False, "idle": 0.8, "temperature_c": 40.0}


def counts(name: str, observed: tuple[float, ...], reference: tuple[float, ...] = (5, 5)) -> FeatureCounts:
    return FeatureCounts(name=name, reference=reference, observed=observed)


def node(name: str, *models: ModelFeedback, **fields) -> Condition:
    return Condition(time_s=1e9, device=name, models=models, **{**GOOD, **fields})


def test_a_condition_travels_and_what_a_newer_node_tells_is_left_out():
    made = node("a", ModelFeedback(plan="p", epoch=2, answers=3), links=(LinkSpeed(peer="b", rtt_ms=2),))
    assert decode_condition(encode_condition(made), "a") == made
    newer = msgspec.json.decode(encode_condition(made)) | {"humidity": 0.4}
    assert decode_condition(msgspec.json.encode(newer), "a") == made


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"battery": 1.5}, "battery: 1.5 is not within 0 to 1"),
        ({"links": (LinkSpeed(peer="b"),) * (MAX_LINKS + 1)}, "links: 65 are over 64"),
        ({"models": (ModelFeedback(plan="p", epoch=1),) * (MAX_MODELS + 1)}, "models: 17 are over 16"),
        ({"models": (ModelFeedback(plan="p", epoch=1, corrections=1),)}, "corrections: 1 of 0"),
        ({"models": (ModelFeedback(plan="p", epoch=1, inputs=(counts("x", (1,)),)),)}, "as many observed"),
        (
            {"models": (ModelFeedback(plan="p", epoch=1, days=(Day(day=1, labelled=1, correct=2),)),)},
            "labelled.tallies",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_nodes_name(fields, said):
    with pytest.raises(InputError, match=f"node 'a': its condition cannot be used: .*{said}"):
        decode_condition(encode_condition(Condition(time_s=0, **fields)), "a")


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"time_s":"x"}', b"\xff", b'{"time_s":1}' + b" " * (1 << 20)]
)
def test_what_is_no_condition_is_one_clear_error(data):
    with pytest.raises(InputError, match="node 'a': its condition"):
        decode_condition(data, "a")


def test_a_plan_over_several_nodes_is_as_bad_as_the_worst_of_them():
    worse = {"battery": 0.2, "charging": False, "metered": True, "idle": 0.1, "temperature_c": 80.0}
    state = state_of_plan([node("a"), node("b", **worse)], "p", Known(device="p", running=4, offered=5))
    told = (state.battery, state.charging, state.metered, state.idle, state.temperature_c)
    assert told == (0.2, False, True, 0.1, 80.0)
    assert (state.device, state.running, state.offered) == ("p", 4, 5)


def test_what_one_node_does_not_know_the_others_tell_and_what_none_knows_is_unknown():
    silent = Condition(time_s=1e9, device="b")
    state = state_of_plan([node("a", charging=None), silent], "p", Known())
    assert (state.battery, state.charging, state.free_disk_bytes) == (0.9, None, None)
    assert (state.confidence, state.latency, state.labelled, state.inputs) == (None, None, None, ())


def test_replicas_add_up_and_older_epochs_do_not_count():
    def model(epoch: int, observed: tuple[float, ...], answers: int, days: tuple[Day, ...]) -> ModelFeedback:
        return ModelFeedback(
            plan="p", epoch=epoch, inputs=(counts("x", observed),), answers=answers, days=days, accuracy=0.8
        )

    first = model(3, (10, 20), 30, (Day(day=7, labelled=4, correct=3), Day(day=8, labelled=1, correct=1)))
    second = model(3, (1, 2), 5, (Day(day=7, labelled=2, correct=0),))
    old = model(2, (100, 100), 400, (Day(day=7, labelled=9, correct=9),))
    state = state_of_plan([node("a", first, old), node("b", second), node("c", old)], "p", Known())
    assert state.inputs == (counts("x", (11, 22)),)
    assert state.answers == 35
    assert state.labelled.baseline == 0.8
    assert state.labelled.tallies == (Tally(labelled=6, correct=3), Tally(labelled=1, correct=1))
    assert state_of_plan([node("a", first)], "p", Known(baseline=0.95)).labelled.baseline == 0.95
    assert state_of_plan([node("a", first)], "other", Known()).answers == 0


def test_what_fell_most_and_what_slowed_most_stand_for_the_plan():
    def model(now: float, recent_ms: float) -> ModelFeedback:
        latency = Latencies(baseline_ms=2.0, recent_ms=(recent_ms,))
        pair = Compared(baseline=0.9, now=now)
        return ModelFeedback(plan="p", epoch=1, confidence=pair, agreement=pair, latency=latency)

    state = state_of_plan([node("a", model(0.85, 9.0)), node("b", model(0.6, 2.0))], "p", Known())
    assert (state.confidence.now, state.agreement.now, state.latency.recent_ms) == (0.6, 0.6, (9.0,))


def test_no_node_is_no_state():
    with pytest.raises(InputError, match="plan 'p': no node reports"):
        state_of_plan([], "p", Known())
