"""Local training: epochs, batches, optimizer, corrections, budget; gradients are somebody else's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from collab.errors import BackendError, Cancelled, ConfigError, LimitExceeded, TensorError
from collab.federated.base import Trained
from collab.federated.data.examples import Data, Examples
from collab.federated.data.sources import MAX_BYTES, open_data
from collab.federated.trainable import Description
from collab.federated.trainers.optimizers import make_optimizer
from collab.federated.update import LocalTraining, Parameters

Array = NDArray[Any]

MAX_BATCH: Final = 1 << 16
_LARGEST: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one step, filled up to the engine's batch.

    Attributes:
        x: inputs ``[batch, …]``.
        y: classes or wanted outputs.
        weight: of each example's loss; 0 for what fills up.
        masks: what scales the inputs of dropout layers, by layer; empty when evaluating.
    """

    x: Array
    y: Array
    weight: NDArray[np.float32]
    masks: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Step:
    """What a batch gives: weighted sums of loss and of right answers, gradients, new statistics."""

    loss: float
    correct: float
    gradients: Parameters
    statistics: Parameters


class Engine(Protocol):
    """Computes losses and gradients of one model for batches of one size."""

    @property
    def description(self) -> Description:
        """What the model is."""

    @property
    def initial(self) -> Parameters:
        """The weights that it came with."""

    @property
    def step_bytes(self) -> int:
        """About how much memory a step takes beside data and weights."""

    def step(self, parameters: Parameters, batch: Batch) -> Step:
        """Loss, gradients and statistics of one batch, as it is trained."""

    def measure(self, parameters: Parameters, batch: Batch) -> tuple[float, float]:
        """Loss and right answers of one batch, as it will be used; both are weighted sums."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that one training may take; None is no bound."""

    samples: int | None = None
    """Different examples: the first ones of the training part."""
    seconds: float | None = None
    """Training then ends early, after a whole step, and says so in ``metrics``."""
    memory_bytes: int | None = None
    """Of data, weights, optimizer and one step together."""


def opened(data: Data | str, engine: Engine, budget: Budget) -> Data:
    """The examples, read from where a line of settings says if that is given."""
    if isinstance(data, Data):
        return data
    return open_data(data, engine.description, max_bytes=min(MAX_BYTES, budget.memory_bytes or MAX_BYTES))


