"""Whether a new model may take over, from what was measured of both."""

from __future__ import annotations

import math

import pytest

from collab.federated.swapping import (
    Asked,
    Compared,
    is_due,
    pooled,
    refused_by_answers,
    refused_by_examples,
)
from collab.federated.task import DeployRules


def rules(**changes):
    return DeployRules(plan="p.yaml", **changes)


@pytest.mark.parametrize(
    ("metric", "running", "candidate", "minimum_gain", "taken"),
    [
        ("accuracy", 0.90, 0.91, 0.0, True),
        ("accuracy", 0.90, 0.90, 0.0, True),
        ("accuracy", 0.90, 0.89, 0.0, False),
        ("accuracy", 0.90, 0.89, -0.01, True),
        ("accuracy", 0.90, 0.88, -0.01, False),
        ("accuracy", 0.90, 0.91, 0.01, True),
        ("accuracy", 0.90, 0.905, 0.01, False),
        ("loss", 1.5, 1.4, 0.0, True),
        ("loss", 1.5, 1.6, 0.0, False),
        ("loss", 1.5, 1.3, 0.1, True),
        ("loss", 1.5, 1.45, 0.1, False),
        ("loss", math.nan, 1.45, 0.1, True),
        ("loss", 1.5, math.nan, -9.0, False),
        ("loss", 1.5, math.inf, -math.inf, False),
    ],
)
def test_a_model_takes_over_only_with_the_gain_that_was_asked_for(
    metric, running, candidate, minimum_gain, taken
):
    reason = refused_by_examples(Compared(metric, running, candidate, 200), rules(minimum_gain=minimum_gain))
    assert (reason == "") == taken, reason


def test_without_examples_nothing_takes_over():
    assert "not known" in refused_by_examples(Compared("accuracy", 0.1, 0.9, 0), rules())


def test_a_refusal_says_both_figures_and_what_was_asked_for():
    text = refused_by_examples(Compared("accuracy", 0.9, 0.905, 200), rules(minimum_gain=0.01))
    assert text == (
        "accuracy 0.905 on 200 held-out examples, 0.9 of the model that runs, 0.01 better is asked for"
    )


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(20, 0, 5.0, 5.0), ""),
        (Asked(20, 0, 7.5, 5.0), ""),
        (Asked(20, 0, 7.6, 5.0), "take 7.6 ms"),
        (Asked(20, 0, 99.0, None), ""),
        (Asked(20, 1, 1.0, 5.0), "1 of 20 answers"),
        (Asked(20, 20, 1.0, None), "20 of 20 answers"),
    ],
)
def test_answers_over_the_nodes_must_be_right_and_not_slow(asked, words):
    reason = refused_by_answers(asked, rules(tolerance=0.5))
    assert (words in reason) if words else reason == ""


def test_what_clients_measured_is_weighted_by_samples_and_accuracy_comes_first():
    pairs = [
        (30, {"loss": 2.0, "accuracy": 0.5}, {"loss": 1.0, "accuracy": 0.7}),
        (10, {"loss": 4.0, "accuracy": 0.1}, {"loss": 9.0, "accuracy": 0.3}),
    ]
    found = pooled(pairs)
    assert found is not None
    assert (found.metric, found.samples) == ("accuracy", 40)
    assert (found.running, found.candidate) == pytest.approx((0.4, 0.6))
    only_loss = pooled([(10, {"loss": 2.0}, {"loss": 1.0, "accuracy": 0.7})])
    assert only_loss is not None
    assert (only_loss.metric, only_loss.gain) == ("loss", 1.0)


@pytest.mark.parametrize("pairs", [[], [(0, {"loss": 1.0}, {"loss": 1.0})], [(5, {"loss": 1.0}, {})]])
def test_without_a_client_that_measured_both_nothing_is_known(pairs):
    assert pooled(pairs) is None


def test_models_are_due_every_so_many_rounds_or_only_at_the_end():
    assert [n for n in range(1, 8) if is_due(rules(every=3), n)] == [3, 6]
    assert not any(is_due(rules(every=0), n) for n in range(1, 8))
