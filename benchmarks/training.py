"""A training step on LiteRT beside one of ``tf.function``, in one process and in turn.

Both get the same images of Fashion-MNIST in the same order from the same weights, with one
thread each.  LiteRT's side is all of it: picking the examples, the step, the optimizer.
TensorFlow's is the compiled function alone, with the examples at hand as tensors.  Memory is the
most that a process of its own had resident while it trained.  Needs TensorFlow.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.fashion import images
from benchmarks.figures import Figure, run
from collab.errors import BackendError
from collab.federated.data.examples import Data, Examples
from collab.federated.trainers.litert import LiteRtTrainer
from collab.federated.update import LocalTraining
from collab.runtime.litert import LiteRT
from collab.toolchain.trainable.bake import bake
from collab.toolchain.trainable.export import export
from collab.toolchain.trainable.keras_model import read_keras

BATCHES = (16, 32)
EQUAL_STEPS = 100
RATE = 0.05


def _layers(name: str, layers: Any) -> list[Any]:
    if name == "mlp":
        return [layers.Dense(128, "relu"), layers.Dense(10)]
    if name == "mlp2":
        return [layers.Dense(256, "relu"), layers.Dense(128, "relu"), layers.Dense(10)]
    if name == "fedavg":  # the CNN of McMahan et al., AISTATS 2017
        return [
            *(layers.Conv2D(32, 5, padding="same", activation="relu"), layers.MaxPooling2D()),
            *(layers.Conv2D(64, 5, padding="same", activation="relu"), layers.MaxPooling2D()),
            *(layers.Flatten(), layers.Dense(512, "relu"), layers.Dense(10)),
        ]
    if name == "depthwise":
        blocks: list[Any] = [layers.Conv2D(16, 3, 2, "same"), layers.BatchNormalization(), layers.ReLU()]
        for width in (32, 64):
            blocks += [layers.DepthwiseConv2D(3, padding="same"), layers.BatchNormalization(), layers.ReLU()]
            blocks += [layers.Conv2D(width, 1), layers.BatchNormalization(), layers.ReLU()]
        return [*blocks, layers.GlobalAveragePooling2D(), layers.Dense(10)]
    normal = [layers.BatchNormalization()] if name == "cnn-bn" else []
    more = [layers.BatchNormalization()] if name == "cnn-bn" else []
    return [
        *(layers.Conv2D(16, 3, padding="same"), *normal, layers.ReLU(), layers.MaxPooling2D()),
        *(layers.Conv2D(32, 3, padding="same"), *more, layers.ReLU(), layers.MaxPooling2D()),
        *(layers.Flatten(), layers.Dense(10)),
    ]


MODELS = ("mlp", "mlp2", "cnn", "cnn-bn", "fedavg")


def build(tf: Any, name: str) -> Any:
    """An untrained model."""
    tf.keras.utils.set_random_seed(5)
    shape = (784,) if name.startswith("mlp") else (28, 28, 1)
    return tf.keras.Sequential([tf.keras.layers.Input(shape), *_layers(name, tf.keras.layers)])


def tensorflow(threads: int) -> Any:
    """Import TensorFlow with so many threads."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise BackendError("tensorflow is missing: pip install 'collab[toolchain]'") from error
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def stepper(tf: Any, model: Any) -> Callable[[Any, Any], Any]:
    """A compiled step of plain gradient descent."""
    variables = [variable.value for variable in model.trainable_variables]

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(RATE * gradient)
        return loss

    compiled: Callable[[Any, Any], Any] = tf.function(step)
    return compiled


def examples(name: str, count: int) -> Examples:
    """Training images as a model takes them, in bytes."""
    every = images("train")
    shape = (count, 784) if name.startswith("mlp") else (count, 28, 28, 1)
    return Examples(every.images[:count].reshape(shape), every.labels[:count], 255.0)


class Sides(NamedTuple):
    """Seconds a step, chunk by chunk, and how far weights are apart after `EQUAL_STEPS`."""

    ours: list[float]
    theirs: list[float]
    apart: float
    noise: float
    """How far TensorFlow is from itself when each batch's examples come in reverse order."""


def compare(tf: Any, name: str, batch: int, chunks: int, steps: int) -> Sides:
    """Train the same model on both sides, chunks of steps in turn."""
    model = build(tf, name)
    given = examples(name, batch * max(EQUAL_STEPS, steps))
    trainer = LiteRtTrainer(export(read_keras(model), batch), Data(given, given.first(1)))
    task = LocalTraining(batch_size=batch, learning_rate=RATE, max_steps=EQUAL_STEPS)
    order = np.random.default_rng((task.seed, 0)).permutation(len(given))
    batches = []
    for at in range(0, len(given), batch):
        x, y = given.take(order[at : at + batch])
        batches.append((tf.constant(x), tf.constant(y)))
    start = [variable.numpy() for variable in model.weights]
    step = stepper(tf, model)
    ends = []
    for turn in (1, -1):
        for variable, value in zip(model.weights, start, strict=True):
            variable.assign(value)
        for x, y in batches[:EQUAL_STEPS]:
            step(x[::turn], y[::turn])
        ends.append([variable.numpy() for variable in model.weights])
    noise = max(float(np.abs(a - b).max()) for a, b in zip(*ends, strict=True))
    found = trainer.train(trainer.initial, task).parameters
    apart = max(
        float(np.abs(found["/".join(v.path.split("/")[-2:])] - end).max())
        for v, end in zip(model.weights, ends[0], strict=True)
    )
    ours, theirs = [], []
    chunk = LocalTraining(batch_size=batch, learning_rate=RATE, max_steps=steps)
    for _ in range(chunks):
        made = trainer.train(trainer.initial, chunk)
        ours.append(made.seconds / made.steps)
        begun = time.perf_counter()
        for x, y in batches[:steps]:
            loss = step(x, y)
        loss.numpy()
        theirs.append((time.perf_counter() - begun) / steps)
    return Sides(ours, theirs, apart, noise)


