"""When the last bit has left."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.emulation.models.rate import ConstantRate, OpportunityRate, TokenBucket, TracedRate

TRACES = st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 200)), min_size=1, max_size=6).filter(
    lambda steps: any(rate > 1 for _, rate in steps)
)


def traced(steps, interpolate, **more) -> TracedRate:
    at, times = 0.0, []
    for gap, _ in steps:
        times.append(at)
        at += gap * 1e6
    return TracedRate(times, [rate for _, rate in steps], interpolate=interpolate, **more)


def backlog(rate, packets: int, bits: float = 12_000) -> list[float]:
    left = [0.0]
    for _ in range(packets):
        left.append(rate.finish(left[-1], bits))
    return left[1:]


def test_a_constant_rate_takes_the_bits_over_it():
    assert ConstantRate(12).finish(5.0, 12_000) == 1005.0
    assert ConstantRate(inf).finish(5.0, 12_000) == 5.0


@pytest.mark.parametrize(
    "rate",
    [
        ConstantRate(17.0),
        TokenBucket(17.0, 120_000, 100.0),
        TokenBucket(17.0, 800, 17.0),
        TracedRate([0, 1e6, 2e6], [10, 30, 5], interpolate=True),
        TracedRate([0, 1e6, 2e6], [10, 0, 5], interpolate=False),
        OpportunityRate([1, 1, 2, 5, 9]),
    ],
    ids=["constant", "bucket", "small bucket", "line", "steps", "opportunities"],
)
def test_a_long_backlog_leaves_at_the_mean_rate_within_1_percent(rate):
    left = backlog(rate, 18_750)  # whole rounds of the traces
    assert 18_750 * 12_000 / left[-1] == pytest.approx(rate.mean_mbit_s, rel=0.01)
    assert all(one <= other for one, other in pairwise(left))


def test_a_token_bucket_lets_a_burst_pass_at_its_peak_and_the_rest_at_its_rate():
    bucket = TokenBucket(10.0, 10 * 12_000, 120.0)
    left = backlog(bucket, 30)
    assert left[9] == pytest.approx(10 * 100)
    # While the burst passed more tokens came: 1,000 µs of them.
    assert left[-1] == pytest.approx(20 * 1200)


def test_a_token_bucket_is_full_again_after_a_pause():
    bucket = TokenBucket(10.0, 10 * 12_000, 120.0)
    backlog(bucket, 30)
    later = 24_000 + 12_000
    assert bucket.finish(later, 10 * 12_000) == pytest.approx(later + 1000)
    assert bucket.finish(later + 1000, 12_000) == pytest.approx(later + 1000 + 200)


@settings(max_examples=40)
@given(TRACES, st.booleans(), st.floats(0, 3e7), st.floats(1, 1e8), st.floats(0, 1e7))
def test_what_leaves_in_pieces_leaves_as_a_whole(steps, interpolate, start, bits, offset):
    rate = traced(steps, interpolate, offset_us=offset)
    left = rate.finish(start, bits)
    pieces = start
    for _ in range(7):
        pieces = rate.finish(pieces, bits / 7)
    assert start <= left == pytest.approx(pieces, rel=1e-5, abs=1)
    # A round of the trace carries the mean.
    period = sum(gap for gap, _ in steps) * 1e6 if len(steps) > 1 else 1e6
    if len(steps) > 1:
        period += (steps[-2][0] - steps[-1][0]) * 1e6
    assert rate.finish(left, rate.mean_mbit_s * period) - left == pytest.approx(period, rel=1e-3)


def test_an_interpolated_trace_changes_evenly_and_a_stepped_one_at_its_times():
    line = TracedRate([0, 1e6], [0, 100], interpolate=True)
    # 100 t²/2 bits after t seconds, times 10⁶.
    assert line.finish(0.0, 12.5e6) == pytest.approx(0.5e6)
    steps = TracedRate([0, 1e6], [0, 100], interpolate=False)
    assert steps.finish(0.0, 1e6) == pytest.approx(1.01e6)


def test_a_trace_without_rate_in_it_holds_packets_until_there_is_some():
    rate = TracedRate([0, 1e6, 2e6], [10, 0, 10], interpolate=False)
    assert rate.finish(0.0, 10e6) == pytest.approx(1e6)
    assert rate.finish(1e6, 10_000) == pytest.approx(2.001e6)
    # The last bit of a round is out before the pause at its end.
    assert TracedRate([0, 1e6], [10, 0], interpolate=False).finish(0.0, 10e6) == pytest.approx(1e6)


def test_opportunities_carry_parts_of_packets_and_are_wasted_when_nobody_waits():
    rate = OpportunityRate([2, 4, 6])
    assert [rate.finish(0.0, 6_000), rate.finish(2000.0, 6_000)] == [2000.0, 2000.0]
    assert rate.finish(2000.0, 24_000) == 6000.0
    assert rate.finish(6500.0, 12_000) == 8000.0
    assert OpportunityRate([2, 4, 6]).finish(6000.0, 12_000) == 6000.0
    # Half of the opportunity at 8 ms of the second round is gone unused.
    assert rate.finish(8001.0, 12_000) == 10_000.0


def test_one_opportunity_a_millisecond_is_12_mbit_s():
    assert OpportunityRate([1]).mean_mbit_s == 12.0
    assert backlog(OpportunityRate([1]), 3) == [1000.0, 2000.0, 3000.0]
    assert backlog(OpportunityRate([0, 1]), 4) == [0.0, 1000.0, 1000.0, 2000.0]
