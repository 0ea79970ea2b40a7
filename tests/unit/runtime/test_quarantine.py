"""Who is left out of an ensemble, and when it is taken in again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.core.plan import Quarantine, most_out
from collab.runtime.quarantine import Change, Watch, majority

WINDOW, LEAST = 10, 7


def watch(count=3, least=LEAST, window=WINDOW):
    return Watch(Quarantine(least=(least,) * count, window=window))


@pytest.mark.parametrize(
    ("picks", "voters", "answer"),
    [
        ([1, 1, 2], [0, 1, 2], 1),
        ([1, 2, 3], [0, 1, 2], None),
        ([1, 1, 2, 2], [0, 1, 2, 3], None),
        ([1, 1, 2, 3], [0, 1, 2, 3], None),
        ([1, 2, 2], [0, 1], None),
        ([1, None, None], [0, 1, 2], None),
        ([1, 1, None], [0, 1, 2], 1),
        ([None, None, None], [0, 1, 2], None),
        ([0, 0, 0, 5, 5], [0, 1, 2, 3, 4], 0),
    ],
)
def test_the_majority_is_over_half_of_the_voters_that_came_and_two_at_least(picks, voters, answer):
    assert majority(picks, voters) == answer


def test_a_member_is_put_out_when_a_full_window_could_not_reach_its_least():
    watched = watch()
    for _ in range(WINDOW - LEAST):
        assert watched.observe([1, 1, 2]) == []
    assert watched.observe([1, 1, 2]) == [Change(2, True, LEAST - 1)]
    assert watched.out == {2}


def test_it_is_taken_in_again_after_a_window_in_which_it_agrees():
    watched = watch()
    while not watched.out:
        watched.observe([1, 1, 2])
    for _ in range(WINDOW - 1):
        assert watched.observe([1, 1, 1]) == []
    assert watched.observe([1, 1, 1]) == [Change(2, False, WINDOW)]
    assert not watched.out


def test_it_stays_out_while_it_disagrees_and_agrees_at_last_over_one_window():
    watched = watch()
    for _ in range(10 * WINDOW):
        watched.observe([1, 1, 2])
    assert watched.out == {2}
    agreed = 0
    while watched.out:
        agreed += 1
        watched.observe([3, 3, 3])
    assert agreed == LEAST


def test_a_request_without_a_majority_judges_nobody():
    watched = watch()
    for _ in range(10 * WINDOW):
        assert watched.observe([1, 2, 3]) == []
        assert watched.observe([1, 2, None]) == [], "of two that differ nobody is known to be wrong"


def test_a_member_that_gives_nothing_is_not_judged():
    watched = watch()
    for _ in range(10 * WINDOW):
        assert watched.observe([1, 1, None]) == []
    assert watched.observe([1, 1, 2]) == []


def test_two_bad_ones_of_three_that_err_alike_are_taken_for_the_majority():
    watched = watch()
    for _ in range(10 * WINDOW):
        watched.observe([1, 7, 7])
    assert watched.out == {0}


def test_two_bad_ones_of_five_are_both_put_out_and_no_third():
    watched = watch(5)
    for _ in range(10 * WINDOW):
        watched.observe([1, 1, 1, 7, 8])
    assert watched.out == {3, 4}
    for _ in range(10 * WINDOW):
        watched.observe([1, 1, 9, 7, 8])
    assert watched.out == {3, 4}, "those that are left are over half"


def test_of_several_that_fall_below_at_once_the_furthest_below_goes_first():
    watched = Watch(Quarantine(least=(0, 0, 8, 9), window=WINDOW))
    changes = [c for _ in range(3) for c in watched.observe([1, 1, 1, 7])]
    assert changes == [Change(3, True, 8)]
    watched = Watch(Quarantine(least=(10, 0, 0, 10, 0), window=WINDOW))
    assert watched.observe([2, 1, 1, 2, 1]) == [Change(0, True, 9), Change(3, True, 9)]


def test_a_member_without_a_least_is_never_put_out():
    watched = Watch(Quarantine(least=(5, 5, 0), window=5))
    for _ in range(30):
        assert watched.observe([1, 1, 2]) == []


PICKS = st.lists(st.lists(st.sampled_from([None, 0, 0, 0, 1, 2]), min_size=5, max_size=5), max_size=120)


def judged_by_hand(history, out_at, member, window):
    """Whether a member agreed in the last requests that judge it, of some that are given."""
    seen = []
    for picks, out in zip(history, out_at, strict=True):
        answer = majority(picks, [i for i in range(5) if i not in out])
        if answer is not None and picks[member] is not None:
            seen.append(picks[member] == answer)
    return seen[-window:]


@given(PICKS, st.integers(1, 8), st.data())
def test_whoever_is_below_is_out_if_there_is_room_and_nobody_else(history, window, data):
    least = data.draw(st.tuples(*[st.integers(0, window)] * 5))
    watched = Watch(Quarantine(least=least, window=window))
    since = [0] * 5
    out_at = []
    for at, picks in enumerate(history):
        out_at.append(watched.out)
        changes = watched.observe(picks)
        for change in changes:
            i = change.member
            seen = judged_by_hand(history[since[i] : at + 1], out_at[since[i] :], i, window)
            assert change.agreed == window - seen.count(False)
            if change.out:
                assert change.agreed < least[i]
                since[i] = at + 1
            else:
                assert len(seen) == window
                assert sum(seen) >= least[i]
        assert len(watched.out) <= most_out(5)
        for i in set(range(5)) - watched.out if len(watched.out) < most_out(5) else ():
            seen = judged_by_hand(history[since[i] : at + 1], out_at[since[i] :], i, window)
            assert window - seen.count(False) >= least[i]


@given(st.integers(0, 2**32 - 1))
def test_one_member_that_is_wrong_at_random_is_found_and_the_honest_ones_stay(seed):
    random = np.random.default_rng(seed)
    watched = Watch(Quarantine(least=(38, 38, 38), window=50))
    for _ in range(80):
        label = int(random.integers(10))
        honest = [label if random.random() < 0.97 else int(random.integers(10)) for _ in range(2)]
        watched.observe([*honest, int(random.integers(10))])
    assert watched.out == {2}
