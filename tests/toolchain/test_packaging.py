"""From raw pictures to a bundle with examples, and to code: the whole way by commands."""

from __future__ import annotations

import numpy as np
import pytest

from collab.assets import path as asset
from collab.updates.bundle.read import open_bundle
from collab.updates.policies.reference import decode_reference
from tests.integration.models import PATHS
from tests.integration.processes import command

pytestmark = pytest.mark.heavy("toolchain")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The demo's held-out digits, prepared."""
    folder = tmp_path_factory.mktemp("data")
    with np.load(asset("digits_heldout.npz")) as held_out:
        np.savez(folder / "digits.npz", x=held_out["images"], y=held_out["labels"])
    options = ("--kind", "images", "--size", "28x28", "--colour", "grey", "--out", folder / "out")
    done = command("data", "prepare", folder / "digits.npz", *options)
    assert done.code == 0, done.err
    return folder / "out"


@pytest.mark.parametrize("name", ["digits", "digits_int8"])
def test_a_bundle_carries_examples_whose_answers_are_checked(data, tmp_path, name):
    out = tmp_path / "m.collab"
    made = command("model", "package", PATHS[name], "--data", data, "--out", out, "--json")
    assert made.code == 0, made.err
    bundle = open_bundle(out)
    assert made.json["digest"] == bundle.digest
    assert bundle.labels() == tuple("0123456789")
    assert set(bundle.manifest.about.provenance) == {"data_sha256"}
    verified = command("model", "verify", out, "--at", "10", "--json")
    assert verified.code == 0, verified.err
    golden = verified.json["golden"]
    assert (golden["compared"], golden["exact"], golden["same_class"]) == (8, 8, True)
    stored = bundle.reference()
    assert stored is not None
    reference = decode_reference(stored, "it")
    assert reference.features
    assert reference.accuracy is not None
    assert reference.accuracy > 0.8
    again = tmp_path / "again.collab"
    assert command("model", "package", PATHS[name], "--data", data, "--out", again, "--name", "m").code == 0
    assert command("model", "snippet", out, "--language", "cpp", "--out", tmp_path / "cpp").code == 0
    assert (tmp_path / "cpp" / "preprocessing.h").is_file()


def test_what_does_not_belong_together_is_refused_and_nothing_is_written(data, tmp_path):
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    out = tmp_path / "m.collab"
    for options, text in (
        (("--data", data, "--labels", tmp_path / "three.txt"), "3 labels do not say which output they name"),
        (("--data", data, "--variant", "onnxruntime"), "--variant 'onnxruntime': give NAME=VALUE"),
        (("--data", data, "--golden", "99"), "--golden 99: give 0 to 64"),
        (("--preprocessing", tmp_path / "none.json"), "none.json: No such file"),
        (("--data", tmp_path), "prepared.json: is missing"),
    ):
        done = command("model", "package", PATHS["digits"], *options, "--out", out)
        (line,) = done.errors
        assert text in line
        assert not out.exists()
