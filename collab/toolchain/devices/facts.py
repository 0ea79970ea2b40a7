"""What a delegate, a planner of memory and an estimate of time ask of each operator of a graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from collab.core.tensor import ITEMSIZE
from collab.graph import Graph
from collab.graph.schema import DTYPES, schema
from collab.graph.shapes import tensor_shape


@dataclass(frozen=True, slots=True)
class OpFacts:
    """One counted operator.

    Attributes:
        activations: dtypes of inputs that are no constants, and of outputs.
        rank: the largest of them.
        variable: positions of inputs that are no constants.
        fused: fused activation, NONE where there is none.
        keep_dims: of a reduction.
        macs: multiplications and additions, in pairs; 0 for what only moves or compares.
        weight_bytes: constants that it reads.
    """

    at: int
    name: str
    custom: bool
    activations: frozenset[str]
    rank: int
    variable: tuple[int, ...]
    fused: str
    keep_dims: bool | None
    macs: int
    weight_bytes: int
    moved_bytes: int


def facts(graph: Graph) -> list[OpFacts]:
    """Facts of every counted operator, in order."""
    subgraph = graph.flat.subgraphs[graph.main]
    made = set(subgraph.inputs) | {
        t for p in graph.flow.counted for t in subgraph.operators[p].outputs if t >= 0
    }
    found = []
    for at, position in enumerate(graph.flow.counted):
        operator = subgraph.operators[position]
        moving = [t for t in (*operator.inputs, *operator.outputs) if t in made]
        tensors = [subgraph.tensors[t] for t in moving]
        options = operator.table.builtinOptions
        weights = {t for t in operator.inputs if t >= 0 and t not in made}
        found.append(
            OpFacts(
                at=at,
                name=operator.name,
                custom=operator.custom,
                activations=frozenset(DTYPES.get(t.type, "unknown") for t in tensors),
                rank=max((len(tensor_shape(t)) for t in tensors), default=0),
                variable=tuple(i for i, t in enumerate(operator.inputs) if t in made),
                fused=_activation(getattr(options, "fusedActivationFunction", 0)),
                keep_dims=_flag(getattr(options, "keepDims", None)),
                macs=_macs(operator.name, [_shape(subgraph, t) for t in operator.inputs], tensors),
                weight_bytes=sum(map(tensor_bytes, (subgraph.tensors[t] for t in weights))),
                moved_bytes=sum(map(tensor_bytes, tensors)),
            )
        )
    return found


def tensor_bytes(tensor: Any) -> int:
    """Memory of a tensor; what has no fixed size counts as nothing."""
    shape = tensor_shape(tensor)
    size = ITEMSIZE.get(DTYPES.get(tensor.type, ""), 0)
    return 0 if any(d < 0 for d in shape) else math.prod(shape) * size


def _shape(subgraph: Any, tensor: int) -> tuple[int, ...]:
    return tensor_shape(subgraph.tensors[tensor]) if tensor >= 0 else ()


def _activation(code: int) -> str:
    known = vars(schema().ActivationFunctionType)
    return next((name for name, number in known.items() if number == code), "NONE")


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


_FILTERED: Final = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "CONV_3D": 1}


def _macs(name: str, inputs: Sequence[tuple[int, ...]], tensors: Sequence[Any]) -> int:
    """Multiplications of convolutions and products of matrices."""
    if not tensors:
        return 0
    out = math.prod(tensor_shape(tensors[-1]))
    if name in _FILTERED and len(inputs) > 1:
        weights = inputs[1]
        if name == "DEPTHWISE_CONV_2D":
            return out * math.prod(weights[1:3])
        if name == "CONV_3D":
            return out * math.prod(weights[:4])
        return out * math.prod(weights[1:])
    if name == "TRANSPOSE_CONV" and len(inputs) > 2:
        return math.prod(inputs[2]) * math.prod(inputs[1][:3])
    if name == "BATCH_MATMUL" and inputs and inputs[0]:
        return out * inputs[0][-1]
    return 0
