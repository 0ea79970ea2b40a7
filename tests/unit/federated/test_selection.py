"""Who is asked: pure, by a given generator."""

from __future__ import annotations

import random

import pytest

from collab.federated.orders import Capabilities
from collab.federated.selection import asked_for, choose, estimated_seconds, steps_of, wanted_of
from collab.federated.task import Cohort
from collab.federated.update import LocalTraining

NAMES = [f"c{i}" for i in range(20)]
CANDIDATES = {name: Capabilities(samples=100) for name in NAMES}


def chosen(cohort, count, *, seed=1, misses=None, estimates=None, candidates=CANDIDATES, left_s=10.0):
    return choose(
        cohort,
        candidates,
        count,
        random.Random(seed),
        misses=misses or {},
        estimates=estimates or {},
        left_s=left_s,
    )


def test_all_are_asked_in_order():
    assert chosen(Cohort(), 100) == sorted(NAMES)


def test_a_random_choice_depends_on_the_seed_and_not_on_the_order_of_clients():
    cohort = Cohort(select="random", count=5)
    turned = dict(reversed(CANDIDATES.items()))
    assert chosen(cohort, 5) == chosen(cohort, 5, candidates=turned)
    assert chosen(cohort, 5) != chosen(cohort, 5, seed=2)


def test_over_many_rounds_a_random_choice_is_even():
    counts = dict.fromkeys(NAMES, 0)
    for seed in range(2000):
        for name in chosen(Cohort(select="random", count=5), 5, seed=seed):
            counts[name] += 1
    assert min(counts.values()) > 400
    assert max(counts.values()) < 600


def test_those_that_have_failed_least_are_asked_first():
    misses = dict.fromkeys(NAMES[:15], 2)
    assert set(chosen(Cohort(select="available", count=5), 5, misses=misses)) == set(NAMES[15:])


def test_only_those_are_asked_who_can_answer_by_the_deadline():
    estimates = {name: 20.0 for name in NAMES} | {"c1": 5.0, "c2": 9.0, "c3": None}
    assert set(chosen(Cohort(select="deadline", count=5), 5, estimates=estimates)) == {"c1", "c3"}


@pytest.mark.parametrize(
    ("cohort", "could", "wanted", "asked"),
    [
        (Cohort(), 7, 7, 7),
        (Cohort(select="random", count=10), 7, 10, 10),
        (Cohort(select="random", fraction=0.1), 30, 3, 3),
        (Cohort(select="random", fraction=0.1), 2, 1, 1),
        (Cohort(select="random", count=10, over_selection=1.3), 99, 10, 13),
    ],
)
def test_how_many_are_wanted_and_asked(cohort, could, wanted, asked):
    assert wanted_of(cohort, could) == wanted
    assert asked_for(cohort, wanted) == asked


def test_an_estimate_is_transfers_and_steps():
    capabilities = Capabilities(samples=100, step_s=0.1, down_bytes_s=1e6, up_bytes_s=5e5, rtt_s=0.1)
    training = LocalTraining(epochs=2, batch_size=32)
    assert steps_of(capabilities, training) == 8
    assert steps_of(capabilities, LocalTraining(epochs=2, batch_size=32, max_steps=5)) == 5
    assert estimated_seconds(capabilities, training, 2_000_000, 1_000_000) == pytest.approx(2 + 0.8 + 2 + 0.3)


@pytest.mark.parametrize("missing", ["step_s", "down_bytes_s", "up_bytes_s"])
def test_without_a_measurement_there_is_no_estimate(missing):
    fields = {"step_s": 0.1, "down_bytes_s": 1e6, "up_bytes_s": 1e6} | {missing: None}
    assert estimated_seconds(Capabilities(samples=9, **fields), LocalTraining(), 1, 1) is None
