"""What happens to one update before it is combined with others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.federated.aggregate.fixed import weight_units
from collab.federated.aggregate.settings import Aggregation
from collab.federated.update import Parameters, Update

_PIECE: Final = 1 << 16


def norm(parameters: Parameters) -> float:
    """L2 norm over all tensors, in float64; infinite or NaN where an element is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(
            sum(
                float(np.square(piece, dtype=np.float64).sum())
                for array in parameters.values()
                for piece in _pieces(array)
            )
        )


def clip(update: Update, most: float) -> Update:
    """The update scaled down to a norm of ``most``, or as it is."""
    size = norm(update.delta)
    if size <= most:
        return update
    factor = most / size
    return dataclasses.replace(
        update, delta={name: array * array.dtype.type(factor) for name, array in update.delta.items()}
    )


def weight(settings: Aggregation, update: Update) -> int:
    """What an update counts in a mean, in units of fixed point: samples, less for one that began long ago."""
    samples = update.samples if settings.by_samples else 1
    return weight_units(samples * (1 + update.staleness) ** -settings.staleness_exponent)


def _pieces(array: NDArray[np.floating]) -> Iterator[NDArray[np.floating]]:
    flat = np.ascontiguousarray(array).reshape(-1)
    return (flat[at : at + _PIECE] for at in range(0, flat.size, _PIECE))
