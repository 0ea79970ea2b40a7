"""A trainer in numpy that nodes under test load by entry points, and clients that do not keep to the rules.

The trainable model is an ``.npz`` of weights ``w`` and ``b``; data is an ``.npz`` of ``x`` and ``y``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from collab.errors import Cancelled
from collab.federated.base import Trained
from collab.federated.update import LocalTraining, Parameters
from collab.node.training_config import TrainingConfig
from collab.node.training_work import Enrolled

HELD_OUT = 5
"""Every so many-th example is held out."""


class SoftmaxRegression:
    """Plain gradient descent; the same arguments give the same bits."""

    def __init__(self, initial: Parameters, x: np.ndarray, y: np.ndarray) -> None:
        held = np.arange(len(x)) % HELD_OUT == 0
        self._initial = initial
        self._x, self._y = x[~held], y[~held]
        self._held_x, self._held_y = x[held], y[held]

    @property
    def samples(self) -> int:
        return len(self._x)

    @property
    def initial(self) -> Parameters:
        return self._initial

    def train(
        self,
        start: Parameters,
        task: LocalTraining,
        *,
        correction: Parameters | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Trained:
        begun = time.perf_counter()
        w, b = start["w"].copy(), start["b"].copy()
        rng, losses = np.random.default_rng(task.seed), []
        for _ in range(task.epochs):
            order = rng.permutation(len(self._x))
            for at in range(0, len(order), task.batch_size):
                if cancelled():
                    raise Cancelled("training was cancelled")
                batch = order[at : at + task.batch_size]
                loss, grad_w, grad_b = _gradients(w, b, self._x[batch], self._y[batch])
                if correction is not None:
                    grad_w, grad_b = grad_w + correction["w"], grad_b + correction["b"]
                w -= np.float32(task.learning_rate) * grad_w
                b -= np.float32(task.learning_rate) * grad_b
                losses.append(loss)
        control = {}
        if correction is not None:
            moved = np.float32(len(losses) * task.learning_rate)
            control = {
                name: (start[name] - new) / moved - correction[name] for name, new in (("w", w), ("b", b))
            }
        return Trained(
            {"w": w, "b": b},
            control=control,
            samples=len(self._x),
            steps=len(losses),
            seconds=time.perf_counter() - begun,
            metrics={"loss": float(np.mean(losses))},
        )

    def evaluate(self, parameters: Parameters) -> Mapping[str, float]:
        loss, _, _ = _gradients(parameters["w"], parameters["b"], self._held_x, self._held_y)
        scores = self._held_x @ parameters["w"] + parameters["b"]
        right = float(np.mean(scores.argmax(1) == self._held_y))
        return {"loss": loss, "accuracy": right, "samples": float(len(self._held_y))}


def _gradients(
    w: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    scores = x @ w + b
    scores -= scores.max(1, keepdims=True)
    chances = np.exp(scores)
    chances /= chances.sum(1, keepdims=True)
    loss = float(-np.log(chances[np.arange(len(y)), y] + 1e-12).mean())
    chances[np.arange(len(y)), y] -= 1
    chances /= np.float32(len(y))
    return loss, x.T @ chances, chances.sum(0)


def softmax(model: Path, config: TrainingConfig) -> Enrolled:
    """The honest one."""
    with np.load(model) as initial, np.load(config.data) as data:
        trainer = SoftmaxRegression(dict(initial), data["x"], data["y"])
    return Enrolled(trainer, trainer.samples)


class _Altered(SoftmaxRegression):
    """Gives other weights than it trained."""

    alter: Callable[[Parameters], Parameters]

    def train(self, start: Parameters, task: LocalTraining, **options: object) -> Trained:
        trained = super().train(start, task, **options)
        return Trained(type(self).alter(trained.parameters), trained.samples, trained.steps, trained.seconds)


class _Poisoned(_Altered):
    @staticmethod
    def alter(weights: Parameters) -> Parameters:
        return {**weights, "b": np.full_like(weights["b"], np.nan)}


class _Misshapen(_Altered):
    @staticmethod
    def alter(weights: Parameters) -> Parameters:
        return {**weights, "b": weights["b"][None]}


class _Hanging(SoftmaxRegression):
    def train(self, start: Parameters, task: LocalTraining, **options: object) -> Trained:
        time.sleep(3600)
        raise AssertionError


def _made(kind: type[SoftmaxRegression]) -> Callable[[Path, TrainingConfig], Enrolled]:
    def make(model: Path, config: TrainingConfig) -> Enrolled:
        with np.load(model) as initial, np.load(config.data) as data:
            trainer = kind(dict(initial), data["x"], data["y"])
        return Enrolled(trainer, trainer.samples)

    return make


poisoned, misshapen, hanging = _made(_Poisoned), _made(_Misshapen), _made(_Hanging)

ENTRY_POINTS = """[collab.trainers]
softmax = tests.integration.federated_trainers:softmax
poisoned = tests.integration.federated_trainers:poisoned
misshapen = tests.integration.federated_trainers:misshapen
hanging = tests.integration.federated_trainers:hanging
"""


def install(folder: Path) -> Path:
    """Write what makes an installed package of a folder on the path; the folder."""
    info = folder / "collab_test_trainers-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: collab-test-trainers\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder
