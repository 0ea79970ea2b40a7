"""Which tensors have a shape that is known before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from collab.graph.flat import FlatModel, FlatOperator

Shape = tuple[int, ...]

DATA_SHAPED: Final = frozenset(
    {
        "WHERE",
        "UNIQUE",
        "NON_MAX_SUPPRESSION_V4",
        "NON_MAX_SUPPRESSION_V5",
        "EMBEDDING_LOOKUP_SPARSE",
        "SKIP_GRAM",
    }
)
"""Operators whose output shape always depends on data."""

SHAPE_OPERANDS: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {
        "ARG_MAX": (1,),
        "ARG_MIN": (1,),
        "BATCH_TO_SPACE_ND": (1, 2),
        "BROADCAST_TO": (1,),
        "CONV_3D_TRANSPOSE": (0,),
        "EXPAND_DIMS": (1,),
        "FILL": (0,),
        "MEAN": (1,),
        "MIRROR_PAD": (1,),
        "MULTINOMIAL": (1,),
        "ONE_HOT": (1,),
        "PAD": (1,),
        "PADV2": (1,),
        "RANDOM_STANDARD_NORMAL": (0,),
        "RANDOM_UNIFORM": (0,),
        "RANGE": (0, 1, 2),
        "REDUCE_ALL": (1,),
        "REDUCE_ANY": (1,),
        "REDUCE_MAX": (1,),
        "REDUCE_MIN": (1,),
        "REDUCE_PROD": (1,),
        "RESHAPE": (1,),
        "RESIZE_BILINEAR": (1,),
        "RESIZE_NEAREST_NEIGHBOR": (1,),
        "RFFT2D": (1,),
        "SCATTER_ND": (2,),
        "SEGMENT_SUM": (1,),
        "SLICE": (1, 2),
        "SPACE_TO_BATCH_ND": (1, 2),
        "SPARSE_TO_DENSE": (1,),
        "SPLIT": (0,),
        "SPLIT_V": (1, 2),
        "STRIDED_SLICE": (1, 2, 3),
        "SUM": (1,),
        "TILE": (1,),
        "TOPK_V2": (1,),
        "TRANSPOSE": (1,),
        "TRANSPOSE_CONV": (0,),
        "UNSORTED_SEGMENT_MAX": (2,),
        "UNSORTED_SEGMENT_MIN": (2,),
        "UNSORTED_SEGMENT_PROD": (2,),
        "UNSORTED_SEGMENT_SUM": (2,),
    }
)
"""Positions of the operands that give an output its shape."""


def tensor_shape(tensor: Any) -> Shape:
    """Shape that the interpreter gives a tensor (``shape``, not ``shape_signature``)."""
    return () if tensor.shape is None else tuple(int(d) for d in tensor.shape)


def _signature(tensor: Any) -> Shape:
    return () if tensor.shapeSignature is None else tuple(int(d) for d in tensor.shapeSignature)


class ShapeRules:
    """Follows the operators of one subgraph in order and says why a shape is not known.

    A reason is a clause such as ``depends on data (WHERE, operator 4)``.
    """

    def __init__(
        self,
        flat: FlatModel,
        subgraph: int,
        shapes: Mapping[int, Shape],
        nested: dict[int, bool] | None = None,
    ) -> None:
        self.flat = flat
        self.tensors = flat.subgraphs[subgraph].tensors
        self.shapes = shapes
        self.unknown: dict[int, str] = {}
        self._opened: set[int] = set()
        self._ranked = any(t.hasRank for t in self.tensors)
        self._nested: dict[int, bool] = {} if nested is None else nested

    def shape(self, tensor: int) -> Shape:
        """Shape of a tensor, the caller's where it gave one."""
        given = self.shapes.get(tensor)
        return tensor_shape(self.tensors[tensor]) if given is None else given

    def enter(self, tensor: int) -> None:
        """Note a tensor that comes from outside; its ``shape`` is what the interpreter allocates."""
        if any(d < 0 for d in self.shape(tensor)):
            self.unknown[tensor] = "has no static shape in the file"

    def step(self, operator: FlatOperator, label: str, constant: Callable[[int], bool]) -> None:
        """Note the outputs of the next operator; `label` names it in reasons."""
        inputs = [t for t in operator.inputs if t >= 0]
        reason = next((self.unknown[t] for t in inputs if t in self.unknown and t not in self._opened), None)
        if reason is None and self._makes_dynamic(operator, constant):
            reason = f"depends on data ({label})"
        for tensor in operator.outputs:
            if tensor < 0:
                continue
            found = reason
            if found is None:
                found = self._open(operator, tensor, inputs)
                self._opened |= {tensor} if found else set()
            if found is not None:
                self.unknown[tensor] = found

    def _makes_dynamic(self, operator: FlatOperator, constant: Callable[[int], bool]) -> bool:
        if operator.name in DATA_SHAPED:
            return True
        given = [
            operator.inputs[i] for i in SHAPE_OPERANDS.get(operator.name, ()) if i < len(operator.inputs)
        ]
        if any(t >= 0 and not constant(t) for t in given):
            return True
        if operator.name == "READ_VARIABLE":
            return any(-1 in _signature(self.tensors[t]) for t in operator.outputs if t >= 0)
        return self._branches_differ(operator) or any(self._dynamic_inside(s) for s in operator.subgraphs)

    def _branches_differ(self, operator: FlatOperator) -> bool:
        """IF with branches of different shapes, or WHILE that changes one: LiteRT makes them dynamic."""
        if operator.name == "IF":
            sides = [self._io(s, "outputs") for s in operator.subgraphs]
        elif operator.name == "WHILE":
            sides = [self._io(operator.subgraphs[-1], way) for way in ("inputs", "outputs")]
        else:
            return False
        return any(side != sides[0] for side in sides)

    def _io(self, subgraph: int, way: str) -> list[Shape]:
        table = self.flat.subgraphs[subgraph]
        return [tensor_shape(table.tensors[t]) for t in getattr(table, way)]

    def _dynamic_inside(self, subgraph: int) -> bool:
        """Whether any tensor of a called subgraph is dynamic."""
        if subgraph not in self._nested:
            table = self.flat.subgraphs[subgraph]
            rules = ShapeRules(self.flat, subgraph, {}, self._nested)
            made = {t for op in table.operators for t in op.outputs} | set(table.inputs)
            for operator in table.operators:
                rules.step(operator, operator.name, lambda t: t not in made)
            self._nested[subgraph] = bool(rules.unknown)
        return self._nested[subgraph]

    def _open(self, operator: FlatOperator, tensor: int, inputs: list[int]) -> str | None:
        """Reason why the file's shape of an output cannot be trusted, if there is one."""
        table, shape = self.tensors[tensor], self.shape(tensor)
        if tensor in self.shapes:
            return None
        if any(d < 0 for d in shape):
            return "has no static shape in the file"
        if self._ranked and not table.hasRank and not shape:
            return "has no known rank in the file"
        signature = _signature(table)
        if -1 not in signature:
            return None
        open_input = any(t in self._opened for t in inputs)
        given = [math.prod(self.shape(t)) for t in inputs[:1]]
        merged = operator.name == "RESHAPE" and given != [math.prod(shape)]
        if -1 in signature[1:] or open_input or merged:  # the exporter writes 1 for what it does not know
            return f"is left open in the file ({list(signature)}): fix the model's input shape"
        return None
