"""What requesters counted becomes what the gate sees."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.updates.health.counted import MOST_OBSERVED, observations
from collab.updates.health.gate import Bounds, Compared, Failed, Gate, GoldenRan, Loaded, Served, Staged
from collab.updates.health.trial import Counts, TrialPhase

BOUNDS = Bounds()


def counts(phase: TrialPhase = "shadow", **figures: Any) -> Counts:
    return Counts(number=7, phase=phase, **figures)


def in_shadow() -> Gate:
    gate = Gate(BOUNDS, 0.0)
    for seen in (Staged(), Loaded(), GoldenRan(1, 0)):
        gate.observe(seen, 0.0)
    assert gate.phase == "shadow"
    return gate


@given(compared=st.integers(0, 300), disagreed=st.integers(0, 400), slow=st.integers(0, 400))
def test_every_comparison_is_seen_once_with_its_share_of_what_was_bad(compared, disagreed, slow):
    seen = list(observations(counts(compared=compared, disagreed=disagreed, slow=slow), BOUNDS))
    assert len(seen) == compared
    assert all(isinstance(one, Compared) and one.finite for one in seen)
    assert sum(not one.agrees for one in seen) == min(disagreed, compared)
    late = [one.new_ms > BOUNDS.slow_factor * one.old_ms for one in seen]
    assert sum(late) == min(slow, compared)


@given(bad=st.integers(1, 20), good=st.integers(0, 400))
def test_bad_answers_lie_evenly_among_the_others(bad, good):
    total = bad + good
    seen = [not one.agrees for one in observations(counts(compared=total, disagreed=bad), BOUNDS)]
    for end in range(1, total + 1):
        assert abs(sum(seen[:end]) - bad * end / total) <= 1


def test_one_look_decides_as_many_looks_would():
    at_once, gate = in_shadow(), in_shadow()
    for seen in observations(counts(compared=100, disagreed=2), BOUNDS):
        at_once.observe(seen, 0.0)
    before = counts()
    for step in range(1, 11):
        now = counts(compared=10 * step, disagreed=step // 5)
        for seen in observations(now.since(before), BOUNDS):
            gate.observe(seen, 0.0)
        before = now
    assert (at_once.phase, gate.phase) == ("canary", "canary")


@pytest.mark.parametrize(
    ("figures", "phase", "reason"),
    [
        ({"compared": 5, "disagreed": 5}, "dropped", "differ"),
        ({"compared": 20, "slow": 20}, "dropped", "times as long"),
        ({"compared": 60, "not_finite": 1}, "dropped", "not finite"),
        ({"compared": 60, "failed": 1, "reason": "no such kernel"}, "dropped", "no such kernel"),
        ({"compared": 10, "requests": 1000}, "shadow", ""),
        ({"compared": 60}, "canary", ""),
    ],
)
def test_the_gate_decides_from_counts(figures: dict[str, Any], phase: str, reason: str):
    gate = in_shadow()
    for seen in observations(counts(**figures), BOUNDS):
        gate.observe(seen, 0.0)
    assert gate.phase == phase
    assert reason in gate.reason


def test_after_the_commit_what_is_bad_comes_before_what_would_make_it_healthy():
    for figures in ({"failed": 1}, {"not_finite": 1}):
        first, *others = observations(counts("probation", served=500, **figures), BOUNDS)
        assert first in (Served(False), Failed("1 requests failed"))
        assert others == [Served()] * 500
        gate = Gate(BOUNDS, 0.0, committed=True)
        gate.observe(first, 0.0)
        assert gate.phase == "rolled back"


def test_what_a_requester_makes_up_takes_no_time():
    assert len(list(observations(counts(compared=2**62, disagreed=2**61), BOUNDS))) == MOST_OBSERVED
    assert len(list(observations(counts("probation", served=2**62), BOUNDS))) == MOST_OBSERVED


def test_a_canary_is_committed_only_after_enough_answers_of_its_own():
    gate = in_shadow()
    for seen in observations(counts(compared=60), BOUNDS):
        gate.observe(seen, 0.0)
    gate.routed(requests=600, touched=6)
    for seen in observations(counts("canary", compared=60), BOUNDS):
        gate.observe(seen, 0.0)
    phases: list[str] = [gate.phase]
    gate.routed(requests=1200, touched=12)
    for seen in observations(counts("canary", compared=1), BOUNDS):
        gate.observe(seen, 0.0)
    assert [*phases, gate.phase] == ["canary", "probation"], "six are fewer than ten"
