"""Shares and bursts of what happens by chance."""

from __future__ import annotations

import random
from itertools import groupby, pairwise
from math import sqrt

import pytest

from collab.emulation.models.chance import GilbertElliott, Independent, bursts, to_bad

PACKETS = 60_000


def happened(chance, count: int = PACKETS) -> list[bool]:
    return [chance.happens() for _ in range(count)]


def runs(events: list[bool]) -> list[int]:
    return [len(list(group)) for event, group in groupby(events) if event]


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5])
def test_independent_loss_is_within_its_99_percent_interval(probability):
    events = happened(Independent(random.Random(5), probability))
    margin = 2.576 * sqrt(probability * (1 - probability) / PACKETS)
    assert sum(events) / PACKETS == pytest.approx(probability, abs=margin)
    assert sum(runs(events)) / len(runs(events)) == pytest.approx(1 / (1 - probability), rel=0.05)


def test_what_is_certain_always_happens_and_what_is_impossible_never():
    assert all(happened(Independent(random.Random(1), 1.0), 100))
    assert not any(happened(Independent(random.Random(1), 0.0), 100))


@pytest.mark.parametrize("burst", [2.0, 5.0, 20.0])
def test_bursts_have_their_mean_length_and_the_loss_its_share(burst):
    events = happened(bursts(random.Random(3), 0.05, burst, 1.0))
    lengths = runs(events)
    # The deviation of a geometric length is less than its mean.
    margin = 2.576 * burst / sqrt(len(lengths))
    assert sum(lengths) / len(lengths) == pytest.approx(burst, abs=margin)
    # Losses come in clumps: as if there were fewer packets (Bernoulli's interval by the factor 2 b - 1).
    share = 2.576 * sqrt(0.05 * 0.95 / PACKETS * (2 * burst - 1))
    assert sum(events) / PACKETS == pytest.approx(0.05, abs=share)


def test_within_a_bad_spell_only_a_share_may_be_lost():
    events = happened(bursts(random.Random(4), 0.05, 20.0, 0.5))
    assert sum(events) / PACKETS == pytest.approx(0.05, abs=0.01)
    again = sum(one and other for one, other in pairwise(events)) / sum(events)
    # Still in the spell, and lost there.
    assert again == pytest.approx(0.95 * 0.5, abs=0.05)


def test_a_chain_that_always_changes_its_state_loses_every_other_packet():
    events = happened(GilbertElliott(random.Random(1), 1.0, 1.0), 10)
    assert {one != other for one, other in pairwise(events)} == {True}


def test_loss_that_no_such_spells_make_is_recognised():
    assert to_bad(0.5, 2.0, 1.0) == pytest.approx(0.5)
    assert to_bad(0.9, 2.0, 1.0) > 1
    assert to_bad(0.5, 100.0, 0.4) > 1
