"""``collab model bake`` writes a model that runs, and refuses options and files that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from collab.cli import model, trainable
from collab.errors import InputError, ModelError, UsageError
from collab.runtime.litert import LiteRT

MLP = Path(__file__).parents[2] / "data" / "trainable_mlp.tflite"


@pytest.fixture(scope="module")
def app():
    """The group of commands, as the command line has it."""
    if not any(command.callback is trainable.bake for command in model.app.registered_commands):
        trainable.register(model.app)
    return model.app


def call(app, *words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_baking_takes_the_given_weights(app, tmp_path):
    parameters = {
        "hidden/kernel": np.zeros((784, 64), np.float32),
        "hidden/bias": np.zeros(64, np.float32),
        "logits/kernel": np.zeros((64, 10), np.float32),
        "logits/bias": np.arange(10, dtype=np.float32),
    }
    with open(tmp_path / "w.npz", "wb") as file:
        np.savez(file, **parameters)
    out = tmp_path / "m.tflite"
    found = call(app, "bake", MLP, "--weights", tmp_path / "w.npz", "--out", out, "--json")
    assert json.loads(found.stdout)["bytes"] == out.stat().st_size
    (answer,) = LiteRT().load(out).run([np.ones((1, 28, 28, 1), np.float32)])
    np.testing.assert_array_equal(answer[0], np.arange(10))


def test_without_weights_it_takes_those_that_the_model_came_with(app, tmp_path):
    out = tmp_path / "m.tflite"
    call(app, "bake", MLP, "--out", out)
    (answer,) = LiteRT().load(out).run([np.ones((1, 28, 28, 1), np.float32)])
    assert len(np.unique(answer)) > 5


def test_what_cannot_be_is_refused(app, tmp_path):
    out = tmp_path / "m.tflite"
    with pytest.raises(UsageError, match="--calibration goes with --quantise"):
        call(app, "bake", MLP, "--out", out, "--calibration", MLP)
    with pytest.raises(ModelError, match="No such file"):
        call(app, "bake", tmp_path / "none.tflite", "--out", out)
    with pytest.raises(ModelError, match="export-trainable"):
        call(app, "bake", MLP.with_name("digits_dynamic.tflite"), "--out", out)
    with open(tmp_path / "x.npz", "wb") as file:
        np.savez(file, x=np.zeros(3))
    with pytest.raises(InputError, match="must hold float32 inputs named x"):
        call(app, "bake", MLP, "--out", out, "--quantise", "--calibration", tmp_path / "x.npz")
    with pytest.raises(UsageError, match="use one of cross_entropy"):
        call(app, "export-trainable", MLP, "--out", out, "--loss", "hinge")
    assert not out.exists()
