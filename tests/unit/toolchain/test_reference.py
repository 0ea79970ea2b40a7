"""What a bundle says of the data that its model was made with, from a prepared folder to a plan's blobs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from collab.assets import path as asset
from collab.coordinator.planning import build_chain, open_model, reference_blob, referring, stage_blobs
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef
from collab.core.preprocessing import ImageSteps, Preprocessing
from collab.planner.chain import Assignment
from collab.toolchain.data.prepared import Prepared, Raw, prepared_files, write_folder
from collab.toolchain.packaging import Belongings, package
from collab.toolchain.reference import make_reference
from collab.updates.bundle.manifest import About
from collab.updates.policies.drift import Stream, psi
from collab.updates.policies.reference import features_of, looked_at

MODEL = asset("digits.tflite")


def images() -> tuple[np.ndarray, np.ndarray]:
    with np.load(asset("digits_heldout.npz")) as file:
        return file["images"], file["labels"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    pixels, labels = images()
    steps = Preprocessing(steps=ImageSteps(height=28, width=28, colour="grey"))
    splits = {
        "train": Raw(pixels[:300], labels[:300]),
        "validation": Raw(pixels[300:310], labels[300:310]),
        "test": Raw(pixels[310:], labels[310:]),
    }
    folder = tmp_path_factory.mktemp("data") / "out"
    write_folder(folder, prepared_files(splits, tuple("0123456789"), steps, 1))
    return Prepared.load(folder)


def test_the_reference_counts_training_inputs_and_judges_the_test_split(prepared):
    graph = open_model(MODEL)
    found = make_reference(graph, package_ports(graph), prepared)
    assert found is not None
    assert found.examples == 300
    assert {feature.feature for feature in found.features} >= {"mean", "std"}
    assert found.accuracy is not None
    assert found.accuracy > 0.8
    assert found.confidence is not None
    assert found.margin is not None
    assert 0 < found.margin < found.confidence <= 1

    mean = next(feature for feature in found.features if feature.feature == "mean")
    take = features_of((1, 28, 28, 1))["mean"]
    pixels = images()[0][310:].astype(np.float32) / 255
    same = [take(looked_at(image[None])) for image in pixels]
    assert (psi(Stream(mean.reference).seen(same).counts()) or 0) < 0.2
    moved = [take(looked_at(1 - image[None])) for image in pixels]
    assert (psi(Stream(mean.reference).seen(moved).counts()) or 0) > 0.2


def package_ports(graph):
    from collab.toolchain.packaging import ports

    return ports(graph, graph.inputs)


def test_a_plan_of_a_bundle_brings_its_reference_to_nodes(prepared, tmp_path):
    belongings = Belongings(preprocessing=prepared.preprocessing, data=prepared)
    bundle = package(Path(MODEL), belongings, About(name="digits"), tmp_path / "m.collab")
    (digest,) = blob = reference_blob(bundle.path)
    assert blob[digest] == bundle.reference()
    assert reference_blob(MODEL) == {}

    node = NodeName("a")
    made, _ = build_chain(
        PlanName("p"),
        bundle.path,
        open_model(bundle.path),
        [],
        Assignment(((node,),)),
        [NodeRef(name=node)],
    )
    plan = referring(made, digest)
    assert plan.digest != made.digest
    assert stage_blobs(plan, tmp_path)[digest] == blob[digest]
    assert digest not in stage_blobs(made, tmp_path)
