"""Partitioners: every example once, by the law that was asked for, or a clear refusal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.errors import ConfigError
from collab.federated.partition import class_table, natural, outcome, parse_rule, partition

LABELS = np.random.default_rng(7).integers(0, 10, 6000)
RULES = ("iid", "dirichlet:0.5", "dirichlet:0.01", "shards:2", "lognormal:1", "power:1.2")


def divided(rule, clients, labels=LABELS, seed=3, **options):
    return partition(parse_rule(rule), labels, clients, seed, **options)


@pytest.mark.parametrize("rule", RULES)
@given(clients=st.integers(1, 60), seed=st.integers(0, 2**32), samples=st.integers(180, 400))
@settings(max_examples=15, deadline=None)
def test_every_example_goes_to_exactly_one_client_and_no_client_is_empty(rule, clients, seed, samples):
    part = divided(rule, clients, LABELS[:samples], seed)
    assert len(part.rows) == len(part.owners) == len(set(part.owners)) == clients
    assert sorted(np.concatenate(part.rows).tolist()) == list(range(samples))
    assert part.sizes.min() >= 1
    again = divided(rule, clients, LABELS[:samples], seed)
    assert all(np.array_equal(a, b) for a, b in zip(part.rows, again.rows, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_another_seed_divides_otherwise(rule):
    one, other = divided(rule, 20, seed=1), divided(rule, 20, seed=2)
    assert any(not np.array_equal(a, b) for a, b in zip(one.rows, other.rows, strict=True))


def test_iid_parts_are_alike_and_shards_hold_few_classes():
    alike, few = outcome(divided("iid", 20), LABELS), outcome(divided("shards:2", 20), LABELS)
    assert alike.largest - alike.smallest <= 1
    assert alike.skew < 0.1 < 0.6 < few.skew
    assert alike.classes_held == 10
    assert few.classes_held <= 4


def test_a_smaller_alpha_gives_more_skew():
    skews = [outcome(divided(f"dirichlet:{alpha}", 30), LABELS).skew for alpha in (100, 1, 0.1)]
    assert skews == sorted(skews)
    assert skews[0] < 0.12
    assert skews[2] > 0.5


def test_dirichlet_shares_have_the_law_that_they_are_drawn_from():
    # Of Dirichlet(a, …, a) over n clients, a share has mean 1/n and variance (n - 1) / (n²·(n·a + 1)).
    labels = np.zeros(100_000, np.int64)
    n, alpha = 50, 0.5
    shares = np.concatenate([divided(f"dirichlet:{alpha}", n, labels, s).sizes / 1e5 for s in range(40)])
    assert shares.mean() == pytest.approx(1 / n)
    assert shares.var() == pytest.approx((n - 1) / (n**2 * (n * alpha + 1)), rel=0.1)


def test_sizes_follow_the_law_and_stay_identically_distributed():
    even, uneven = divided("lognormal:0.1", 50), divided("lognormal:1.5", 50)
    assert uneven.sizes.max() / np.median(uneven.sizes) > 4 > even.sizes.max() / np.median(even.sizes)
    power = divided("power:1.2", 50)
    assert power.sizes.max() / np.median(power.sizes) > 3
    assert np.corrcoef(power.sizes, class_table(power, LABELS)[:, 0])[0, 1] > 0.95


def test_clients_with_too_few_are_topped_up_from_the_largest():
    part = divided("dirichlet:0.05", 100, at_least=20)
    assert part.sizes.min() >= 20
    assert part.sizes.sum() == len(LABELS)


def test_ten_thousand_clients_of_six_examples_each_is_possible():
    labels = np.random.default_rng(0).integers(0, 10, 60_000)
    part = divided("dirichlet:0.5", 10_000, labels)
    assert part.sizes.min() >= 1
    assert part.sizes.sum() == 60_000


def test_natural_clients_are_the_owners_who_have_enough():
    owners = ["ann"] * 5 + ["bob"] * 2 + ["cyd"] * 4
    every = natural(owners, 0, 1)
    assert every.owners == ("ann", "bob", "cyd")
    assert [part.tolist() for part in every.rows] == [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9, 10]]
    assert natural(owners, 2, 1, at_least=3).owners == ("ann", "cyd")
    assert len({natural(owners, 1, seed).owners for seed in range(20)}) > 1


@pytest.mark.parametrize(
    ("rule", "clients", "options", "said"),
    [
        ("iid", 6001, {}, "at most 6000 clients"),
        ("iid", 0, {}, "clients 0"),
        ("dirichlet:0.5", 100, {"at_least": 61}, "at most 98 clients"),
        ("shards:7", 1000, {}, "at most 857 clients"),
        ("natural", 3, {}, "name its column"),
        ("natural", 3, {"owners": ["a", "b"] * 3000}, "ask for at most 2"),
        ("natural", 1, {"owners": ["a"]}, "1 owners of 6000 examples"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(rule, clients, options, said):
    with pytest.raises(ConfigError, match=said):
        divided(rule, clients, **options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dirichlet:", "above 0"),
        ("dirichlet:-1", "above 0"),
        ("dirichlet:nan", "above 0"),
        ("power:inf", "above 0"),
        ("shards:1.5", "whole number"),
        ("iid:2", "takes no number"),
        ("zipf", "use one of iid, dirichlet"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_rule(text)


def test_a_rule_reads_as_it_was_written():
    assert [str(parse_rule(rule)) for rule in RULES] == list(RULES)
    assert str(parse_rule("shards")) == "shards:2"
