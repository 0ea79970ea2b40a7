"""Finds a Keras model's kernels among the constants of a converted one.

Converters move axes and multiply a kernel's output channels by what a batch norm behind it
scales with.  So kernels are compared channel by channel, as directions; biases and scales,
which converters merge, are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.codec.tensors import Array

_KNOWN: Final = frozenset({"Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D", "Dense"})
_CLOSE: Final = 1e-2
"""Directions further apart than this are another kernel's."""


@dataclass(frozen=True, slots=True)
class Found:
    """How many kernels there are and were found, how far the worst is, and who is missing."""

    kernels: int
    matched: int
    max_difference: float
    missing: tuple[str, ...]


def find_kernels(model: Any, constants: Mapping[str, Array]) -> Found:
    """Look for every kernel of a Keras model."""
    by_size: dict[int, list[Array]] = {}
    for constant in constants.values():
        by_size.setdefault(constant.size, []).append(constant)
    worst, matched, missing = 0.0, 0, []
    every = list(kernels_of(model))
    for name, rows, known in every:
        measure = _apart if known else _together
        apart = min((measure(rows, candidate) for candidate in by_size.get(rows.size, [])), default=math.inf)
        if apart > _CLOSE:
            missing.append(name)
        else:
            matched, worst = matched + 1, max(worst, apart)
    return Found(len(every), matched, worst, tuple(missing))


def kernels_of(model: Any) -> Iterator[tuple[str, Array, bool]]:
    """Name, ``[output channels, …]`` and whether that order is known, of kernels with two axes or more."""
    for layer in model._flatten_layers(include_self=False):
        if getattr(layer, "_layers", None):
            continue
        for variable in layer.weights:
            array: Array = variable.numpy()
            if array.ndim >= 2 and "kernel" in variable.name:
                kind = type(layer).__name__
                yield layer.name, _channels_first(array, kind), kind in _KNOWN


def _channels_first(array: Array, kind: str) -> Array:
    """The kernel with output channels, then input channels, then places."""
    if kind.startswith("Depthwise"):
        moved: Array = np.moveaxis(array, (-2, -1), (0, 1))
        rows: Array = moved.reshape(moved.shape[0] * moved.shape[1], -1)
        return rows
    moved = np.moveaxis(array, (-1, -2), (0, 1))
    rows = moved.reshape(moved.shape[0], -1)
    return rows


def _apart(rows: Array, candidate: Array) -> float:
    """Largest difference between directions of channels, whichever way the candidate lies."""
    found = math.inf
    one = _directions(rows)
    layouts = [candidate.reshape(len(rows), -1)] if candidate.size % len(rows) == 0 else []
    if candidate.ndim == 2:
        layouts.append(candidate.T)
    for layout in layouts:
        if layout.shape == rows.shape:
            other = _directions(layout)
            # A batch norm may turn a channel's sign.
            signs = np.where((one * other).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
            found = min(found, float(np.abs(one - signs * other).max(initial=0.0)))
    return found


def _together(rows: Array, candidate: Array) -> float:
    """Of layers whose axes may lie anyhow: how far their numbers are in order of size."""
    apart = np.abs(np.sort(rows, axis=None) - np.sort(candidate, axis=None)).max(initial=0.0)
    return float(apart) / max(float(np.abs(rows).max(initial=0.0)), 1e-12)


def _directions(rows: Array) -> NDArray[np.float64]:
    wide: NDArray[np.float64] = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths > 0, lengths, 1.0)
