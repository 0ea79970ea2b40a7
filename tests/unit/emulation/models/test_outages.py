"""Times without service."""

from __future__ import annotations

import random
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.emulation.models.outages import Gate, renewal, united

SPELLS = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 20)), max_size=8).map(
    lambda spells: sorted((float(at), float(at + span)) for at, span in spells)
)


def test_random_outages_have_their_mean_gap_and_length():
    spells = list(islice(renewal(random.Random(1), 60e6, 2e6), 4_000))
    lengths = [stop - start for start, stop in spells]
    gaps = [two[0] - one[1] for one, two in pairwise(spells)]
    # Three standard errors of an exponential mean.
    assert np.mean(lengths) == pytest.approx(2e6, rel=0.05)
    assert np.mean(gaps) == pytest.approx(60e6, rel=0.05)


@settings(max_examples=30)
@given(SPELLS, SPELLS)
def test_united_spells_do_not_touch_and_cover_the_same_times(some, others):
    joined = list(united(some, others))
    assert all(one[1] < two[0] for one, two in pairwise(joined))

    def covered(spells, at):
        return any(start <= at < stop for start, stop in spells)

    for at in range(125):
        assert covered(joined, at) == covered([*some, *others], at)


def test_a_gate_says_when_service_is_back():
    gate = Gate(iter([(10.0, 20.0), (30.0, 40.0)]), holds=True)
    assert [gate.opens(at) for at in (5.0, 10.0, 19.0, 20.0, 35.0, 40.0, 1e9)] == [
        *(5.0, 20.0, 20.0),
        *(20.0, 40.0, 40.0, 1e9),
    ]
