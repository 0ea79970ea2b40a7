"""Packaged models: raw files go through real nodes and come back as labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from collab.assets import path as asset
from collab.cli.files import write_plan
from collab.coordinator.planning import build_chain, open_model
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef, Plan
from collab.core.preprocessing import ImageSteps, Preprocessing, to_json
from collab.planner.chain import Assignment
from tests.integration.models import PATHS, Reference
from tests.integration.processes import NodeProcess, command

PICTURES = 6
STEPS = Preprocessing(steps=ImageSteps(height=28, width=28, colour="grey"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The first held-out digits as files."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "pictures"
    folder.mkdir()
    with np.load(asset("digits_heldout.npz")) as held_out:
        for i, pixels in enumerate(held_out["images"][:PICTURES]):
            image.fromarray(pixels[..., 0]).save(folder / f"{i}.png")
    return folder


def packaged(name: str, folder: Path) -> Path:
    """A bundle of one of the test models, made by the command."""
    (folder / "preprocessing.json").write_bytes(to_json(STEPS))
    out = folder / f"{name}.collab"
    labels = ",".join(f"digit {i}" for i in range(10))
    options = ("--preprocessing", folder / "preprocessing.json", "--labels", labels, "--out", out)
    done = command("model", "package", PATHS[name], *options, "--version", "1.2.0", "--json")
    assert done.code == 0, done.err
    return out


def planned(bundle: Path, nodes: list[NodeProcess]) -> Plan:
    """Two stages on two nodes."""
    plan, _ = build_chain(
        PlanName("packaged"),
        bundle,
        open_model(bundle),
        [10],
        Assignment(((NodeName("a"),), (NodeName("b"),))),
        [NodeRef(name=NodeName(node.name), endpoints=(node.endpoint,)) for node in nodes[:2]],
    )
    return plan


@pytest.mark.parametrize("name", ["digits", "digits_int8"])
def test_pictures_are_answered_with_labels_and_the_whole_models_bytes(
    name: str, trio: list[NodeProcess], references: dict[str, Reference], pictures: Path, tmp_path: Path
):
    reference = references[name]
    path = tmp_path / "plan.yaml"
    write_plan(path, planned(packaged(name, tmp_path), trio))
    assert command("deploy", path, "--json").code == 0
    options = ("--input", pictures, "--output", tmp_path / "y.npz", "--top", "2")
    ran = command("run", path, *options, "--json").json
    assert (ran["requests"], ran["failed"]) == (PICTURES, 0)
    with np.load(tmp_path / "y.npz") as answers:
        (got,) = (answers[key] for key in answers.files)
    for i in range(PICTURES):
        (want,) = reference.expected[i].values()
        assert got[i].tobytes() == want.tobytes()
        told = ran["answers"][i]
        assert told["input"] == str(pictures / f"{i}.png")
        assert [one["label"] for one in told["top"]] == [
            f"digit {k}" for k in np.argsort(-want.ravel().astype(np.float32), kind="stable")[:2]
        ]
    assert command("undeploy", path, "--json").code == 0


def test_raw_input_without_its_bundle_says_what_to_give(tmp_path: Path, pictures: Path):
    bundle = packaged("digits", tmp_path)
    other = packaged("digits_int8", tmp_path)
    node = NodeProcess("a", tmp_path)
    node.endpoint = "grpc://127.0.0.1:9"
    beside = NodeProcess("b", tmp_path)
    beside.endpoint = "grpc://127.0.0.1:9"
    path = tmp_path / "plan.yaml"
    write_plan(path, planned(bundle, [node, beside]))
    bundle.rename(tmp_path / "elsewhere.collab")
    for options, text in (
        (("--input", pictures), "give --bundle M.collab"),
        (("--input", pictures, "--bundle", other), "is of another model than the plan"),
        (("--input", pictures / "none.png", "--bundle", tmp_path / "elsewhere.collab"), "no such file"),
        (("--input", tmp_path / "plan.yaml", "--bundle", tmp_path / "elsewhere.collab"), "plan.yaml: cannot"),
    ):
        done = command("run", path, *options)
        assert done.code in (1, 2)
        (line,) = done.errors
        assert text in line


def test_a_bundle_stands_wherever_a_model_does(tmp_path: Path):
    bundle = packaged("digits", tmp_path)
    told = command("model", "inspect", bundle, "--json").json
    assert told == command("model", "inspect", PATHS["digits"], "--json").json
    assert command("model", "split", bundle, "--at", "10", "--out", tmp_path / "stages").code == 0
    verified = command("model", "verify", bundle, "--at", "10", "--json")
    assert verified.json["exact"] == 1
