"""Counts of one epoch on one node, by numbers that are known."""

from __future__ import annotations

import msgspec
import pytest

from collab.updates.policies.drift import Reference, psi
from collab.updates.policies.seen import FIRST, Mean, Sample, Seen, Times
from collab.updates.policies.state import MAX_TALLIES

HALVES = Reference("x:value-0", (0.5,), (50.0, 50.0))


def sample(value: float, **fields) -> Sample:
    return Sample(0, 1_000, (value,), **fields)


def test_features_are_counted_in_the_bins_of_the_reference_and_the_oldest_are_forgotten():
    seen = Seen()
    seen.expect(0, [HALVES], 60)
    seen.add([sample(0.2)] * 30 + [sample(0.9)] * 30, 60)
    (counted,) = seen.feedback("p", 1, {}).inputs
    assert list(counted.observed) == [30, 30]
    assert psi(counted) == pytest.approx(0, abs=1e-3)
    for _ in range(2):
        seen.add([sample(0.9)] * 60, 60)
    (counted,) = seen.feedback("p", 1, {}).inputs
    assert list(counted.observed) == [0, 60]
    assert (psi(counted) or 0) > 0.2


def test_another_reference_begins_anew_and_the_same_goes_on():
    seen = Seen()
    seen.expect(0, [HALVES], 60)
    seen.add([sample(0.2)], 60)
    seen.expect(0, [HALVES], 60)
    assert seen.feedback("p", 1, {}).inputs[0].observed == (1, 0)
    seen.expect(0, [Reference("x:value-0", (0.7,), (1.0, 1.0))], 60)
    assert seen.feedback("p", 1, {}).inputs[0].observed == (0, 0)


def test_a_mean_is_compared_with_that_of_the_first_samples():
    mean = Mean()
    for _ in range(FIRST - 1):
        mean.add(0.9, 100)
    assert mean.compared() is None
    mean.add(0.9, 100)
    for _ in range(200):
        mean.add(0.5, 100)
    found = mean.compared()
    assert (found.baseline, found.now) == (pytest.approx(0.9), pytest.approx(0.5))


def test_what_the_release_promises_is_the_baseline_from_the_first_sample_on():
    seen = Seen()
    seen.promised(0.8, None)
    seen.add([sample(0.1, confidence=0.6, margin=0.2)] * 50, 1_000)
    told = seen.feedback("p", 1, {})
    assert (told.confidence.baseline, told.confidence.now) == (0.8, pytest.approx(0.6))
    assert told.margin is None
    assert told.agreement is None


def test_times_are_medians_beside_those_of_the_first_requests():
    times = Times()
    for _ in range(63):
        times.add(2_000)
    assert times.latencies() is None
    times.add(90_000)
    assert times.latencies().baseline_ms == 2.0, "one slow request moves no median"
    for _ in range(32):
        times.add(6_000)
    assert times.latencies().recent_ms == (6.0, 6.0)
    assert times.ratio == 3.0


def test_the_slowest_stage_stands_for_the_node():
    seen = Seen()
    fast, slow = [Sample(0, 1_000)], [Sample(1, 500)]
    seen.add(fast * 80 + slow * 64 + [Sample(1, 1_500)] * 16, 100)
    assert seen.feedback("p", 1, {}).latency.baseline_ms == 0.5


def test_labels_are_counted_by_day_and_days_are_bounded():
    seen = Seen()
    for day in range(MAX_TALLIES + 5):
        seen.label(True, day * 86_400.0)
        seen.label(False, day * 86_400.0 + 60)
    days = seen.feedback("p", 1, {}).days
    assert len(days) == MAX_TALLIES
    assert (days[0].day, days[0].labelled, days[0].correct) == (5, 2, 1)


def test_counts_survive_the_disk():
    seen = Seen(answers=5, corrections=1)
    seen.expect(2, [HALVES], 60)
    seen.add([Sample(2, 1_000, (0.2,), 0.9, 0.5, 1.0)] * 70, 60)
    seen.label(True, 1e9)
    again = msgspec.json.decode(msgspec.json.encode(seen), type=Seen)
    assert again == seen
    assert again.feedback("p", 1, {}) == seen.feedback("p", 1, {})
