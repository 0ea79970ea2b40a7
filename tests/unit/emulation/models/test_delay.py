"""Distributions of delay, drawn and by their shapes."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.emulation.models.delay import (
    ConstantDelay,
    CorrelatedJitter,
    Jitter,
    constant,
    normal,
    pareto,
    quantiles,
)

SHAPES = {
    "constant": constant(5_000),
    "normal": normal(50_000, 4_000),
    "pareto": pareto(10_000, 3_000, 3.0),
    "quantiles": quantiles([(0.0, 6_000), (0.1, 7_000), (0.5, 9_000), (0.9, 14_000), (1.0, 30_000)]),
}
QS = [0.05, 0.25, 0.5, 0.75, 0.9, 0.99]


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_drawn_delays_have_the_quantiles_of_their_shape(name, correlated):
    rng, shape = random.Random(11), SHAPES[name]
    jitter = CorrelatedJitter(rng, shape, 5_000) if correlated else Jitter(rng, shape)
    # 4 ms apart: neither the same from one to the next nor independent.
    drawn = np.quantile([jitter.draw(i * 4_000.0) for i in range(15_000)], QS)
    assert drawn == pytest.approx([shape(1 - q) for q in QS], rel=0.05)


def test_the_shapes_are_those_of_their_names():
    assert SHAPES["normal"](0.5) == pytest.approx(50_000)
    assert SHAPES["normal"](0.1587) == pytest.approx(54_000, rel=1e-3)
    ranks = (np.arange(50_000) + 0.5) / 50_000
    assert np.mean([SHAPES["pareto"](rank) for rank in ranks]) == pytest.approx(13_000, rel=0.01)
    # Survival (1 + x / scale)^-3 with the scale 6,000.
    assert SHAPES["pareto"](0.125) == pytest.approx(10_000 + 6_000)
    assert SHAPES["quantiles"](0.5) == pytest.approx(9_000)
    assert SHAPES["quantiles"](0.3) == pytest.approx(11_500)
    assert quantiles([(0.1, 1.0), (0.9, 3.0)], 5.0)(1.0) == 6.0
    assert quantiles([(0.1, 1.0), (0.9, 3.0)], 5.0)(1e-9) == 8.0
    assert normal(1_000, 4_000)(0.99) == 0.0
    assert normal(1_000, 4_000)(1.0) == 0.0


@settings(max_examples=50)
@given(st.sampled_from(sorted(SHAPES)), st.floats(1e-12, 1), st.floats(1e-12, 1))
def test_a_smaller_rank_is_never_a_smaller_delay(name, one, other):
    shape = SHAPES[name]
    assert shape(min(one, other)) >= shape(max(one, other)) * (1 - 1e-12)


def test_packets_close_to_each_other_have_like_delays_and_far_ones_do_not():
    jitter = CorrelatedJitter(random.Random(2), SHAPES["normal"], 20_000)
    drawn = np.array([jitter.draw(i * 1_000.0) for i in range(20_000)])

    def likeness(lag: int) -> float:
        return float(np.corrcoef(drawn[:-lag], drawn[lag:])[0, 1])

    assert likeness(1) > 0.98
    assert 0.2 < likeness(20) < 0.6
    assert abs(likeness(60)) < 0.15


def test_correlated_jitter_does_not_slow_a_fast_stream_down():
    jitter = CorrelatedJitter(random.Random(2), SHAPES["normal"], 20_000)
    arrivals = [at + jitter.draw(at) for at in np.arange(0, 5e5, 20.0)]
    late = sum(other < one for one, other in pairwise(arrivals))
    assert late / len(arrivals) < 0.02


def test_a_pause_of_hours_costs_nothing():
    jitter = CorrelatedJitter(random.Random(2), SHAPES["normal"], 1.0)
    assert jitter.draw(1e13) > 0


def test_without_jitter_nothing_is_drawn():
    assert ConstantDelay(7.0).draw(3.0) == 7.0
