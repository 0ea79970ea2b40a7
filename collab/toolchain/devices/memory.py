"""The arena of activations: when each tensor lives, and where a greedy planner would put it.

LiteRT and LiteRT Micro both place tensors greedily, the largest first, in the lowest gap
that is free for its whole life (Pisarchyk and Lee 2020, arXiv:2001.03288).  What kernels
take for themselves comes on top, such as the patches of a convolution without XNNPACK.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from collab.core.tensor import ITEMSIZE
from collab.graph import Graph
from collab.graph.schema import DTYPES
from collab.graph.shapes import tensor_shape
from collab.toolchain.devices.facts import tensor_bytes

ALIGNMENT: Final = 64
"""``kDefaultTensorAlignment`` of LiteRT's interpreter."""


@dataclass(frozen=True, slots=True)
class Life:
    """A tensor that takes memory from operator `first` to operator `last`, both of them included."""

    tensor: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Arena:
    """What activations take.

    Attributes:
        bytes: as a greedy planner places them.
        live_bytes: the most that lives at a time; no planner needs less.
        at: the operator at which that is.
    """

    bytes: int
    live_bytes: int
    at: int


def lives(graph: Graph) -> list[Life]:
    """Every tensor that the interpreter places, in the order of the file's operators.

    Inputs live to the end, as LiteRT keeps them; outputs live from where they are made to the end.
    """
    subgraph = graph.flat.subgraphs[graph.main]
    last = len(subgraph.operators) - 1
    first = dict.fromkeys(subgraph.inputs, 0)
    ends = dict.fromkeys((*subgraph.inputs, *subgraph.outputs), last)
    for position, operator in enumerate(subgraph.operators):
        for tensor in operator.outputs:
            if tensor >= 0 and not subgraph.tensors[tensor].isVariable:
                first.setdefault(tensor, position)
                ends.setdefault(tensor, position)
        for tensor in operator.inputs:
            if tensor in first:
                ends[tensor] = max(ends.get(tensor, position), position)
    return [Life(t, tensor_bytes(subgraph.tensors[t]), first[t], ends[t]) for t in first]


def plan_arena(tensors: Sequence[Life], alignment: int = ALIGNMENT) -> Arena:
    """Place tensors greedily by size."""
    placed: list[tuple[int, int, Life]] = []
    for life in sorted(tensors, key=lambda life: (-life.bytes, life.first, life.tensor)):
        if not life.bytes:
            continue
        start = 0
        for other_start, other_stop, other in placed:  # sorted by place
            if other.last < life.first or other.first > life.last:
                continue
            if start + life.bytes <= other_start:
                break
            start = max(start, -(-other_stop // alignment) * alignment)
        placed.append((start, start + life.bytes, life))
        placed.sort(key=lambda entry: entry[0])
    live, at = _most_live(tensors)
    return Arena(max((stop for _, stop, _ in placed), default=0), live, at)


def _most_live(tensors: Sequence[Life]) -> tuple[int, int]:
    """The most bytes that live at a time, and the operator where that is first so."""
    changes: dict[int, int] = {}
    for life in tensors:
        changes[life.first] = changes.get(life.first, 0) + life.bytes
        changes[life.last + 1] = changes.get(life.last + 1, 0) - life.bytes
    now, most, at = 0, 0, 0
    for position in sorted(changes):
        now += changes[position]
        if now > most:
            most, at = now, position
    return most, at


def patches(graph: Graph) -> list[Life]:
    """What LiteRT's own convolutions take beside their tensors: the patches that they multiply.

    With XNNPACK, and in reference kernels, there are none.
    """
    subgraph = graph.flat.subgraphs[graph.main]
    found = []
    for position, operator in enumerate(subgraph.operators):
        if operator.name != "CONV_2D":
            continue
        image, weights = (subgraph.tensors[t] for t in operator.inputs[:2])
        options = operator.table.builtinOptions
        _, height, width, channels = tensor_shape(weights)
        steps = (options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor)
        if (height, width, *steps) == (1, 1, 1, 1, 1, 1) or image.type != weights.type:
            continue
        places = math.prod(tensor_shape(subgraph.tensors[operator.outputs[0]])[:3])
        size = places * height * width * channels * ITEMSIZE[DTYPES[image.type]]
        found.append(Life(len(subgraph.tensors) + position, size, position, position))
    return found
