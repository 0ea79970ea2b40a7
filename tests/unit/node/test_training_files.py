"""What federated runs leave on a node: outcomes, staged states, and no more than so many runs."""

from __future__ import annotations

import os

import pytest

from collab.core.ids import Digest
from collab.errors import InputError
from collab.federated.orders import OrderId
from collab.federated.participant import Standing
from collab.node.training_files import MAX_RUNS, Made, TrainingFiles

ONE, TWO = Digest("1" * 64), Digest("2" * 64)


@pytest.fixture
def files(tmp_path):
    return TrainingFiles(tmp_path / "training")


def test_the_last_update_is_remembered_over_a_restart(files, tmp_path):
    assert files.standing() is None
    standing = Standing(order=OrderId("run", 3), digest=ONE, bytes=10)
    files.remember(standing, Made(steps=4, samples=7, metrics={"loss": 0.5}))
    again = TrainingFiles(tmp_path / "training").standing()
    assert again == (standing, Made(steps=4, samples=7, metrics={"loss": 0.5}))
    (tmp_path / "training" / "standing.json").write_text("{")
    assert files.standing() is None


def test_a_staged_state_becomes_the_clients_only_when_it_is_kept(files):
    assert files.client("run") == b""
    files.stage("run", b"first")
    assert files.client("run") == b""
    files.settle("run", keep=True)
    files.settle("run", keep=True)
    assert files.client("run") == b"first"
    files.stage("run", b"second")
    files.settle("run", keep=False)
    files.settle("run", keep=True)
    assert files.client("run") == b"first"


def test_weights_of_runs_that_were_forgotten_are_named(files, tmp_path):
    files.enter("old")
    files.keep_holds("old", [ONE, TWO])
    assert files.holds("old") == [ONE, TWO]
    os.utime(tmp_path / "training" / "old", (1, 1))
    gone = [digest for number in range(MAX_RUNS) for digest in files.enter(f"run-{number}")]
    assert gone == [ONE, TWO]
    assert files.holds("old") == []
    assert files.leave("run-1") == []


def test_a_run_cannot_be_named_like_a_path(files):
    with pytest.raises(InputError, match="run:"):
        files.enter("../elsewhere")


def test_the_time_of_a_step_is_remembered_by_model(files):
    assert files.step_s(ONE) == 0.0
    files.keep_step_s(ONE, 0.25)
    assert (files.step_s(ONE), files.step_s(TWO)) == (0.25, 0.0)
