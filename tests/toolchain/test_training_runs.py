"""Trainings go on to the same weights, however they were interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from collab.core.preprocessing import ImageSteps, Preprocessing
from collab.errors import ModelError
from collab.toolchain.data.prepared import Prepared, Raw, prepared_files, write_folder
from collab.toolchain.training import loop
from collab.toolchain.training.batches import steps_of
from collab.toolchain.training.heads import freeze_to, new_head
from collab.toolchain.training.run import Run, Source
from collab.toolchain.training.settings import read_settings
from collab.toolchain.zoo import build
from tests.toolchain.reference import tensorflow

pytestmark = [
    pytest.mark.heavy("toolchain"),
    # Keras reads TensorFlow's variables so.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SHAPE = (8, 8, 1)
CLASSES = ("dark", "light", "striped")
OPTIONS = {"filters": (4,), "hidden": 8}
GIVEN = {
    "epochs": 3,
    "batch": 16,
    "lr": 0.01,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup": 1.0,
    "augment": {"flip": True, "shift": 1, "noise": 0.05},
    "class_weights": "balanced",
    "seed": 11,
}


@pytest.fixture(scope="module")
def keras():
    """Keras, quiet."""
    return tensorflow().keras


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared folder of pictures that a small network tells apart."""
    folder = tmp_path_factory.mktemp("data") / "prepared"
    rng, splits = np.random.default_rng(0), {}
    for name, count in (("train", 480), ("validation", 60), ("test", 60)):
        labels = rng.integers(0, 3, count)
        pixels = rng.integers(0, 60, (count, *SHAPE)) + 120 * (labels == 1)[:, None, None, None]
        pixels[labels == 2, ::2] += 120
        splits[name] = Raw(pixels.astype(np.uint8), labels)
    steps = Preprocessing(steps=ImageSteps(height=8, width=8, colour="grey"))
    write_folder(folder, prepared_files(splits, CLASSES, steps, 0))
    return Prepared.load(folder)


def trained(data, folder, stop=None):
    """Begin a run, or go on with it; interrupted at an epoch and step if told."""
    settings = read_settings(GIVEN)

    def step(epoch, done, total):
        if (epoch, done) == stop:
            raise KeyboardInterrupt

    with Run(folder) as run:
        if not run.begun:
            source = Source(
                model="cnn_small",
                data=str(data.folder),
                data_digest=data.digest,
                classes=CLASSES,
                input_shape=SHAPE,
            )
            model = build("cnn_small", input_shape=SHAPE, classes=3, seed=settings.seed, **OPTIONS)
            loop.check(model, settings, source)
            loop.begin(run, model, settings, source, steps_of(data.count("train"), settings.batch))
        return loop.train(run, data, step)


def weights(keras, folder):
    return keras.models.load_model(folder / "model.keras", compile=False).get_weights()


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def whole(keras, data, tmp_path_factory):
    """A run that nothing interrupted: its folder, its state, its weights."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    state = trained(data, folder)
    return folder, state, weights(keras, folder)


def test_it_learns_and_keeps_the_best_epoch(whole):
    folder, state, _ = whole
    assert state.status == "finished"
    assert state.test_accuracy > 0.6
    assert state.best == 1 + max(range(3), key=lambda n: (state.history[n]["val_accuracy"], -n))
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        f"epoch-{n:06d}.keras" for n in {state.best, 3}
    }


def test_killed_and_interrupted_it_goes_on_to_the_same_weights(keras, data, whole, tmp_path):
    folder = tmp_path / "run"
    _, state, expected = whole
    command = [sys.executable, "-m", "collab", "model", "train", "cnn_small", "--data", data.folder]
    command += [
        "--out",
        folder,
        "--epochs",
        3,
        "--batch",
        16,
        "--lr",
        0.01,
        "--optimizer",
        "adamw",
        "--seed",
        11,
    ]
    command += ["--schedule", "cosine", "--warmup", 1, "--augment", "flip,shift=1,noise=0.05"]
    command += ["--class-weights", "balanced", "--option", "filters=4", "--option", "hidden=8"]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [str(word) for word in command],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    ) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("epoch 1:"):
                process.send_signal(signal.SIGKILL)
                break
        process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    with Run(folder) as run:
        assert run.read().epoch == 1
    with pytest.raises(KeyboardInterrupt):
        trained(data, folder, stop=(3, 7))
    assert trained(data, folder).history == state.history
    assert_same(weights(keras, folder), expected)


def test_a_new_head_keeps_what_is_below_it_and_what_is_frozen_stays(keras):
    model = build("cnn_small", input_shape=SHAPE, classes=3, seed=1)
    other = new_head(keras, model, 5, seed=2)
    assert other.outputs[0].shape == (None, 5)
    assert_same(model.get_weights()[:-2], other.get_weights()[:-2])
    freeze_to(other, "flatten")
    assert {v.path.split("/")[0] for v in other.trainable_variables} == {"hidden", "logits"}


def test_a_model_that_does_not_fit_the_data_is_refused_with_the_remedy(keras):
    source = Source(model="", data="", data_digest="", classes=CLASSES, input_shape=SHAPE)
    settings = read_settings({})
    for shape, classes, message in (((9, 9, 1), 3, "prepare the data for it"), (SHAPE, 4, "--new-head")):
        with pytest.raises(ModelError, match=message):
            loop.check(build("cnn_small", input_shape=shape, classes=classes), settings, source)