class LocalTrainer:
    """Trains a model on this device's data (`collab.federated.base.Trainer`)."""

    def __init__(
        self,
        engine: Engine,
        data: Data,
        budget: Budget = Budget(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check the data against the model.

        Raises:
            TensorError: shapes or classes do not fit the model.
            LimitExceeded: data and weights alone are over the memory budget.
        """
        self._engine, self._budget, self._clock = engine, budget, clock
        for part, examples in (("training", data.training), ("held-out", data.held_out)):
            check_examples(engine.description, examples, part)
        self._data = Data(data.training.first(budget.samples), data.held_out)
        if not len(self._data.training):
            raise TensorError("the training part has no examples")
        self._weights = {w.name: w.shape for w in engine.description.weights if w.trainable}
        self._statistics = tuple(w.name for w in engine.description.weights if not w.trainable)
        needed = engine.step_bytes + data.nbytes + 5 * sum(a.nbytes for a in engine.initial.values())
        if budget.memory_bytes is not None and needed > budget.memory_bytes:
            raise LimitExceeded(
                f"training needs about {needed} bytes, memory_bytes allows {budget.memory_bytes}"
            )

    @property
    def initial(self) -> Parameters:
        """The weights that the model came with."""
        return self._engine.initial

    @property
    def samples(self) -> int:
        """Examples that it trains on."""
        return len(self._data.training)

    def train(
        self,
        start: Parameters,
        task: LocalTraining,
        *,
        correction: Parameters | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Trained:
        """See `collab.federated.base.Trainer`.

        Raises:
            Cancelled: `cancelled` said so.
            ConfigError: a setting of the task cannot be.
            TensorError: `start` or `correction` are not the model's parameters.
            BackendError: loss or weights are not finite: nothing of it should be sent.
        """
        _check_task(task)
        begun = self._clock()
        run = _Run(self._engine, self._weights, self._statistics, start, task, correction)
        loss, right, seen = 0.0, 0.0, 0
        reached: set[int] = set()
        truncated = False
        for epoch in range(task.epochs):
            order = np.random.default_rng((task.seed, epoch)).permutation(self.samples)
            for at in range(0, self.samples, task.batch_size):
                if cancelled():
                    raise Cancelled(f"training was cancelled after {run.steps} steps")
                if self._over(task, run.steps, begun):
                    truncated = task.max_steps is None or run.steps < task.max_steps
                    break
                rows = order[at : at + task.batch_size]
                made = run.step(self._data.training, rows, epoch)
                loss, right, seen = loss + made[0], right + made[1] * len(rows), seen + len(rows)
                reached.update(rows.tolist())
            else:
                continue
            break
        seconds = self._clock() - begun
        metrics = {"loss": loss / max(run.steps, 1), "truncated": float(truncated)}
        if self._engine.description.loss == "cross_entropy":
            metrics["accuracy"] = right / max(seen, 1)
        control = {} if correction is None else run.control(task)
        return Trained(run.parameters(), len(reached), run.steps, seconds, metrics, control)

    def _over(self, task: LocalTraining, steps: int, begun: float) -> bool:
        if task.max_steps is not None and steps >= task.max_steps:
            return True
        # One step at least: an update of nothing would be useless.
        return (
            self._budget.seconds is not None and steps > 0 and self._clock() - begun >= self._budget.seconds
        )

    def evaluate(self, parameters: Parameters) -> Mapping[str, float]:
        """See `collab.federated.base.Trainer`; raises `TensorError` as `train` does."""
        description = self._engine.description
        given = _checked(parameters, {w.name: w.shape for w in description.weights}, "parameters")
        examples = self._data.held_out
        loss, right = 0.0, 0.0
        for at in range(0, len(examples), description.batch_size):
            rows = np.arange(at, min(at + description.batch_size, len(examples)))
            batch = _fill(examples, rows, description.batch_size, 1.0, {})
            found = self._engine.measure(given, batch)
            loss, right = loss + found[0], right + found[1]
        count = len(examples)
        if not count:
            return {"samples": 0.0}
        measured = {"loss": loss / count, "samples": float(count)}
        if description.loss == "cross_entropy":
            measured["accuracy"] = right / count
        return measured


class _Run:
    """Weights and optimizer of one training; weights are views of one vector."""

    def __init__(
        self,
        engine: Engine,
        weights: Mapping[str, tuple[int, ...]],
        statistics: tuple[str, ...],
        start: Parameters,
        task: LocalTraining,
        correction: Parameters | None,
    ) -> None:
        self._engine, self._task, self.steps = engine, task, 0
        shapes = {w.name: w.shape for w in engine.description.weights}
        given = _checked(start, shapes, "start")
        self._statistics = {name: given[name] for name in statistics}
        self._start = _flat(given, weights)
        self._current, self._gradient = self._start.copy(), np.empty_like(self._start)
        self._views, self._into = _split(self._current, weights), _split(self._gradient, weights)
        self._order = [w.name for w in engine.description.weights]
        self._correction = None
        if correction is not None:
            self._correction = _flat(_checked(correction, weights, "correction"), weights)
        self._optimizer = make_optimizer(task, self._start.size)

    def step(self, examples: Examples, rows: NDArray[np.int64], epoch: int) -> tuple[float, float]:
        """One step over some examples; mean loss and share of right answers."""
        task, description = self._task, self._engine.description
        loss, right = 0.0, 0.0
        for at in range(0, len(rows), description.batch_size):
            part = rows[at : at + description.batch_size]
            masks = _masks(description, (task.seed, epoch, self.steps, at))
            batch = _fill(examples, part, description.batch_size, 1 / len(rows), masks)
            made = self._engine.step({**self._views, **self._statistics}, batch)
            loss, right = loss + made.loss, right + made.correct
            for name, view in self._into.items():
                if at:
                    view += made.gradients[name]
                else:
                    view[...] = made.gradients[name]
            self._statistics.update(made.statistics)
        if not np.isfinite(loss):
            raise BackendError(f"the loss is {loss} after {self.steps} steps: lower learning_rate")
        if task.proximal:
            self._gradient += np.float32(task.proximal) * (self._current - self._start)
        if self._correction is not None:
            self._gradient += self._correction
        # What overflows is found by the next step's loss, or at the end.
        with np.errstate(over="ignore", invalid="ignore"):
            self._optimizer.apply(self._current, self._gradient)
        self.steps += 1
        return loss, right

    def parameters(self) -> Parameters:
        """All parameters, in the model's order; raises `BackendError` when some are not finite."""
        if not np.isfinite(self._current).all():
            raise BackendError(f"the weights are not finite after {self.steps} steps: lower learning_rate")
        found = {**self._views, **self._statistics}
        return {name: found[name].copy() for name in self._order}

    def control(self, task: LocalTraining) -> Parameters:
        """The client's control variate as it is now (SCAFFOLD, option II of equation 4)."""
        assert self._correction is not None
        change = (self._start - self._current) / np.float32(max(self.steps, 1) * task.learning_rate)
        change -= self._correction
        shapes = {name: view.shape for name, view in self._views.items()}
        found = _split(change, shapes)
        return {
            name: found[name] if name in found else np.zeros_like(self._statistics[name])
            for name in self._order
        }


def _check_task(task: LocalTraining) -> None:
    checks = (
        ("epochs", task.epochs >= 1, "at least 1"),
        ("batch_size", 1 <= task.batch_size <= MAX_BATCH, f"1 to {MAX_BATCH}"),
        ("learning_rate", 0 < task.learning_rate <= _LARGEST, "above 0"),
        ("momentum", 0 <= task.momentum < 1, "0 to below 1"),
        ("proximal", 0 <= task.proximal <= _LARGEST, "0 or more"),
        ("max_steps", task.max_steps is None or task.max_steps >= 1, "at least 1, or none"),
        ("seed", task.seed >= 0, "0 or more"),
    )
    for name, holds, wanted in checks:
        if not holds:
            raise ConfigError(f"training.{name} is {getattr(task, name)}; it must be {wanted}")


def check_examples(description: Description, examples: Examples, part: str) -> None:
    """Raise `TensorError` unless a model can take these examples."""
    if examples.x.shape[1:] != description.input_shape:
        raise TensorError(
            f"{part} examples have shape {examples.x.shape[1:]}, the model takes {description.input_shape}"
        )
    if description.loss == "cross_entropy":
        classes = description.output_shape[0]
        if examples.y.ndim != 1 or examples.y.dtype.kind not in "iu":
            raise TensorError(f"{part} labels must be one whole number each, the model has {classes} classes")
        if len(examples) and not (examples.y.min() >= 0 and examples.y.max() < classes):
            row = int(np.flatnonzero((examples.y < 0) | (examples.y >= classes))[0])
            raise TensorError(
                f"{part} example {row} has label {examples.y[row]}; the model has classes 0 to {classes - 1}"
            )
    elif examples.y.shape[1:] != description.output_shape:
        raise TensorError(
            f"{part} targets have shape {examples.y.shape[1:]}, the model gives {description.output_shape}"
        )


def _checked(given: Parameters, shapes: Mapping[str, tuple[int, ...]], what: str) -> dict[str, Array]:
    """The named tensors as float32; others are ignored."""
    found = {}
    for name, shape in shapes.items():
        if name not in given:
            raise TensorError(f"{what} lacks {name!r}")
        if given[name].shape != shape:
            raise TensorError(f"{what}: {name!r} has shape {given[name].shape}, the model has {shape}")
        found[name] = np.ascontiguousarray(given[name], np.float32)
    return found


def _flat(tensors: Mapping[str, Array], names: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.concatenate([np.asarray(tensors[name], np.float32).ravel() for name in names])


def _split(
    vector: NDArray[np.float32], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.float32]]:
    """Views of a vector, one for each tensor."""
    views, at = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape, dtype=np.int64))
        views[name] = vector[at : at + size].reshape(shape)
        at += size
    return views


def _fill(
    examples: Examples, rows: NDArray[np.int64], size: int, weight: float, masks: Mapping[str, Array]
) -> Batch:
    """Some examples as a batch; what is missing is filled up with copies that weigh nothing."""
    weights = np.zeros(size, np.float32)
    weights[: len(rows)] = weight
    if len(rows) < size:
        # Copies of a real example keep everything finite.
        rows = np.concatenate([rows, np.full(size - len(rows), rows[0])])
    x, y = examples.take(rows)
    return Batch(x, y, weights, masks)


def _masks(description: Description, seed: tuple[int, ...]) -> dict[str, Array]:
    if not description.dropout:
        return {}
    rng = np.random.default_rng(seed)
    masks = {}
    for name, dropped in description.dropout.items():
        shape = (description.batch_size, *dropped.shape)
        kept = rng.random(shape, np.float32) >= np.float32(dropped.rate)
        masks[name] = kept.astype(np.float32) * np.float32(1 / (1 - dropped.rate))
    return masks
