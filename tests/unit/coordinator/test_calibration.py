"""Predicted beside measured: which figures are compared with which."""

from __future__ import annotations

import pytest

from collab.client.runner import Result
from collab.coordinator.calibration import calibration
from collab.coordinator.workload import Report
from collab.core.token import Hop
from collab.core.validate import convert_plan
from tests.unit.core.trees import SHA, chain

PREDICTED = {
    "latency_ms": 10.0,
    "bottleneck_ms": 4.0,
    "stages": [
        {"stage": "head", "nodes": ["a"], "ms": 2.0},
        {"stage": "tail", "nodes": ["b"], "ms": 4.0},
    ],
    "edges": [
        {"source": "@requester", "target": "head", "ms": 1.0, "occupied_ms": 0.5},
        {"source": "head", "target": "tail", "ms": 2.0, "occupied_ms": 1.5},
        {"source": "tail", "target": "@requester", "ms": 1.0, "occupied_ms": 0.5},
    ],
    "profile": SHA,
    "basis": "measured",
}
PLAN = convert_plan({**chain(), "predicted": PREDICTED})


def answer(total_ms: float, epoch: int = 1, stages: int = 2) -> Result:
    """Each stage waited 1 ms, decoded for 0.5, computed for 2 and encoded for 0.5."""
    hops = tuple(Hop(i, "ab"[i], 1000, 500, 2000, 500) for i in range(stages))
    return Result({}, total_ms, hops, ("a", "b"), encode_ms=0.2, decode_ms=0.1, epoch=epoch)


def report(*answers: Result, seconds: float = 1.0) -> Report:
    made = Report()
    for each in answers:
        made.add(each, True)
    made.seconds = seconds
    return made


def test_one_at_a_time_compares_latency_and_counts_the_hand_over_into_stages():
    found = calibration(report(answer(11.0), answer(12.0), answer(50.0)), PLAN, 1)
    assert found is not None
    assert found["latency_ms"] == {"predicted": 10.0, "measured": 12.0, "error": 0.2}
    assert found["bottleneck_ms"] == {"predicted": 4.0, "measured": None, "error": None}
    head, tail, *edges, wire = found["hops"]
    assert head == {"stage": "head", "nodes": ["a"], "predicted": 2.0, "measured": 4.0, "error": 1.0}
    assert (tail["measured"], tail["error"]) == (4.0, 0.0)
    assert [(e["from"], e["to"], e["predicted"], e["occupied_ms"], e["measured"]) for e in edges] == [
        ("@requester", "head", 1.0, 0.5, None),
        ("head", "tail", 2.0, 1.5, None),
        ("tail", "@requester", 1.0, 0.5, None),
    ]
    assert (wire["stage"], wire["predicted"]) == ("wire", 4.0)
    assert wire["measured"] == pytest.approx(12.0 - 8.0)
    assert (found["profile"], found["basis"]) == (SHA, "measured")


def test_many_at_a_time_compare_the_rate_and_leave_queues_out():
    found = calibration(report(*[answer(20.0)] * 200, seconds=1.0), PLAN, 8)
    assert found is not None
    assert found["bottleneck_ms"] == {"predicted": 4.0, "measured": 5.0, "error": 0.25}
    assert found["hops"][0]["measured"] == 3.0


def test_after_a_switch_the_last_epoch_is_compared_and_no_rate():
    found = calibration(report(answer(90.0), answer(10.0, 2), answer(95.0, 1), answer(10.0, 2)), PLAN, 8)
    assert found is not None
    assert found["latency_ms"]["measured"] == 10.0
    assert found["bottleneck_ms"]["measured"] is None


def test_hops_are_of_the_last_epoch_whatever_came_late():
    made = report(answer(9.0), answer(9.0, 2, stages=1), answer(9.0, 1))
    assert (made.requests, made.epochs, made.epoch) == (3, 2, 2)
    assert [len(parts) for parts in made.parts_ms.values()] == [1]


def test_without_a_prediction_or_an_answer_nothing_is_compared():
    assert calibration(report(answer(1.0)), convert_plan(chain()), 1) is None
    assert calibration(report(), PLAN, 1) is None
