"""A trainer of small dense networks in numpy alone: what runs beside it differs in nothing but the algorithm.

It computes in float32, with the batches, the order and the update that any textbook has, so that a framework
that is given the same does the same up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.errors import Cancelled, ConfigError
from collab.federated.base import Trained
from collab.federated.update import LocalTraining, Parameters

Array = NDArray[np.float32]


def initial_dense(sizes: Sequence[int], seed: int) -> dict[str, Array]:
    """Glorot weights of dense layers, such as ``(196, 16, 10)``: kernel and bias of each."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    for layer, (size, width) in enumerate(pairwise(sizes)):
        bound = np.sqrt(6 / (size + width))
        weights[f"kernel_{layer}"] = rng.uniform(-bound, bound, (size, width)).astype(np.float32)
        weights[f"bias_{layer}"] = np.zeros(width, np.float32)
    return weights


@dataclass(frozen=True)
class DenseTrainer:
    """ReLU between the layers, softmax and cross-entropy at the end; one layer alone is softmax regression.

    ``features`` is float32 [n, f], ``labels`` int [n].
    """

    weights: Parameters
    features: Array
    labels: NDArray[np.int64]
    shuffled: bool = True
    """Otherwise examples come in their own order in every epoch."""

    @property
    def initial(self) -> Parameters:
        return self.weights

    def train(
        self,
        start: Parameters,
        task: LocalTraining,
        *,
        correction: Parameters | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Trained:
        if task.optimizer not in ("sgd", "momentum"):
            raise ConfigError(f"optimizer {task.optimizer!r}: this trainer has sgd and momentum")
        began = time.perf_counter()
        begun = {name: value.astype(np.float32) for name, value in start.items()}
        now: dict[str, Array] = dict(begun)
        speed = {name: np.zeros_like(value) for name, value in now.items()}
        rng = np.random.default_rng(task.seed)
        losses: list[float] = []
        for _ in range(task.epochs):
            order = rng.permutation(len(self.labels)) if self.shuffled else np.arange(len(self.labels))
            for at in range(0, len(order), task.batch_size):
                if len(losses) == task.max_steps:
                    break
                if cancelled():
                    raise Cancelled("training was cancelled")
                rows = order[at : at + task.batch_size]
                loss, slopes = self._step(now, rows)
                losses.append(loss)
                for name, slope in slopes.items():
                    if correction is not None:
                        slope += correction[name].astype(np.float32)
                    if task.proximal:
                        slope += np.float32(task.proximal) * (now[name] - begun[name])
                    if task.optimizer == "momentum":
                        speed[name] = slope = np.float32(task.momentum) * speed[name] + slope
                    now[name] = now[name] - np.float32(task.learning_rate) * slope
        loss = float(np.mean(losses)) if losses else 0.0
        control: dict[str, Array] = {}
        if correction is not None:  # SCAFFOLD, option II: the mean of the gradients themselves
            pace = np.float32(max(len(losses), 1) * task.learning_rate)
            control = {n: (begun[n] - now[n]) / pace - correction[n].astype(np.float32) for n in now}
        seconds = time.perf_counter() - began
        return Trained(now, len(self.labels), len(losses), seconds, {"loss": loss}, control)

    def evaluate(self, parameters: Parameters) -> Mapping[str, float]:
        weights = {name: value.astype(np.float32) for name, value in parameters.items()}
        scores = _forward(weights, self.features)[-1]
        right = np.argmax(scores, axis=1) == self.labels
        loss = -np.log(np.maximum(_softmax(scores)[np.arange(len(right)), self.labels], 1e-12))
        return {"loss": float(loss.mean()), "accuracy": float(right.mean()), "samples": float(len(right))}

    def _step(self, weights: Mapping[str, Array], rows: NDArray[Any]) -> tuple[float, dict[str, Array]]:
        """Mean loss of one batch, and its gradient in the order of the weights."""
        layers = _forward(weights, self.features[rows])
        chances = _softmax(layers[-1])
        picked = chances[np.arange(len(rows)), self.labels[rows]]
        slope = chances
        slope[np.arange(len(rows)), self.labels[rows]] -= 1
        slope /= np.float32(len(rows))
        found: dict[str, Array] = {}
        for layer in reversed(range(len(layers) - 1)):
            found[f"bias_{layer}"] = slope.sum(axis=0)
            found[f"kernel_{layer}"] = layers[layer].T @ slope
            if layer:
                slope = (slope @ weights[f"kernel_{layer}"].T) * (layers[layer] > 0)
        return float(-np.log(np.maximum(picked, 1e-12)).mean()), {name: found[name] for name in weights}


def _forward(weights: Mapping[str, Array], features: Array) -> list[Array]:
    """The input of each layer, then the scores."""
    layers = [features]
    count = len(weights) // 2
    for layer in range(count):
        out = layers[-1] @ weights[f"kernel_{layer}"] + weights[f"bias_{layer}"]
        layers.append(np.maximum(out, 0) if layer < count - 1 else out)
    return layers


def _softmax(scores: Array) -> Array:
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return chances
