"""A Keras model that was trained on LiteRT and is int8 again goes into the plan of its first version."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from collab.coordinator.planning import build_chain
from collab.coordinator.retarget import input_quantisation, output_quantisation, retarget
from collab.coordinator.shadow import HeldOut, compare
from collab.core.ids import NodeName, PlanName
from collab.core.plan import NodeRef
from collab.federated.data.examples import Data, Examples
from collab.federated.swapping import refused_by_examples
from collab.federated.task import DeployRules
from collab.federated.trainers.litert import LiteRtTrainer
from collab.federated.update import LocalTraining
from collab.graph import parse_model, read_model
from collab.planner.chain import Assignment
from collab.runtime.litert import LiteRT
from collab.toolchain.trainable.served import Baker, form_of
from tests.integration.processes import command
from tests.toolchain.reference import keras_model, tensorflow
from tests.trainable_cases import CASES

pytestmark = [
    pytest.mark.heavy("toolchain"),
    # Keras makes arrays of variables in a way that numpy 2 complains of.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

RULES = DeployRules(plan="p.yaml")


def examples(count: int, seed: int) -> Examples:
    """Pictures of which one channel is brighter: that is their class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = 0.6 * rng.random((count, 6, 6, 3), np.float32)
    x[np.arange(count), :, :, y] += 0.4
    return Examples(x, y)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What a user has after the two commands: a trainable model with calibration, and its int8 form."""
    folder = tmp_path_factory.mktemp("int8")
    keras_model(tensorflow(), CASES["mean of all"]).save(folder / "m.keras")
    np.savez(folder / "x.npz", x=examples(64, 1).x)
    exporting = ("--out", folder / "t.tflite", "--batch", "4", "--calibration", folder / "x.npz")
    # Its threads cannot be set twice in one process.
    with patch("collab.toolchain.demo_model.tensorflow", tensorflow):
        assert command("model", "export-trainable", folder / "m.keras", *exporting).code == 0
    assert command("model", "bake", folder / "t.tflite", "--out", folder / "m.tflite", "--quantise").code == 0
    return folder


def test_an_int8_model_that_was_trained_takes_the_place_of_its_first_version(files):
    trainable = (files / "t.tflite").read_bytes()
    running = read_model(files / "m.tflite")
    assert form_of(running) == "int8"
    baker = Baker(trainable, "int8")
    trainer = LiteRtTrainer(trainable, Data(examples(300, 2), examples(10, 3)))
    assert baker(trainer.initial) == bytes(running.data), "the same bits from the same weights"
    task = LocalTraining(epochs=30, batch_size=16, optimizer="adam", learning_rate=0.05)
    trained = trainer.train(trainer.initial, task)
    new = parse_model(baker(trained.parameters))

    held_out = HeldOut(*examples(100, 4).take(np.arange(100)), classes=True)
    better = compare(running, new, held_out)
    assert better.candidate > 0.9
    assert refused_by_examples(better, RULES) == ""
    assert "of the model that runs" in refused_by_examples(compare(new, running, held_out), RULES)

    plan, _ = build_chain(
        PlanName("p"),
        files / "m.tflite",
        running,
        [1, 2],
        Assignment(tuple((NodeName(name),) for name in "abc")),
        [NodeRef(name=NodeName(name)) for name in "abc"],
    )
    made, blobs = retarget(plan, running, new, "new.tflite")
    assert input_quantisation(running) == input_quantisation(new)
    assert output_quantisation(running) != output_quantisation(new)
    whole, stages = LiteRT().load(bytes(new.data)), [LiteRT().load(blobs[s.sha256]) for s in made.stages]
    for x in np.random.default_rng(5).integers(-128, 128, (20, 1, 6, 6, 3)).astype(np.int8):
        value = [x]
        for stage in stages:
            value = stage.run(value)
        assert value[0].tobytes() == whole.run([x])[0].tobytes()


@pytest.mark.parametrize("form", ["float32", "dynamic"])
def test_other_forms_are_kept_as_well(files, form):
    trainable = (files / "t.tflite").read_bytes()
    baker = Baker(trainable, form)
    trainer = LiteRtTrainer(trainable, Data(examples(20, 2), examples(10, 3)))
    first = parse_model(baker(trainer.initial))
    assert form_of(first) == form
    trained = trainer.train(trainer.initial, LocalTraining(epochs=1, batch_size=4, learning_rate=0.1))
    again = parse_model(baker(trained.parameters))
    assert form_of(again) == form
    assert [op.name for op in again.operators] == [op.name for op in first.operators]
