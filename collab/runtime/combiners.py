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
    """Elementwise mean over members, in the members' dtype; integers are rounded."""
    merged: dict[str, Array] = {}
    for name, like in members[0].items():
        total = np.mean([member[name] for member in members], axis=0, dtype=np.float64)
        merged[name] = (np.rint(total) if like.dtype.kind in "iu" else total).astype(like.dtype)
    return merged


COMBINERS: dict[str, Combiner] = {"first": first, "mean": mean}
"""Combiners by the name that plans use."""


def combiner(name: str) -> Combiner:
    """The combiner of that name; raises `PlanError`."""
    try:
        return COMBINERS[name]
    except KeyError:
        raise PlanError(f"combine: {name!r} is not known; use one of {', '.join(COMBINERS)}") from None
