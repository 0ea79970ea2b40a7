"""Budgets: what rounds cost, and when there must be no more."""

from __future__ import annotations

import math

import msgspec
import pytest

from collab.errors import ConfigError, Refused
from collab.federated.privacy import accounting
from collab.federated.privacy.accounting import Budget, Release, noise_for

BUDGET = Budget(epsilon=8.0, delta=1e-5)
CENTRAL = Release(noise_multiplier=5.0)


def spend(budget: Budget, release: Release, rounds: int) -> Budget:
    for _ in range(rounds):
        budget = budget.charged(release)
    return budget


def test_one_round_costs_what_theory_says():
    # Rényi of one Gaussian mechanism: a / 2z² at every order a; converted as in Canonne et al., NeurIPS 2020.
    z, delta = 5.0, 1e-5
    theory = min(
        a / (2 * z * z) + math.log1p(-1 / a) - math.log(delta * a) / (a - 1)
        for a in [1 + x / 100 for x in range(1, 20_000)]
    )
    assert BUDGET.charged(CENTRAL).spent() == pytest.approx(theory, rel=0.02)


def test_nothing_is_spent_before_the_first_round_and_more_with_every_one():
    assert BUDGET.spent() == 0
    costs = [spend(BUDGET, CENTRAL, rounds).spent() for rounds in (1, 2, 10)]
    assert costs == sorted(costs)
    assert costs[0] > 0
    assert spend(BUDGET, CENTRAL, 10).rounds == 10


def test_the_round_that_would_overspend_is_refused_and_leaves_the_budget_as_it_was():
    budget, rounds = BUDGET, 0
    while budget.allows(CENTRAL):
        budget, rounds = budget.charged(CENTRAL), rounds + 1
    assert 5 < rounds < 100
    assert budget.spent() <= 8
    with pytest.raises(
        Refused, match=rf"round {rounds + 1} would cost epsilon .* the limit is 8; training ends"
    ):
        budget.charged(CENTRAL)
    assert budget.rounds == rounds


def test_a_release_without_noise_is_refused_by_any_limit():
    bare = Release(noise_multiplier=0.0)
    assert not BUDGET.allows(bare)
    assert Budget(epsilon=math.inf, delta=1e-5).charged(bare).spent() == math.inf


def test_a_chance_to_be_left_out_saves_budget_and_being_replaced_costs_twice_the_noise():
    poisson, fixed = (
        Release(noise_multiplier=1.0, sampling=kind, cohort=100, population=10_000)
        for kind in ("poisson", "fixed")
    )
    none = Release(noise_multiplier=1.0)
    costs = {
        r.sampling: spend(Budget(epsilon=1e9, delta=1e-5), r, 10).spent() for r in (poisson, fixed, none)
    }
    assert costs["poisson"] < costs["fixed"] < costs["none"]


def test_local_noise_hides_one_update_behind_another_so_it_counts_half():
    local = Release(noise_multiplier=10.0, place="local")
    assert BUDGET.charged(local).spent() == BUDGET.charged(CENTRAL).spent()


def test_costs_of_different_rounds_add_up():
    loud, quiet = Release(noise_multiplier=3.0), Release(noise_multiplier=6.0)
    mixed = BUDGET.charged(loud).charged(quiet).charged(quiet)
    assert mixed.releases == ((loud, 1), (quiet, 2))
    # Precisions of Gaussian mechanisms add up.
    one = Release(noise_multiplier=(3.0**-2 + 2 * 6.0**-2) ** -0.5)
    assert mixed.spent() == pytest.approx(BUDGET.charged(one).spent())


def test_a_budget_survives_being_stored():
    budget = spend(BUDGET, CENTRAL, 3)
    stored = msgspec.json.encode(budget)
    assert msgspec.json.decode(stored, type=Budget) == budget


def test_noise_for_a_number_of_rounds_is_just_enough():
    multiplier = noise_for(BUDGET, CENTRAL, 20)
    enough = Release(noise_multiplier=multiplier)
    spent = spend(BUDGET, enough, 20)
    assert 7.9 < spent.spent() <= 8
    assert not spent.allows(enough)
    with pytest.raises(ConfigError, match="plan fewer rounds"):
        noise_for(Budget(epsilon=1e-3, delta=1e-9), CENTRAL, 100_000)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sampling": "fixed", "cohort": 3, "population": 2}, "cohort 3 is more than population 2"),
        ({"sampling": "poisson", "place": "local", "population": 2}, "gains nothing from sampling"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
    ],
)
def test_releases_that_mean_nothing_are_refused_when_read(fields, why):
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.convert({"noise_multiplier": 1.0, **fields}, Release)


def test_two_kinds_of_sampling_do_not_mix():
    kinds = [Release(1.0, sampling=kind, cohort=1, population=100) for kind in ("poisson", "fixed")]
    with pytest.raises(ConfigError, match="use one"):
        BUDGET.charged(kinds[0]).charged(kinds[1])


def test_a_missing_accountant_is_named_with_its_extra(monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(accounting.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"install collab\[privacy\]"):
        BUDGET.charged(CENTRAL)
