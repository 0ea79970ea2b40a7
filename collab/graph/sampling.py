"""Draws inputs and splits to try, the same ones for the same seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np

from collab.core.tensor import TensorSpec
from collab.errors import ModelError
from collab.graph.cuts import allowed_cuts
from collab.graph.graph import Graph

Array = np.ndarray[Any, Any]

INDEX_LIMIT: Final = 4
"""Integers that look like indices are drawn below this; larger ones fall off real tables."""


def random_inputs(
    specs: Sequence[TensorSpec], *, quantised: Collection[str] = (), seed: int = 0, count: int = 2
) -> list[list[Array]]:
    """Draw `count` sets of inputs.

    Reals are uniform in [-1, 1). Integers of 8 bits and those named in `quantised` fill
    their range; other integers may be indices and are drawn from 0 to 3.

    Raises:
        ModelError: an input has a dtype that numpy has not.
    """
    rng = np.random.default_rng(seed)
    return [[_draw(spec, spec.name in quantised, rng) for spec in specs] for _ in range(count)]


def random_splits(graph: Graph, count: int, seed: int) -> list[tuple[int, ...]]:
    """Draw up to `count` different splits of two or three cuts among those that work."""
    works = allowed_cuts(graph)
    sizes = [size for size in (2, 3) if len(works) >= size]
    if sum(math.comb(len(works), size) for size in sizes) <= count:
        return [split for size in sizes for split in itertools.combinations(works, size)]
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        size = int(rng.choice(sizes))
        found[tuple(sorted(int(k) for k in rng.choice(works, size, replace=False)))] = None
    return list(found)


def _draw(spec: TensorSpec, quantised: bool, rng: np.random.Generator) -> Array:
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as error:
        raise ModelError(
            f"input {spec.name!r} holds {spec.dtype}, which cannot be drawn: give inputs"
        ) from error
    if any(d < 0 for d in spec.shape):
        raise ModelError(f"input {spec.name!r} has no static shape {spec.shape}: give inputs")
    if dtype.kind == "b":
        return rng.integers(0, 2, spec.shape).astype(dtype)
    if dtype.kind in "iu":
        if quantised or dtype.itemsize == 1:
            limits = np.iinfo(dtype)
            return rng.integers(limits.min, limits.max, spec.shape, dtype=dtype, endpoint=True)
        return rng.integers(0, INDEX_LIMIT, spec.shape, dtype=dtype)
    if dtype.kind == "c":
        return (rng.uniform(-1, 1, spec.shape) + 1j * rng.uniform(-1, 1, spec.shape)).astype(dtype)
    return rng.uniform(-1, 1, spec.shape).astype(dtype)
