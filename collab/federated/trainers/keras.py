"""Training with TensorFlow, on devices that have it; the same parameters and batches as on LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import BackendError, ModelError
from collab.federated import trainable as names
from collab.federated.data.examples import Data
from collab.federated.trainable import Description, Loss, Weight
from collab.federated.trainers.local import Batch, Budget, LocalTrainer, Step, opened
from collab.federated.update import Parameters

BATCH: Final = 32
"""Examples at a time when measuring; training takes the task's batches whole."""


def _tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise BackendError(
            "tensorflow is missing: pip install 'collab[toolchain]', or train on LiteRT"
        ) from error
    return tf


class KerasEngine:
    """Gradients of a Keras 3 model with one input and one output of logits or probabilities.

    Dropout layers draw their own masks, by the seed that Keras gives them, so here runs differ.
    """

    def __init__(self, model: Path | Any, batch_size: int = BATCH, loss: Loss = "cross_entropy") -> None:
        """Take a model, or the path of a ``.keras`` file.

        Raises:
            BackendError: TensorFlow is not installed.
            ModelError: the file is not a model.
        """
        tf = self._tf = _tensorflow()
        if isinstance(model, Path):
            try:
                model = tf.keras.models.load_model(model, compile=False, safe_mode=True)
            except (OSError, ValueError, TypeError) as error:
                raise ModelError(f"{model}: is no Keras model ({error}); save it as .keras") from error
        self._model = model
        self._variables = {_name(v): v for v in model.weights if "seed_generator" not in v.path}
        trained = {_name(v) for v in model.trainable_variables}
        self._trained = [name for name in self._variables if name in trained]
        self._from_logits = not ends_in_softmax(model)
        self.description = Description(
            format=names.FORMAT,
            loss=loss,
            batch_size=batch_size,
            input_shape=tuple(model.inputs[0].shape[1:]),
            output_shape=tuple(model.outputs[0].shape[1:]),
            weights=tuple(Weight(n, tuple(v.shape), n in trained) for n, v in self._variables.items()),
        )
        self._compiled = tf.function(self._gradients)
        self._measured = tf.function(lambda x, y, w: self._loss(model(x, training=False), y, w))

    @property
    def initial(self) -> Parameters:
        """The weights that the model has now."""
        return {name: _value(v) for name, v in self._variables.items()}

    @property
    def step_bytes(self) -> int:
        """Unknown: TensorFlow does not say."""
        return 0

    def _loss(self, output: Any, y: Any, weight: Any) -> tuple[Any, Any]:
        """Weighted sums of loss and of right answers."""
        tf = self._tf
        if self.description.loss == "mean_squared_error":
            losses = tf.reduce_mean((output - y) ** 2, -1)
            return tf.reduce_sum(losses * weight), tf.constant(0.0)
        losses = tf.keras.losses.sparse_categorical_crossentropy(y, output, from_logits=self._from_logits)
        right = tf.cast(tf.argmax(output, -1, tf.int32) == y, tf.float32)
        return tf.reduce_sum(losses * weight), tf.reduce_sum(right * weight)

    def _gradients(self, x: Any, y: Any, weight: Any) -> tuple[Any, Any, Any]:
        tf = self._tf
        watched = [self._variables[name].value for name in self._trained]
        with tf.GradientTape() as tape:
            loss, right = self._loss(self._model(x, training=True), y, weight)
        return loss, right, tape.gradient(loss, watched)

    def _assign(self, parameters: Parameters) -> None:
        for name, variable in self._variables.items():
            variable.assign(parameters[name])

    def step(self, parameters: Parameters, batch: Batch) -> Step:
        """See `Engine`; what fills a batch up is left out, so that it moves no statistics."""
        self._assign(parameters)
        loss, right, made = self._compiled(*_real(self._tf, batch))
        gradients = {name: g.numpy() for name, g in zip(self._trained, made, strict=True)}
        statistics = {n: _value(v) for n, v in self._variables.items() if n not in gradients}
        return Step(float(loss), float(right), gradients, statistics)

    def measure(self, parameters: Parameters, batch: Batch) -> tuple[float, float]:
        """See `Engine`."""
        self._assign(parameters)
        loss, right = self._measured(*_real(self._tf, batch))
        return float(loss), float(right)


def _value(variable: Any) -> NDArray[np.float32]:
    found: NDArray[np.float32] = variable.numpy().astype(np.float32)
    return found


def _name(variable: Any) -> str:
    """Name of a variable as exported models have it: the layer's and its own."""
    return "/".join(variable.path.split("/")[-2:])


def ends_in_softmax(model: Any) -> bool:
    """Whether a Keras model answers probabilities."""
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    return type(last).__name__ == "Softmax" or getattr(activation, "__name__", "") == "softmax"


def _real(tf: Any, batch: Batch) -> tuple[Any, Any, Any]:
    count = int(np.count_nonzero(batch.weight))
    return tuple(tf.constant(part[:count]) for part in (batch.x, batch.y, batch.weight))


class KerasTrainer(LocalTrainer):
    """Trains a Keras model where TensorFlow is."""

    def __init__(
        self,
        model: Path | Any,
        data: Data | str,
        *,
        budget: Budget = Budget(),
        batch_size: int = BATCH,
        loss: Loss = "cross_entropy",
    ) -> None:
        """Load the model and check the data.

        Args:
            model: a Keras model, or the path of a ``.keras`` file.
            data: this device's examples, or the line that says where they are (`open_data`).
            budget: the most that a training may take; memory is not bounded by what TensorFlow takes.
            batch_size: examples that go through at a time; larger batches are summed up from several.
            loss: what is minimised.

        Raises:
            BackendError: TensorFlow is not installed.
            ModelError: the file is not a model.
            TensorError: the data does not fit the model.
            LimitExceeded: the budget is too small for the data.
        """
        engine = KerasEngine(model, batch_size, loss)
        super().__init__(engine, opened(data, engine, budget), budget)
