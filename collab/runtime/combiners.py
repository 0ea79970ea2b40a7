"""Combiners: stages that merge several members' answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from collab.codec.tensors import Array
from collab.errors import PlanError

Member = Mapping[str, Array]
Combiner = Callable[[Sequence[Member]], dict[str, Array]]


def first(members: Sequence[Member]) -> dict[str, Array]:
    """The first member's tensors, in edge order."""
    return dict(members[0])


def mean(members: Sequence[Member]) -> dict[str, Array]:
    """Elementwise mean over members, in the members' dtype; integers and truth values are rounded.

    Computed in float64, so integers beyond 2**53 lose their last digits.
    """
    merged: dict[str, Array] = {}
    for name, like in members[0].items():
        wide = np.complex128 if like.dtype.kind == "c" else np.float64
        total = np.sum([member[name].astype(wide) for member in members], axis=0) / len(members)
        merged[name] = (np.rint(total) if like.dtype.kind in "iub" else total).astype(like.dtype)
    return merged


COMBINERS: dict[str, Combiner] = {"first": first, "mean": mean}
"""Combiners by the name that plans use."""


def combiner(name: str) -> Combiner:
    """The combiner of that name; raises `PlanError`."""
    try:
        return COMBINERS[name]
    except KeyError:
        raise PlanError(f"combine: {name!r} is not known; use one of {', '.join(COMBINERS)}") from None
