"""Optimizers over all weights as one flat vector, in place; as Keras computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from collab.errors import ConfigError
from collab.federated.update import LocalTraining

Vector = NDArray[np.float32]


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
        gradient *= self._rate
        weights -= gradient


class Momentum:
    """Gradient descent with momentum (Sutskever et al., ICML 2013, without Nesterov's)."""

    def __init__(self, task: LocalTraining, size: int) -> None:
        self._rate, self._momentum = np.float32(task.learning_rate), np.float32(task.momentum)
        self._velocity = np.zeros(size, np.float32)

    def apply(self, weights: Vector, gradient: Vector) -> None:
        """See `Optimizer`."""
        gradient *= self._rate
        self._velocity *= self._momentum
        self._velocity -= gradient
        weights += self._velocity


class Adam:
    """Adam (Kingma and Ba, ICLR 2015), with the numbers that Keras takes."""

    FIRST: Final = 0.9
    SECOND: Final = 0.999
    EPSILON: Final = np.float32(1e-7)

    def __init__(self, task: LocalTraining, size: int) -> None:
        self._rate = task.learning_rate
        self._mean, self._square = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self._room = np.empty(size, np.float32)
        self._steps = 0

    def apply(self, weights: Vector, gradient: Vector) -> None:
        """See `Optimizer`."""
        self._steps += 1
        rate = self._rate * np.sqrt(1 - self.SECOND**self._steps) / (1 - self.FIRST**self._steps)
        room = self._room
        np.subtract(gradient, self._mean, out=room)
        room *= np.float32(1 - self.FIRST)
        self._mean += room
        gradient *= gradient
        gradient -= self._square
        gradient *= np.float32(1 - self.SECOND)
        self._square += gradient
        np.sqrt(self._square, out=room)
        room += self.EPSILON
        np.divide(self._mean, room, out=room)
        room *= np.float32(rate)
        weights -= room


OPTIMIZERS: Final[Mapping[str, Callable[[LocalTraining, int], Optimizer]]] = MappingProxyType(
    {"sgd": Sgd, "momentum": Momentum, "adam": Adam}
)


def make_optimizer(task: LocalTraining, size: int) -> Optimizer:
    """The optimizer that a task names; raises `ConfigError` when there is none of that name."""
    make = OPTIMIZERS.get(task.optimizer)
    if make is None:
        raise ConfigError(f"optimizer {task.optimizer!r} is not known: use one of {', '.join(OPTIMIZERS)}")
    return make(task, size)
