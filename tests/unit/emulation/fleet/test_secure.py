"""Secure aggregation in simulated runs: exact sums, drop-outs, and noise on what was never seen alone."""

from __future__ import annotations

import re

import numpy as np
import pytest

from collab.emulation.fleet.world import Conditions
from collab.federated.privacy import sessions
from collab.federated.privacy.fixed_point import decode_sum
from collab.federated.privacy.masking import Masking
from tests.unit.emulation.fleet.fleets import Fleet, run_fleet, task_of
from tests.unit.emulation.fleet.test_world import same

ALL = {"cohort": {"select": "all"}}


@pytest.fixture
def given(monkeypatch):
    """Every update that a client masks, with the round's masking."""
    seen, masked = [], sessions.ClientSession.masked

    def spy(self, delta, samples):
        seen.append((self._masking, delta, samples))
        return masked(self, delta, samples)

    monkeypatch.setattr(sessions.ClientSession, "masked", spy)
    return seen


def plain_model(fleet, given):
    """What the fixed-point mean of these updates makes of the first model."""
    masking: Masking = given[0][0]
    shapes = {name: array.shape for name, array in given[0][1].items()}
    total = np.add.reduce([masking.vector(delta, samples) for _, delta, samples in given])
    mean = decode_sum(masking.encoding, shapes, total, len(given)).mean()
    return {name: (weight + mean[name]).astype(np.float32) for name, weight in fleet.initial().items()}


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_the_model_is_that_of_the_plain_fixed_point_sum_to_the_bit(tmp_path, given, weighting):
    task = task_of(rounds=1, secure_aggregation=True, aggregation={"weighting": weighting}, **ALL)
    fleet = Fleet(10)
    finish, watched, model = run_fleet(tmp_path, fleet, task)
    assert (finish.outcome, finish.rounds) == ("done", 1)
    assert len(given) == 10
    assert {samples for _, _, samples in given} == set(fleet.sizes)
    assert same(model, plain_model(fleet, given))
    assert watched.records[0].loss is None


def test_two_of_ten_drop_out_and_the_sum_is_still_exact(tmp_path, given):
    task = task_of(rounds=1, secure_aggregation={"threshold": 7}, round={"deadline_s": 30}, seed=1, **ALL)
    fleet = Fleet(10)
    _, watched, model = run_fleet(tmp_path, fleet, task, Conditions(drop_outs=0.2))
    (record,) = watched.records
    assert (record.outcome, len(record.took_part), len(given)) == ("made", 8, 8)
    assert {out.kind for out in record.left_out} == {"late"}
    assert same(model, plain_model(fleet, given))


def test_a_round_that_lost_too_many_says_so_and_the_run_goes_on(tmp_path):
    rules = {"deadline_s": 30, "on_lack": "skip", "quorum": 0.1}
    task = task_of(rounds=6, secure_aggregation=True, round=rules, clients={"wait_s": 100}, seed=1, **ALL)
    finish, watched, _ = run_fleet(tmp_path, Fleet(10), task, Conditions(drop_outs=0.3))
    outcomes = [record.outcome for record in watched.records]
    assert (finish.exit_code, set(outcomes)) == (0, {"made", "skipped"})
    reasons = {record.reason for record in watched.records if record.outcome == "skipped"}
    assert all(re.search(r"^\d of \d updates", reason) for reason in reasons), reasons


def test_secure_rounds_learn_as_well_as_others(tmp_path):
    _, one, plain = run_fleet(tmp_path / "plain", Fleet(10), task_of(rounds=4, **ALL))
    _, other, masked = run_fleet(tmp_path / "masked", Fleet(10), task_of(secure_aggregation=True, **ALL))
    assert other.records[-1].evaluation["accuracy"] == one.records[-1].evaluation["accuracy"]
    assert all(np.allclose(plain[name], masked[name], atol=1e-6) for name in plain)


@pytest.mark.parametrize("adaptive", [False, True])
def test_central_noise_on_a_secure_sum_has_the_bits_of_that_on_a_plain_one(tmp_path, monkeypatch, adaptive):
    monkeypatch.setattr("collab.federated.server_work.secrets.token_bytes", lambda count: bytes(count))
    models = []
    for name, secure in (("plain", False), ("masked", True)):
        task = task_of(
            rounds=2,
            secure_aggregation=secure,
            aggregation={"weighting": "uniform"},
            privacy={"clip": 0.5, "noise_multiplier": 0.3, "adaptive": adaptive},
            **ALL,
        )
        _, watched, model = run_fleet(tmp_path / name, Fleet(10), task)
        assert watched.records[-1].metrics["epsilon"] > 0
        models.append(model)
    assert same(*models)


def test_an_update_that_cannot_be_encoded_is_not_sent_and_its_client_is_named(tmp_path):
    task = task_of(rounds=1, secure_aggregation=True, **ALL)
    _, watched, _ = run_fleet(tmp_path, Fleet(10, frozenset({3})), task)
    (out,) = watched.records[0].left_out
    assert (out.client, out.kind) == ("c3", "failed")
    assert "not finite" in out.reason
