"""Even cuts against every possible choice."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import CutError
from collab.planner.even import even_cuts


def slowest(op_ms, cuts):
    bounds = (0, *cuts, len(op_ms))
    return max(sum(op_ms[a:b]) for a, b in pairwise(bounds))


@st.composite
def problems(draw, times=st.integers(0, 9)):
    op_ms = draw(st.lists(times, min_size=1, max_size=9))
    allowed = draw(st.sets(st.integers(1, len(op_ms) - 1))) if len(op_ms) > 1 else set()
    return op_ms, allowed, draw(st.integers(1, len(allowed) + 1))


@given(problems())
def test_the_slowest_stage_is_as_fast_as_any_choice_of_cuts_makes_it(problem):
    op_ms, allowed, stages = problem
    cuts = even_cuts(op_ms, allowed, stages)
    choices = list(combinations(sorted(allowed), stages - 1))
    best = min(slowest(op_ms, choice) for choice in choices)
    assert cuts in choices
    assert slowest(op_ms, cuts) == best
    assert cuts[:1] == min(choice for choice in choices if slowest(op_ms, choice) == best)[:1]


@given(problems(st.floats(0, 100, allow_nan=False)))
def test_fractions_are_no_worse_than_rounding_makes_them(problem):
    op_ms, allowed, stages = problem
    best = min(slowest(op_ms, choice) for choice in combinations(sorted(allowed), stages - 1))
    assert slowest(op_ms, even_cuts(op_ms, allowed, stages)) <= best + 1e-9 * sum(op_ms)


def test_what_is_left_is_cut_evenly_too():
    assert even_cuts([10, 1, 1, 1, 1], range(1, 5), 3) == (1, 3)


@pytest.mark.parametrize("kind", [list, set, tuple, frozenset, dict.fromkeys])
def test_the_allowed_cuts_may_come_in_any_collection_and_order(kind):
    assert even_cuts([1] * 6, kind([5, 3, 1]), 2) == (3,)


@pytest.mark.parametrize(
    ("allowed", "stages", "most"), [([], 2, 1), ([1, 2], 4, 3), ([1], 0, 2), ([1], -1, 2), ([2], 99, 2)]
)
def test_more_stages_than_cuts_allow_are_refused_with_how_many_can_be(allowed, stages, most):
    with pytest.raises(
        CutError, match=rf"{stages} stages: the model can be cut into at most {most}; use fewer"
    ):
        even_cuts([1, 1, 1], allowed, stages)


def test_many_operators_take_no_time_to_speak_of():
    op_ms = [(i * 7919) % 13 + 0.5 for i in range(400)]
    cuts = even_cuts(op_ms, range(1, 400), 8)
    assert slowest(op_ms, cuts) <= sum(op_ms) / 8 + max(op_ms)
