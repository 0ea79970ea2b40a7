"""Optimizers over all weights as one flat vector, in place; as Keras computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from collab.errors import ConfigError
from collab.federated.update import LocalTraining

Vector = NDArray[np.float32]


BLOCK: Final = 1 << 15
"""Elements that stay in the cache while several operations go over them."""


def _blocks(*vectors: Vector) -> Iterator[tuple[Vector, ...]]:
    for at in range(0, vectors[0].size, BLOCK):
        yield tuple(vector[at : at + BLOCK] for vector in vectors)


class Optimizer(Protocol):
    """Moves weights by a gradient and remembers what it needs for the next step."""

    def apply(self, weights: Vector, gradient: Vector) -> None:
        """Change `weights` in place; `gradient` is spoilt."""


class Sgd:
    """Plain gradient descent."""

    def __init__(self, task: LocalTraining, size: int) -> None:
        self._rate = np.float32(task.learning_rate)

    def apply(self, weights: Vector, gradient: Vector) -> None:
        """See `Optimizer`."""
        for moved, slope in _blocks(weights, gradient):
            slope *= self._rate
            moved -= slope


class Momentum:
    """Gradient descent with momentum (Sutskever et al., ICML 2013, without Nesterov's)."""

    def __init__(self, task: LocalTraining, size: int) -> None:
        self._rate, self._momentum = np.float32(task.learning_rate), np.float32(task.momentum)
        self._velocity = np.zeros(size, np.float32)

    def apply(self, weights: Vector, gradient: Vector) -> None:
        """See `Optimizer`."""
        for moved, slope, velocity in _blocks(weights, gradient, self._velocity):
            slope *= self._rate
            velocity *= self._momentum
            velocity -= slope
            moved += velocity


class Adam:
    """Adam (Kingma and Ba, ICLR 2015), with the numbers that Keras takes."""

    FIRST: Final = 0.9
    SECOND: Final = 0.999
    EPSILON: Final = np.float32(1e-7)

    def __init__(self, task: LocalTraining, size: int) -> None:
        self._rate = task.learning_rate
        self._mean, self._square = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self._steps = 0

    def apply(self, weights: Vector, gradient: Vector) -> None:
        """See `Optimizer`."""
        self._steps += 1
        rate = self._rate * np.sqrt(1 - self.SECOND**self._steps) / (1 - self.FIRST**self._steps)
        for moved, slope, mean, square in _blocks(weights, gradient, self._mean, self._square):
            room = slope - mean
            room *= np.float32(1 - self.FIRST)
            mean += room
            slope *= slope
            slope -= square
            slope *= np.float32(1 - self.SECOND)
            square += slope
            np.sqrt(square, out=room)
            room += self.EPSILON
            np.divide(mean, room, out=room)
            room *= np.float32(rate)
            moved -= room


OPTIMIZERS: Final[Mapping[str, Callable[[LocalTraining, int], Optimizer]]] = MappingProxyType(
    {"sgd": Sgd, "momentum": Momentum, "adam": Adam}
)


def make_optimizer(task: LocalTraining, size: int) -> Optimizer:
    """The optimizer that a task names; raises `ConfigError` when there is none of that name."""
    make = OPTIMIZERS.get(task.optimizer)
    if make is None:
        raise ConfigError(f"optimizer {task.optimizer!r} is not known: use one of {', '.join(OPTIMIZERS)}")
    return make(task, size)