def resident(side: str, name: str, batch: int) -> None:
    """In a process of its own: train a little and print the most bytes that were resident."""
    with np.load(Path(sys.argv[5]).with_suffix(".npz")) as arrays:
        given = Examples(arrays["x"], arrays["y"], 255.0)
    if side == "litert":
        model = Path(sys.argv[5])
        trainer = LiteRtTrainer(model, Data(given, given.first(1)))
        trainer.train(trainer.initial, LocalTraining(batch_size=batch, max_steps=40))
    else:
        tf = tensorflow(1)
        step = stepper(tf, build(tf, name))
        for at in range(0, len(given), batch):
            x, y = given.take(np.arange(at, at + batch))
            step(tf.constant(x), tf.constant(y))
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def memory(tf: Any, name: str, batch: int, folder: Path) -> tuple[float, float]:
    """Most MB resident while LiteRT and TensorFlow train, each in a process of its own."""
    file = folder / f"{name}.tflite"
    file.write_bytes(export(read_keras(build(tf, name)), batch))
    given = examples(name, 40 * batch)
    np.savez(file.with_suffix(".npz"), x=given.x, y=given.y)
    found = []
    for side in ("litert", "tensorflow"):
        command = [sys.executable, "-m", "benchmarks.training", "resident", side, name, str(batch), str(file)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        found.append(float(lines[-1]) / 1000)
    return found[0], found[1]


def served(tf: Any, name: str, rounds: int) -> tuple[float, float]:
    """Median seconds of one answer of the baked model and of the converter's, in turn."""
    model = build(tf, name)
    rng = np.random.default_rng(0)
    for variable in model.weights:  # as if it had been trained
        variable.assign(variable.numpy() + rng.uniform(0, 0.1, variable.shape).astype(np.float32))
    network = read_keras(model)
    baked = bake(export(network, 2), {p.name: p.value for p in network.parameters})
    fixed = tf.keras.models.clone_model(
        model, input_tensors=tf.keras.Input(model.input_shape[1:], batch_size=1)
    )
    fixed.set_weights(model.get_weights())
    with contextlib.redirect_stdout(io.StringIO()):
        converted = bytes(tf.lite.TFLiteConverter.from_keras_model(fixed).convert())
    stages = [LiteRT().load(data) for data in (baked, converted)]
    x = rng.random((1, *network.input_shape)).astype(np.float32)
    left, right = (stage.run([x])[0] for stage in stages)
    if not np.allclose(left, right, rtol=1e-3, atol=1e-4):
        raise BackendError(f"{name}: the baked model answers {left}, the converted one {right}")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for stage, took in zip(stages, times, strict=True):
            begun = time.perf_counter()
            for _ in range(20):
                stage.run([x])
            took.append((time.perf_counter() - begun) / 20)
    return statistics.median(times[0]), statistics.median(times[1])


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    import tempfile

    tf = tensorflow(1)
    figures = []
    chunks = 5 if options.quick else 15
    for name in MODELS:
        steps = 30 if name == "fedavg" else 100
        for batch in BATCHES:
            sides = compare(tf, name, batch, chunks if name != "fedavg" else max(3, chunks // 3), steps)
            ours, theirs = statistics.median(sides.ours), statistics.median(sides.theirs)
            print(f"{name} at {batch}: {ours * 1e6:.0f} µs, {theirs * 1e6:.0f} µs", file=sys.stderr)
            ratio = statistics.median(o / t for o, t in zip(sides.ours, sides.theirs, strict=True))
            target = "<= 1.0" if name.startswith("mlp") else "<= 2.5"
            how = f"{ours * 1e6:.0f} µs a step; yardstick tf.function in µs, in turn, one thread each"
            figures.append(Figure(f"step, {name}, batch {batch}", ratio, "times", target, theirs * 1e6, how))
            how = f"largest difference of a weight after {EQUAL_STEPS} steps; yardstick: TensorFlow beside "
            how += "itself with each batch in reverse order"
            apart = Figure(f"apart, {name}, batch {batch}", sides.apart, "", "<= 1e-5", sides.noise, how)
            figures.append(apart)
    for name in ("cnn-bn", "depthwise"):
        ours, theirs = served(tf, name, 5 * chunks)
        how = f"{ours * 1e6:.0f} µs an answer; yardstick the converter's model in µs, in turn"
        figures.append(Figure(f"baked, {name}", ours / theirs, "times", "<= 1.1", theirs * 1e6, how))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("mlp", "cnn"):
            ours, theirs = memory(tf, name, 32, Path(folder))
            how = f"{ours:.0f} MB resident; yardstick TensorFlow in MB, a process each"
            figures.append(Figure(f"memory, {name}, batch 32", ours / theirs, "times", "<= 0.2", theirs, how))
    return figures


if __name__ == "__main__":
    if sys.argv[1:2] == ["resident"]:
        resident(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        run(measure, __doc__)
