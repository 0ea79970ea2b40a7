"""``collab model check``, ``validate`` and ``convert``: what scripts read, and what a mistake says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from collab import assets
from collab.cli import check, convert, model, validate
from collab.errors import InputError, ModelError, TensorError, UsageError

DIGITS = assets.path("digits.tflite")
INT8 = Path(__file__).parents[2] / "data" / "digits_int8.tflite"


@pytest.fixture(scope="module")
def app():
    """The group of commands, as the command line has it."""
    known = {command.callback for command in model.app.registered_commands}
    for module, command in ((check, check.check), (validate, validate.validate), (convert, convert.convert)):
        if command not in known:
            module.register(model.app)
    return model.app


def call(app, *words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Real digits and their labels as files."""
    folder = tmp_path_factory.mktemp("digits")
    with np.load(assets.path("digits_heldout.npz")) as held:
        images, labels = held["images"][:100].astype(np.float32) / 255, held["labels"][:100]
    np.savez(folder / "x.npz", image=images)
    np.savez(folder / "y.npz", labels=labels)
    return folder


def test_a_check_names_what_scripts_need(app):
    found = json.loads(call(app, "check", INT8, "--device", "esp32-s3", "--no-measure", "--json").stdout)
    (device,) = found["devices"]
    assert (device["fits"], device["runs"], device["delegate"], device["fallbacks"]) == (
        True,
        True,
        "micro",
        [],
    )
    assert device["memory"]["needed_bytes"] <= device["memory"]["available_bytes"]
    assert device["latency"]["ms"] > 0
    assert found["arena"]["planned_bytes"] > 0


def test_a_check_fails_where_a_named_device_cannot_and_not_where_all_are_asked(app):
    assert call(app, "check", DIGITS, "--device", "esp32-s3", "--no-measure").exit_code == 1
    every = call(app, "check", DIGITS, "--all", "--no-measure", "--json")
    assert every.exit_code == 0
    assert {device["device"] for device in json.loads(every.stdout)["devices"]} >= {"iphone", "coral-usb"}


def test_a_check_of_no_device_names_them(app):
    with pytest.raises(UsageError, match="--all; there is raspberry-pi-4"):
        call(app, "check", DIGITS)
    with pytest.raises(UsageError, match="did you mean esp32-s3"):
        call(app, "check", DIGITS, "--device", "esp32s3")


def test_an_int8_model_is_validated_beside_its_source(app, digits):
    words = ("validate", INT8, "--inputs", digits / "x.npz", "--expect", digits / "y.npz")
    found = json.loads(call(app, *words, "--against", DIGITS, "--max-accuracy-drop", "0.05", "--json").stdout)
    assert found["accuracy"] > 0.9
    assert found["examples"] == 100
    assert sum(map(sum, found["confusion"])) == 100
    assert found["against"]["agreement"] > 0.9
    assert found["broken"] == []


def test_a_broken_bound_is_told_and_fails(app, digits):
    words = ("validate", DIGITS, "--inputs", digits / "x.npz", "--expect", digits / "y.npz", "--json")
    found = call(app, *words, "--min-accuracy", "1.01")
    assert found.exit_code == 1
    assert "is below 1.01" in json.loads(found.stdout)["broken"][0]


def test_examples_that_do_not_fit_are_refused(app, digits, tmp_path):
    np.savez(tmp_path / "x.npz", image=np.zeros((5, 28, 27, 1), np.float32))
    with pytest.raises(TensorError, match=r"the model takes \[N, 28, 28, 1\]"):
        call(app, "validate", DIGITS, "--inputs", tmp_path / "x.npz", "--expect", digits / "y.npz")
    np.savez(tmp_path / "y.npz", labels=np.full(100, 10))
    with pytest.raises(InputError, match="label 10 of example 0 is out of range"):
        call(app, "validate", DIGITS, "--inputs", digits / "x.npz", "--expect", tmp_path / "y.npz")
    with pytest.raises(UsageError, match="with --expect"):
        call(app, "validate", DIGITS, "--inputs", digits / "x.npz")
    with pytest.raises(UsageError, match="go with --against"):
        call(app, "validate", DIGITS, "--data", digits, "--max-accuracy-drop", "0.1")


def test_a_tflite_becomes_a_c_array(app, tmp_path):
    out = tmp_path / "model.cc"
    found = json.loads(call(app, "convert", INT8, "--to", "c", "--out", out, "--json").stdout)
    assert (found["written"], found["bytes"]) == ("c", INT8.stat().st_size)
    assert (tmp_path / "model.h").is_file()


def test_a_conversion_that_cannot_be_is_refused(app, digits, tmp_path):
    with pytest.raises(UsageError, match="--to caffe: use one of litert, onnx"):
        call(app, "convert", INT8, "--to", "caffe", "--out", tmp_path / "m")
    words = ("--to", "onnx", "--out", tmp_path / "m.onnx", "--inputs", digits / "x.npz")
    with pytest.raises(ModelError, match="there is no such file"):
        call(app, "convert", tmp_path / "m.keras", *words)
