"""Trains a model in a run's folder, epoch by epoch, from wherever the run is.

Weights depend on the settings, the data and the first model alone, not on how often the run was
interrupted: what is random in an epoch is drawn from the seed and the epoch's number, and each
epoch ends with a checkpoint that holds the optimizer's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.errors import InputError, ModelError
from collab.federated.trainers.keras import ends_in_softmax
from collab.toolchain.data.prepared import Examples
from collab.toolchain.extras import needed
from collab.toolchain.keras_files import write_keras
from collab.toolchain.training import heads
from collab.toolchain.training.batches import balanced, epoch_batches, mask_seeds, steps_of
from collab.toolchain.training.judge import judge
from collab.toolchain.training.optimizer import make_optimizer
from collab.toolchain.training.run import MODEL, Run, Source, State
from collab.toolchain.training.settings import Settings

Step = Callable[[int, int, int], None]
"""Told the epoch from 1, steps done in it, and steps of it."""
Epoch = Callable[[int, Mapping[str, float]], None]
"""Told the epoch from 1, and its metrics."""
EVALUATED: int = 256
"""Examples at a time when measuring."""


class Data(Protocol):
    """The splits, as `Prepared` has them."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by label."""

    @property
    def splits(self) -> Mapping[str, Any]:
        """Those that there are."""

    def split(self, split: Any) -> Examples:
        """One of them."""


def begin(run: Run, model: Any, settings: Settings, source: Source, steps: int) -> State:
    """Make a new run of a model that fits the data, at epoch 0.

    Raises:
        UsageError: ``freeze_to`` names no layer.
        ModelError: the model does not fit the data.
    """
    keras = _keras()
    heads.check_fits(model, source.input_shape, len(source.classes))
    settings.augment.check(source.input_shape)
    if settings.freeze_to is not None:
        heads.freeze_to(model, settings.freeze_to)
    model.compile(
        optimizer=make_optimizer(keras, settings, steps),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=not ends_in_softmax(model)),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        # Compiled by XLA, a step is not the same from run to run.
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    state = State(source=source, settings=settings, parameters=int(model.count_params()))
    write_keras(model, run.checkpoint(0))
    run.write(state)
    return state


def train(
    run: Run,
    data: Data,
    step: Step = lambda epoch, done, total: None,
    epoch: Epoch = lambda number, metrics: None,
) -> State:
    """Go on with a run until it is finished; a finished one is left as it is.

    Raises:
        InputError: the training split is empty.
        ModelError: the loss is no number any more.
        IntegrityError: the run's checkpoint is broken.
    """
    keras, state = _keras(), run.read()
    if state.status == "finished":
        return state
    training = data.split("train")
    if not len(training):
        raise InputError("the training split is empty: prepare more data")
    validation = data.split("validation") if "validation" in data.splits else None
    model = run.load(keras, state.epoch)
    while not (state.history and judge(state.history, state.settings).ended):
        number = state.epoch + 1
        metrics = _epoch(keras, model, state, training, validation, lambda d, t: step(number, d, t))  # noqa: B023
        history = (*state.history, metrics)
        write_keras(model, run.checkpoint(number))
        state = msgspec.structs.replace(state, history=history, best=judge(history, state.settings).best)
        run.write(state)
        epoch(number, metrics)
    return _finish(keras, run, state, data)


def _epoch(
    keras: Any,
    model: Any,
    state: State,
    training: Examples,
    validation: Examples | None,
    tell: Callable[[int, int], None],
) -> dict[str, float]:
    settings, number = state.settings, state.epoch + 1
    generators = [v for v in model.variables if "seed_generator_state" in v.path]
    for variable, words in zip(generators, mask_seeds(settings, number, len(generators)), strict=True):
        variable.assign(words)
    steps = steps_of(len(training), settings.batch)

    class Told(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            tell(batch + 1, steps)

    weights = balanced(training.labels, len(state.source.classes))
    fitted = model.fit(
        epoch_batches(keras, training, settings, number),
        class_weight=weights if settings.class_weights == "balanced" else None,
        shuffle=False,
        verbose=0,
        callbacks=[Told()],
    )
    found = {name: float(values[0]) for name, values in fitted.history.items()}
    if not math.isfinite(found["loss"]):
        raise ModelError(
            f"the loss of epoch {number} is {found['loss']}: begin anew with a lower --lr, "
            f"{settings.lr / 10:g} for one"
        )
    if validation is not None and len(validation):
        found |= {f"val_{name}": value for name, value in measured(model, validation).items()}
    return found


def measured(model: Any, examples: Examples) -> dict[str, float]:
    """Loss and accuracy of a compiled model."""
    found = model.evaluate(
        examples.inputs, examples.labels, batch_size=EVALUATED, verbose=0, return_dict=True
    )
    return {name: float(value) for name, value in found.items()}


def _finish(keras: Any, run: Run, state: State, data: Data) -> State:
    """Write the best epoch's model, without the optimizer's state, and measure it on the test split."""
    model = run.load(keras, state.best, compiled=False)
    heads.unfreeze(model)
    state = msgspec.structs.replace(state, status="finished")
    if "test" in data.splits and len(test := data.split("test")):
        right = answers(model, test.inputs).argmax(1) == test.labels
        state = msgspec.structs.replace(
            state, test_accuracy=float(np.mean(right)), test_examples=len(test.labels)
        )
    write_keras(model, run.path / MODEL)
    run.write(state)
    return state


def answers(model: Any, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a model says of inputs ``[n, …]``."""
    found: NDArray[np.float32] = model.predict(inputs, batch_size=EVALUATED, verbose=0)
    return found


def _keras() -> Any:
    tf = needed("tensorflow")
    tf.config.experimental.enable_op_determinism()
    return needed("keras")


def write_tensorboard(folder: Path, number: int, metrics: Mapping[str, float]) -> None:
    """Add an epoch to the logs that TensorBoard shows, training and validation as runs of their own."""
    tf = needed("tensorflow")
    for name in ("train", "validation"):
        mine = {k: v for k, v in metrics.items() if k.startswith("val_") == (name == "validation")}
        if mine:
            with tf.summary.create_file_writer(str(folder / name)).as_default(step=number):
                for metric, value in mine.items():
                    tf.summary.scalar(f"epoch_{metric.removeprefix('val_')}", value)
