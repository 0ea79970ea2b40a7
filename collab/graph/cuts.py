"""Where a graph may be cut, and what travels there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from collab.core.tensor import TensorSpec
from collab.errors import CutError
from collab.graph.graph import Graph


@dataclasses.dataclass(frozen=True)
class Cut:
    """The place before counted operator `at`.

    Attributes:
        at: k, 1 <= k < n.
        tensors: all that lives across it: model inputs in their order, then in the order of making.
        bytes: their raw size, None when the cut is refused.
        refused: why it cannot be cut here, None when it can.
    """

    at: int
    tensors: tuple[TensorSpec, ...]
    bytes: int | None
    refused: str | None


def cuts(graph: Graph) -> tuple[Cut, ...]:
    """All cuts of a graph, the refused ones included.

    Raises:
        ModelError: the file is corrupt in a way that only shows here.
    """
    return tuple(_cut(graph, k) for k in range(1, graph.op_count))


def allowed_cuts(graph: Graph) -> tuple[int, ...]:
    """Places of the cuts that work."""
    return tuple(cut.at for cut in cuts(graph) if cut.refused is None)


def check_cuts(graph: Graph, at: Sequence[int]) -> tuple[int, ...]:
    """Return the places as a tuple when a graph can be cut at all of them.

    Raises:
        CutError: one is out of range, not in order, given twice or refused; the message
            names the operator and the nearest cuts that work.
    """
    places = tuple(int(k) for k in at)
    n = graph.op_count
    for k in places:
        if not 1 <= k < n:
            room = (
                f"cuts of this model are 1 to {n - 1}" if n > 1 else f"a model of {n} operators has no cuts"
            )
            raise CutError(f"cut {k} is out of range: {room}")
    for before, after in itertools.pairwise(places):
        if before == after:
            raise CutError(f"cut {after} is given twice: give each cut once")
        if before > after:
            raise CutError(f"cut {after} comes after cut {before}: give cuts in ascending order")
    for k in places:
        refused = _cut(graph, k).refused
        if refused is not None:
            name = graph.operators[k].name
            raise CutError(f"cut {k} (before {name}) does not work: {refused}; {_nearest(graph, k)}")
    return places


def _cut(graph: Graph, k: int) -> Cut:
    live = graph.boundaries[k]
    refused = next(
        (
            f"{r.what} is shared by operators {r.first} to {r.last} "
            f"({graph.operators[r.first].name} to {graph.operators[r.last].name})"
            for r in graph.flow.states
            if r.first < k <= r.last
        ),
        None,
    )
    refused = refused or next((v.barred for v in live if v.barred), None)
    return Cut(
        at=k,
        tensors=tuple(v.spec for v in live),
        bytes=None if refused else sum(v.spec.nbytes for v in live),
        refused=refused,
    )


def _nearest(graph: Graph, k: int) -> str:
    works = allowed_cuts(graph)
    around = [max((c for c in works if c < k), default=None), min((c for c in works if c > k), default=None)]
    found = [str(c) for c in around if c is not None]
    if not found:
        return "no other cut of this model works either"
    return f"the nearest cuts that work: {' and '.join(found)}"
