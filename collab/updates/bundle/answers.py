"""Answers of a packaged model in its own words: labels with their scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from collab.errors import ModelError
from collab.runtime.preprocessing.quantised import to_reals
from collab.updates.bundle.manifest import Port


class Scored(NamedTuple):
    """A class and what the model gave it."""

    label: str
    score: float


def label_port(outputs: Sequence[Port], labels: int) -> Port:
    """The output that has one number for each label; raises `ModelError` unless exactly one has."""
    fitting = [port for port in outputs if math.prod(port.shape) == labels]
    if len(fitting) != 1:
        shapes = ", ".join(f"{port.name!r} {list(port.shape)}" for port in outputs)
        raise ModelError(
            f"{labels} labels do not say which output they name, of {shapes}; give one for each class"
        )
    return fitting[0]


def best(answer: NDArray[Any], port: Port, labels: Sequence[str], count: int) -> list[Scored]:
    """The classes with the largest scores, the first of equal ones first."""
    scores = to_reals(answer, port.quantisation).ravel()
    order = np.argsort(-scores, kind="stable")[:count]
    return [Scored(labels[i], float(scores[i])) for i in order]
