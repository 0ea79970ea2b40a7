"""Chooses what of a graph goes into one stage: the operators, tensors and names of a new file."""

from __future__ import annotations

import dataclasses

from collab.core.tensor import TensorSpec
from collab.graph.flow import SHAPE_READERS
from collab.graph.graph import Graph


@dataclasses.dataclass(frozen=True)
class StageParts:
    """The parts of one stage; tensors and operators are indices of the whole model's subgraph.

    Attributes:
        operators: positions in the file, in execution order, foldable ones included.
        inputs: what it reads, in interpreter order.
        outputs: what it makes for later or for the answer, in interpreter order.
        stand_ins: tensors of which only the shape is read here; they stay where they are made.
    """

    operators: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stand_ins: frozenset[int]


def stage_parts(graph: Graph, start: int, stop: int) -> StageParts:
    """Choose the parts of stage ``[start, stop)``."""
    flow, subgraph = graph.flow, graph.flat.subgraphs[graph.main]
    own = flow.counted[start:stop]
    reads = {t for p in own for t in subgraph.operators[p].inputs if t >= 0}
    inputs = tuple(v.tensor for v in graph.boundaries[start] if v.tensor in reads)
    outputs = tuple(v.tensor for v in graph.boundaries[stop] if v.made > start)
    if stop == graph.op_count:  # the answer's order, constants included
        passing = {v.tensor for v in graph.boundaries[stop] if v.made <= start}
        outputs = tuple(t for t in dict.fromkeys(subgraph.outputs) if t not in passing)
    made = {t for p in own for t in subgraph.operators[p].outputs}
    copied, stand_ins = _foldables(graph, reads | set(outputs), made | set(inputs))
    return StageParts(tuple(sorted((*own, *copied))), inputs, outputs, frozenset(stand_ins))


def _foldables(graph: Graph, needed: set[int], present: set[int]) -> tuple[set[int], set[int]]:
    """Foldable operators behind the tensors needed, and the tensors whose shape alone they read."""
    flow, subgraph = graph.flow, graph.flat.subgraphs[graph.main]
    copied: set[int] = set()
    stand_ins: set[int] = set()
    waiting = list(needed)
    while waiting:
        tensor = waiting.pop()
        position = flow.maker.get(tensor, -1)
        if position not in flow.folded or position in copied:
            continue
        copied.add(position)
        operator = subgraph.operators[position]
        for read in operator.inputs:
            if operator.name in SHAPE_READERS and read in flow.values and read not in present:
                stand_ins.add(read)
            elif read >= 0:
                waiting.append(read)
    return copied, stand_ins


def answers(graph: Graph) -> tuple[TensorSpec, ...]:
    """What the last stage's boundary holds: each output once, in interpreter order."""
    return tuple({spec.name: spec for spec in graph.outputs}.values())
