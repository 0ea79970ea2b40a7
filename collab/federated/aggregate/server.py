"""Server optimizers: what the mean of a round's updates does to the model.

The mean is taken for a gradient's negative (Reddi et al., "Adaptive Federated
Optimization", ICLR 2021, algorithm 2).  Formulas and defaults are those of
tensorflow-federated's optimizers of the same names, bias correction included;
work is in float64 and the model is rounded once, to its own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Union

import numpy as np
from numpy.typing import NDArray

from collab.core.plan import Frozen
from collab.errors import ConfigError
from collab.federated.update import Parameters

State = Parameters
"""Arrays by ``slot:tensor``, and the number of ``step``s; empty before the first.

All are floating-point, so that whoever keeps a model can keep them.
"""
Doubles = NDArray[np.float64]


class Sgd(Frozen, frozen=True, tag="sgd", tag_field="optimizer", kw_only=True):
    """The mean itself, times the learning rate: FedAvg with 1 (McMahan et al., AISTATS 2017)."""

    learning_rate: float = 1.0


class Momentum(Frozen, frozen=True, tag="momentum", tag_field="optimizer", kw_only=True):
    """FedAvgM (Hsu et al., 2019): ``v = momentum · v + mean``, the model moves by ``v``."""

    learning_rate: float = 1.0
    momentum: float = 0.9


class Adam(Frozen, frozen=True, tag="adam", tag_field="optimizer", kw_only=True):
    """FedAdam."""

    learning_rate: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7


class Yogi(Frozen, frozen=True, tag="yogi", tag_field="optimizer", kw_only=True):
    """FedYogi."""

    learning_rate: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-3
    initial: float = 1e-6
    """Of the second moments."""


class Adagrad(Frozen, frozen=True, tag="adagrad", tag_field="optimizer", kw_only=True):
    """FedAdagrad."""

    learning_rate: float = 0.1
    epsilon: float = 1e-7
    initial: float = 0.1
    """Of the sum of squares."""


ServerOptimizer = Union[Sgd, Momentum, Adam, Yogi, Adagrad]

_STEP: Final = "step"


def check_server(server: ServerOptimizer, path: str = "aggregation.server") -> None:
    """Raise `ConfigError` for a number that makes no sense."""
    for name in server.__struct_fields__:
        value = getattr(server, name)
        most = 1 if name in ("momentum", "beta_1", "beta_2") else math.inf
        if not 0 <= value < most or (name == "learning_rate" and not value):
            below = f" and less than {most}" if most == 1 else " and finite"
            raise ConfigError(
                f"{path}.{name}: {value:g} cannot be; use a number {'over' if most > 1 else 'from'} 0{below}"
            )


def step(
    server: ServerOptimizer, model: Parameters, mean: Parameters, state: State
) -> tuple[dict[str, NDArray[np.floating]], dict[str, NDArray[np.floating]]]:
    """The next model and the next state; neither argument is changed.

    Raises `ConfigError` for the state of another optimizer or model.
    """
    slots, change = _RULES[type(server)]
    count = int(state[_STEP]) + 1 if _STEP in state else 1
    kept: dict[str, NDArray[np.floating]] = {_STEP: np.array(float(count))}
    weights: dict[str, NDArray[np.floating]] = {}
    for name, weight in model.items():
        old = {slot: _slot(server, state, slot, name, weight.shape, count) for slot in slots}
        moved = change(server, count, np.asarray(mean[name], np.float64), old)
        weights[name] = (weight.astype(np.float64) + moved).astype(weight.dtype)
        kept |= {f"{slot}:{name}": array for slot, array in old.items()}
    return weights, kept


def _slot(
    server: ServerOptimizer, state: State, slot: str, name: str, shape: tuple[int, ...], count: int
) -> Doubles:
    """A copy of what is kept, or what it begins with."""
    if count == 1:
        initial = getattr(server, "initial", 0.0) if slot == "second" else 0.0
        return np.full(shape, initial)
    array = state.get(f"{slot}:{name}")
    if array is None or array.shape != shape:
        raise ConfigError(
            f"aggregation.server: the kept state has no {slot} of {name!r} {list(shape)}; "
            "go on with the optimizer and model that it was made with, or begin a new run"
        )
    return np.array(array, np.float64)


def _sgd(server: Sgd, count: int, mean: Doubles, slots: dict[str, Doubles]) -> Doubles:
    return server.learning_rate * mean


def _momentum(server: Momentum, count: int, mean: Doubles, slots: dict[str, Doubles]) -> Doubles:
    slots["velocity"] = velocity = server.momentum * slots["velocity"] + mean
    return server.learning_rate * velocity


def _adam(server: Adam, count: int, mean: Doubles, slots: dict[str, Doubles]) -> Doubles:
    second = slots["second"]
    slots["second"] = second + (mean * mean - second) * (1 - server.beta_2)
    return _moments(server, count, mean, slots)


def _yogi(server: Yogi, count: int, mean: Doubles, slots: dict[str, Doubles]) -> Doubles:
    second, square = slots["second"], mean * mean
    slots["second"] = second + (1 - server.beta_2) * np.sign(square - second) * square
    return _moments(server, count, mean, slots)


def _moments(server: Adam | Yogi, count: int, mean: Doubles, slots: dict[str, Doubles]) -> Doubles:
    """What Adam and Yogi share: the first moment, and both corrected for their beginning."""
    first = slots["first"]
    slots["first"] = first = first + (mean - first) * (1 - server.beta_1)
    rate = server.learning_rate * math.sqrt(1 - server.beta_2**count) / (1 - server.beta_1**count)
    return rate * first / (np.sqrt(slots["second"]) + server.epsilon)


def _adagrad(server: Adagrad, count: int, mean: Doubles, slots: dict[str, Doubles]) -> Doubles:
    slots["second"] = second = slots["second"] + mean * mean
    return server.learning_rate * mean / np.sqrt(second + server.epsilon)


_RULES: Final[dict[type, tuple[tuple[str, ...], Callable[..., Doubles]]]] = {
    Sgd: ((), _sgd),
    Momentum: (("velocity",), _momentum),
    Adam: (("first", "second"), _adam),
    Yogi: (("first", "second"), _yogi),
    Adagrad: (("second",), _adagrad),
}
"""What each keeps for every tensor, and how it moves the model."""
