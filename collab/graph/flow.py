"""What flows where in one subgraph: which operators count, and which tensors can travel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from collab.core.tensor import ITEMSIZE, MAX_RANK, TensorSpec
from collab.errors import ModelError
from collab.graph.flat import FlatModel, FlatOperator, FlatSubgraph
from collab.graph.names import unique_names
from collab.graph.schema import DTYPES, STATE_DTYPES
from collab.graph.shapes import Shape, ShapeRules
from collab.graph.state import StateRange, state_ranges

NEVER_FOLDED: Final = frozenset(
    {
        "ASSIGN_VARIABLE",
        "CALL",
        "CALL_ONCE",
        "DELEGATE",
        "HASHTABLE",
        "HASHTABLE_FIND",
        "HASHTABLE_IMPORT",
        "HASHTABLE_SIZE",
        "IF",
        "MULTINOMIAL",
        "RANDOM_STANDARD_NORMAL",
        "RANDOM_UNIFORM",
        "READ_VARIABLE",
        "STABLEHLO_CASE",
        "STABLEHLO_COMPOSITE",
        "STABLEHLO_CUSTOM_CALL",
        "STABLEHLO_RNG_BIT_GENERATOR",
        "STABLEHLO_WHILE",
        "VAR_HANDLE",
        "WHILE",
    }
)
"""Operators with state, chance, or subgraphs; custom ones are not folded either."""

SHAPE_READERS: Final = frozenset({"SHAPE", "RANK"})
"""Operators that read a tensor's shape and never its contents."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor that may travel.

    It is live at cut k when ``made <= k <= last``: `made` is 0 for a model input and
    j + 1 for what counted operator j makes; `last` is the last counted operator that reads
    it, the number of counted operators for a model output, -1 when nothing reads it.
    """

    tensor: int
    made: int
    last: int
    spec: TensorSpec
    barred: str | None


@dataclasses.dataclass(frozen=True)
class Flow:
    """The analysis of one subgraph; tensors and positions are indices of the file."""

    counted: tuple[int, ...]
    folded: frozenset[int]
    maker: Mapping[int, int]
    values: Mapping[int, Value]
    names: Mapping[int, str]
    states: tuple[StateRange, ...]

    def live(self) -> Iterator[tuple[Value, ...]]:
        """Yield the boundary at 0, 1, ... n; inputs first, then in the order of making."""
        made: dict[int, list[Value]] = {}
        for value in self.values.values():
            made.setdefault(value.made, []).append(value)
        current: list[Value] = []
        for k in range(len(self.counted) + 1):
            current = [v for v in (*current, *made.get(k, ())) if v.last >= k]
            yield tuple(current)


def follow(flat: FlatModel, main: int, shapes: Mapping[int, Shape] | None = None) -> Flow:
    """Analyse a subgraph.

    Args:
        flat: the model.
        main: index of the subgraph.
        shapes: true shapes by tensor index, where they are known better than in the file.

    Raises:
        ModelError: operators are not in an order in which they can run.
    """
    subgraph = flat.subgraphs[main]
    maker = _makers(subgraph)
    rules = ShapeRules(flat, main, shapes or {})
    counted, folded = _fold(subgraph, maker, rules)
    number = {position: k for k, position in enumerate(counted)}
    last = _last_reads(subgraph, counted)
    made_at = dict.fromkeys(subgraph.inputs, 0)
    made_at |= {t: number[p] + 1 for t, p in maker.items() if p in number}
    names = unique_names((t, subgraph.tensors[t].name) for t in dict.fromkeys([*made_at, *subgraph.outputs]))
    values = {}
    for t, made in made_at.items():
        spec = TensorSpec(names[t], rules.shape(t), DTYPES.get(subgraph.tensors[t].type, "unknown"))
        values[t] = Value(t, made, last.get(t, -1), spec, _barred(spec, rules.unknown.get(t)))
    return Flow(
        counted=counted,
        folded=folded,
        maker=maker,
        values=values,
        names=names,
        states=state_ranges(flat, main, number),
    )


def label(k: int, operator: FlatOperator) -> str:
    """How messages call counted operator k."""
    return f"operator {k}, {operator.name}"


def _makers(subgraph: FlatSubgraph) -> dict[int, int]:
    """Position of the operator that makes each tensor; checks that the order can run."""
    maker: dict[int, int] = {}
    inputs = set(subgraph.inputs)
    if len(inputs) < len(subgraph.inputs):
        raise ModelError("the model lists one tensor as two inputs: export it again")
    for position, operator in enumerate(subgraph.operators):
        for tensor in operator.outputs:
            if tensor < 0 or subgraph.tensors[tensor].isVariable:
                continue
            if tensor in maker or tensor in inputs:
                raise ModelError(
                    f"operator {position} of the file ({operator.name}) makes a tensor a second time"
                )
            maker[tensor] = position
    for position, operator in enumerate(subgraph.operators):
        for tensor in operator.inputs:
            if maker.get(tensor, -1) >= position:
                raise ModelError(
                    f"operator {position} of the file ({operator.name}) reads a tensor before it is made: "
                    "its operators are not in execution order"
                )
    return maker


def _fold(
    subgraph: FlatSubgraph, maker: Mapping[int, int], rules: ShapeRules
) -> tuple[tuple[int, ...], frozenset[int]]:
    """Split positions into counted and foldable ones, and fill in `rules`."""
    inputs = set(subgraph.inputs)
    counted: list[int] = []
    folded: set[int] = set()

    def constant(tensor: int) -> bool:
        if tensor in maker:
            return maker[tensor] in folded
        return tensor not in inputs and not subgraph.tensors[tensor].isVariable

    for tensor in subgraph.inputs:
        rules.enter(tensor)
    for position, operator in enumerate(subgraph.operators):
        reads = [t for t in operator.inputs if t >= 0]
        fixed = all(constant(t) for t in reads)
        if operator.name in SHAPE_READERS:
            fixed = fixed or all(
                t not in rules.unknown and min(rules.shape(t), default=0) >= 0 for t in reads
            )
        if fixed and reads and _may_fold(operator, subgraph):
            folded.add(position)
        else:
            counted.append(position)
        rules.step(operator, operator.name if fixed else label(len(counted) - 1, operator), constant)
    return tuple(counted), frozenset(folded)


def _may_fold(operator: FlatOperator, subgraph: FlatSubgraph) -> bool:
    if operator.custom or operator.subgraphs or operator.name in NEVER_FOLDED:
        return False
    reads = () if operator.name in SHAPE_READERS else operator.inputs
    tables = [subgraph.tensors[t] for t in (*reads, *operator.outputs, *operator.intermediates) if t >= 0]
    stateful = any(t.isVariable or DTYPES.get(t.type) in STATE_DTYPES for t in tables)
    return not stateful and any(t >= 0 for t in operator.outputs)


def _last_reads(subgraph: FlatSubgraph, counted: tuple[int, ...]) -> dict[int, int]:
    last = {t: k for k, p in enumerate(counted) for t in subgraph.operators[p].inputs if t >= 0}
    return last | {t: len(counted) for t in subgraph.outputs}


def _barred(spec: TensorSpec, unknown: str | None) -> str | None:
    """Reason why a tensor cannot travel, naming it."""
    if spec.dtype not in ITEMSIZE:
        return f"tensor {spec.name!r} holds {spec.dtype}, which cannot travel"
    if unknown:
        return f"the shape of tensor {spec.name!r} {unknown}"
    if len(spec.shape) > MAX_RANK:
        return f"tensor {spec.name!r} has rank {len(spec.shape)}, over {MAX_RANK}"
    return None
