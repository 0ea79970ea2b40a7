"""Short trainings of Keras models: fine-tuning, and distillation from a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import InputError, ModelError
from collab.toolchain.compress.network import Array
from collab.toolchain.extras import needed

BATCH: Final = 128
_LEAST_PROBABILITY: Final = 1e-7

Progress = Callable[[int, int], None]
"""Told steps done and steps in all."""


@dataclass(frozen=True)
class Taught:
    """What is trained on: inputs float32 ``[n, …]`` as the model takes them, labels int64 ``[n]``."""

    inputs: Array
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, count: int, seed: int) -> Taught:
        """At most so many of them, drawn by ``seed``."""
        rows = np.random.default_rng(seed).permutation(len(self))[:count]
        return Taught(self.inputs[rows], self.labels[rows])

    def mirrored(self, rng: np.random.Generator) -> Array:
        """The inputs, half of them turned left to right."""
        turned = rng.random(len(self)) < 0.5
        inputs: Array = self.inputs.copy()
        inputs[turned] = inputs[turned, :, ::-1]
        return inputs


@dataclass(frozen=True)
class Schedule:
    """How long, how fast: the rate warms up over an eighth of the steps and falls as a cosine."""

    epochs: float
    rate: float
    seed: int
    mirror: bool = False

    def steps(self, examples: int) -> int:
        """Batches in all; a part of an epoch is a part of the examples."""
        return max(1, round(self.epochs * (examples // min(BATCH, examples))))


def check_fits(model: Any, taught: Taught) -> None:
    """Make sure that a model takes the data; raises `InputError`."""
    takes = tuple(model.inputs[0].shape[1:])
    gives = taught.inputs.shape[1:]
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"model {model.name}: has several inputs or outputs; classifiers of one each compress"
        )
    if takes != gives:
        raise InputError(
            f"data of shape {list(gives)}, but the model takes {list(takes)}: prepare it to that size"
        )
    classes = model.outputs[0].shape[-1]
    if len(taught) and int(taught.labels.max()) >= classes:
        raise InputError(f"label {int(taught.labels.max())}, but the model has {classes} classes")


def batches(taught: Taught, schedule: Schedule) -> Any:
    """A generator of (inputs, labels), shuffled anew each epoch by the seed."""
    # Batches of one size: another one would be traced anew.
    size = min(BATCH, len(taught))
    left = schedule.steps(len(taught))
    epoch = 0
    while left > 0:
        rng = np.random.default_rng((schedule.seed, epoch))
        inputs = taught.mirrored(rng) if schedule.mirror else taught.inputs
        order = rng.permutation(len(taught))
        for batch in order[: len(order) // size * size].reshape(-1, size)[:left]:
            yield inputs[batch], taught.labels[batch]
            left -= 1
        epoch += 1


def fit(model: Any, taught: Taught, schedule: Schedule, progress: Progress, teacher: Any = None) -> None:
    """Train a model in place, by the labels and, where there is a teacher, by its answers too.

    Models that end in probabilities are taught through their logarithm, which is their logits
    up to a shift that no loss here sees.
    """
    keras = needed("keras")
    if not schedule.epochs:
        return
    keras.utils.set_random_seed(schedule.seed)
    total = schedule.steps(len(taught))
    logits = _logits(keras, model)
    learner = logits if teacher is None else _distiller(keras, _logits(keras, teacher), logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(cosine(keras, schedule.rate, total), weight_decay=0.005)
    # Tracing alone takes long for a deep network; a short training does not earn back compiling too.
    learner.compile(optimizer, loss, jit_compile=False)
    for done, (inputs, labels) in enumerate(batches(taught, schedule), 1):
        learner.train_on_batch(inputs, labels)
        progress(done, total)


def cosine(keras: Any, peak: float, steps: int) -> Any:
    """The schedule of rates, for Keras 3 and `tf_keras` alike."""
    warm = steps // 8
    return keras.optimizers.schedules.CosineDecay(
        peak / 20, max(1, steps - warm), warmup_target=peak, warmup_steps=max(1, warm)
    )


def _logits(keras: Any, model: Any) -> Any:
    """The model with its probabilities as logits; weights are shared."""
    if not ends_in_softmax(model):
        return model
    least = keras.ops.maximum(model.outputs[0], _LEAST_PROBABILITY)
    return keras.Model(model.inputs[0], keras.ops.log(least))


def ends_in_softmax(model: Any) -> bool:
    """Whether the answers are probabilities."""
    last = model.outputs[0]._keras_history.operation
    activation = last.get_config().get("activation") if hasattr(last, "activation") else None
    return activation == "softmax" or type(last).__name__ == "Softmax"


def _distiller(keras: Any, teacher: Any, student: Any) -> Any:
    from keras.distillation import Distiller, LogitsDistillation

    return Distiller(teacher, student, [LogitsDistillation(temperature=3.0)], student_loss_weight=0.4)


def activations(model: Any, taught: Taught, count: int = 256) -> dict[str, Array]:
    """What comes out of each layer that has channels of its own, behind its norm and activation."""
    keras = needed("keras")
    wanted: dict[str, Any] = {}
    for layer in model.layers:
        if type(layer).__name__ in ("Conv1D", "Conv2D", "Dense", "SeparableConv2D"):
            wanted[layer.name] = _behind(layer)
    probe = keras.Model(model.inputs[0], wanted)
    seen = probe(taught.inputs[:count], training=False)
    return {name: np.asarray(value) for name, value in seen.items()}


def _behind(layer: Any) -> Any:
    """The layer's output, after norm and activation where nothing else reads it."""
    tensor = layer.output
    while True:
        readers = tensor._keras_history.operation._outbound_nodes
        if len(readers) != 1:
            return tensor
        following = readers[0].operation
        if type(following).__name__ not in ("BatchNormalization", "ReLU", "Activation"):
            return tensor
        tensor = following.output
