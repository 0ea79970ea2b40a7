"""The least agreement that an honest member keeps to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.coordinator.quarantine import CHANCE, WINDOW, agreements, least_agreements, rule_of
from collab.core.plan import Quarantine
from collab.runtime.quarantine import Watch


def chance_below(least: int, share: float) -> float:
    return sum(math.comb(WINDOW, k) * share**k * (1 - share) ** (WINDOW - k) for k in range(least))


@given(st.integers(1, 5000), st.floats(0.3, 1))
def test_an_honest_member_falls_below_its_least_with_the_stated_chance_at_most(judged, share):
    agreed = round(share * judged)
    least = least_agreements(agreed, judged)
    assert 0 <= least <= WINDOW
    assert chance_below(least, agreed / judged) <= CHANCE


def test_with_many_examples_no_more_than_the_chance_is_given_away():
    for share in (0.6, 0.8, 0.95, 0.99):
        least = least_agreements(round(share * 10**7), 10**7)
        assert chance_below(least, share) <= CHANCE < chance_below(least + 1, share)


def test_fewer_examples_ask_for_less():
    assert [least_agreements(count * 9 // 10, count) for count in (10, 100, 1000, 100_000)] == sorted(
        least_agreements(count * 9 // 10, count) for count in (10, 100, 1000, 100_000)
    )
    assert least_agreements(0, 0) == least_agreements(0, 10) == 0


def answers(picks) -> np.ndarray:
    made: np.ndarray = np.eye(4, dtype=np.float32)[np.asarray(picks)][:, None]
    return made


def test_agreement_is_counted_where_there_is_a_majority_and_finite_numbers():
    one, two, three = answers([0, 1, 2, 3]), answers([0, 1, 3, 3]), answers([0, 2, 1, 3])
    three[3] = np.nan
    found = agreements([one, two, three])
    assert [(a.agreed, a.judged) for a in found] == [(3, 3), (3, 3), (1, 2)], "the third example has none"


def test_a_member_that_agrees_no_more_than_one_that_guesses_is_told():
    random = np.random.default_rng(0)
    label = random.integers(4, size=500)
    good, guess = answers(label), answers(random.integers(4, size=500))
    found = agreements([good, good.copy(), guess])
    assert [one.blind for one in found] == [False, False, True]
    assert rule_of(found) == Quarantine(least=(45, 45, found[2].least), window=50)


@pytest.mark.parametrize("rates", [(0.9, 0.9, 0.9), (0.97, 0.8, 0.9)])
def test_honest_members_stay_in_over_many_requests(rates):
    def drawn(count):
        label = random.integers(4, size=count)
        return [np.where(random.random(count) < r, label, random.integers(4, size=count)) for r in rates]

    random = np.random.default_rng(1)
    rule = rule_of(agreements([answers(picks) for picks in drawn(1000)]))
    watched = Watch(rule)
    changes = [
        c for picks in zip(*drawn(5000), strict=True) for c in watched.observe([int(p) for p in picks])
    ]
    assert changes == []
