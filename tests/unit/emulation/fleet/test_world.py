"""Federated runs of many clients in one place."""

import numpy as np
import pytest

from collab.emulation.fleet.labour import on_dask
from collab.emulation.fleet.world import Conditions
from tests.unit.emulation.fleet.fleets import Fleet, run_fleet, task_of


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_fleet_learns_and_every_round_is_told(tmp_path):
    finish, watched, _ = run_fleet(tmp_path, Fleet(30), task_of(rounds=6))
    assert (finish.outcome, finish.exit_code) == ("done", 0)
    assert [record.round for record in watched.records] == list(range(1, 7))
    assert all(len(record.took_part) == 8 for record in watched.records)
    assert watched.records[-1].evaluation["accuracy"] > 0.8
    assert watched.records[-1].evaluation["loss"] < watched.records[0].evaluation["loss"]
    assert all(record.up_bytes > 0 < record.down_bytes for record in watched.records)


def test_a_round_takes_as_long_as_its_slowest_client_and_the_link(tmp_path):
    conditions = Conditions(step_s=2.0, rtt_s=0.5, down_bytes_s=1e12, up_bytes_s=1e12)
    _, watched, _ = run_fleet(tmp_path, Fleet(8), task_of(rounds=1), conditions)
    # Two steps for up to 16 examples in batches of 8: offer, accept, model, update announced, update fetched.
    assert watched.records[0].seconds == pytest.approx(2 * 2.0 + 0.5 * 3, abs=0.01)
    assert {took.seconds for took in watched.records[0].took_part} == {4.0}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_here_and_on_dask(tmp_path):
    distributed = pytest.importorskip("distributed")
    task = task_of(rounds=2, compression={"up": {"elements": "int8", "rounding": "stochastic"}})
    fleet, models = Fleet(12), []
    models.append(run_fleet(tmp_path / "here", fleet, task)[2])
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False
        ) as cluster,
        on_dask(fleet, cluster.scheduler_address) as labour,
    ):
        models.append(run_fleet(tmp_path / "dask", fleet, task, labour=labour)[2])
    assert same(models[0], models[1])
    assert not same(models[0], run_fleet(tmp_path / "other", fleet, task_of(rounds=2, seed=1))[2])


def test_real_time_ends_with_the_same_model(tmp_path):
    task = task_of(rounds=2)
    real = Conditions(virtual=False, rtt_s=0.002, down_bytes_s=1e9, up_bytes_s=1e9)
    one = run_fleet(tmp_path / "real", Fleet(10), task, real)
    assert same(one[2], run_fleet(tmp_path / "virtual", Fleet(10), task)[2])
    assert 0 < one[1].records[0].seconds < 10


def test_drop_outs_cost_their_updates_and_no_round(tmp_path):
    task = task_of(
        rounds=8, round={"deadline_s": 60, "quorum": 0.3}, cohort={"select": "random", "count": 10}
    )
    finish, watched, _ = run_fleet(tmp_path, Fleet(40), task, Conditions(drop_outs=0.3))
    took = [len(record.took_part) for record in watched.records]
    assert (finish.outcome, len(took)) == ("done", 8)
    assert 0.5 < np.mean(took) / 10 < 0.9


def test_a_bad_client_is_named_and_the_run_goes_on(tmp_path):
    finish, watched, model = run_fleet(tmp_path, Fleet(8, frozenset({3})), task_of(rounds=2))
    assert finish.outcome == "done"
    assert [(left.client, left.kind) for left in watched.records[0].left_out] == [("c3", "refused")]
    assert all(np.isfinite(value).all() for value in model.values())


def test_control_variates_and_feedback_are_kept_for_each_client(tmp_path):
    scaffold = task_of(rounds=8, aggregation={"rule": "scaffold"})
    finish, watched, _ = run_fleet(tmp_path, Fleet(8), scaffold)
    assert finish.outcome == "done"
    losses = [record.evaluation["loss"] for record in watched.records]
    assert losses == sorted(losses, reverse=True)  # variates that add up would make it diverge
    assert losses[-1] < 0.5
    assert len(list((tmp_path / "clients").glob("*.state"))) == 8


def test_asynchronous_rounds_are_simulated_too(tmp_path):
    task = task_of(
        rounds=5,
        mode="async",
        cohort={},
        buffered={"buffer": 4, "concurrency": 8},
        aggregation={"rule": "fedbuff"},
    )
    finish, watched, _ = run_fleet(tmp_path, Fleet(20), task, Conditions(spread=1.0))
    assert finish.outcome == "done"
    assert max(took.staleness for record in watched.records for took in record.took_part) > 0
