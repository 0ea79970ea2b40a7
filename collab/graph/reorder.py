"""The same model with its operators in another order, so that one cut can part its branches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from collab.errors import CutError
from collab.graph.assemble import Assembled
from collab.graph.flat import FlatOperator, Span
from collab.graph.flow import label
from collab.graph.graph import Graph, parse_model
from collab.graph.schema import schema
from collab.graph.state import StateFinder
from collab.graph.write import Weights, write

NUMBERS_OPERATORS: Final = b"model_control_dependencies"
"""Metadata that another order makes wrong."""


def reorder(graph: Graph, order: Sequence[int], *, weights: Weights = "auto") -> Graph:
    """Write a model anew with its counted operators in another order.

    Nothing else changes: subgraphs, tensors and their names in the graph, signatures and
    metadata stay but for ``model_control_dependencies``, which numbers operators.  Foldable operators go
    before the first that needs them.  The answers are bit-identical.

    Args:
        graph: the model.
        order: numbers of all counted operators in their new order.
        weights: where the file keeps its weights, see `collab.graph.write.write`.

    Returns:
        The new model, its file in ``data``.  Shapes that `with_shapes` gave are to be given again.

    Raises:
        CutError: the order is not one of all operators, one comes before another whose
            tensor or whose tensor's shape it reads, or operators that share state change
            places.
        ModelError: the model cannot be written.
    """
    order = tuple(int(k) for k in order)
    if sorted(order) != list(range(graph.op_count)):
        raise CutError(
            f"the order has {len(order)} entries for {graph.op_count} operators: "
            f"give each of 0 to {graph.op_count - 1} once"
        )
    _check_state(graph, order)
    data = write(_Copy(graph).model(tuple(_positions(graph, order))), graph.data, weights)
    return parse_model(data, signature=graph.signature)


def _positions(graph: Graph, order: Sequence[int]) -> Iterator[int]:
    """Places in the file of all operators in their new order."""
    flow, operators = graph.flow, graph.flat.subgraphs[graph.main].operators
    number = {position: k for k, position in enumerate(flow.counted)}
    done: set[int] = set()
    for k in order:
        waiting, needed = [flow.counted[k]], set()
        while waiting:
            for tensor in operators[waiting.pop()].inputs:
                maker = flow.maker.get(tensor, -1)
                if maker in done or maker in needed or maker < 0:
                    continue
                if maker in number:
                    raise CutError(
                        f"the order has {_label(graph, k)}, before {_label(graph, number[maker])}, "
                        f"which makes what it reads: give an order in which the model can run"
                    )
                needed.add(maker)
                waiting.append(maker)
        # The file's own order is one in which foldable operators can run.
        yield from (*sorted(needed), flow.counted[k])
        done.update(needed, (flow.counted[k],))
    yield from sorted(set(range(len(operators))) - done)


def _check_state(graph: Graph, order: Sequence[int]) -> None:
    """Refuse an order that lets operators that share state change places."""
    place = {old: new for new, old in enumerate(order)}
    number = {position: k for k, position in enumerate(graph.flow.counted)}
    before: dict[object, int] = {}
    for position, keys in enumerate(StateFinder(graph.flat).keys(graph.main)):
        if position not in number:
            continue
        for key in keys:
            k = number[position]
            earlier = before.setdefault(key, k)
            if place[k] < place[earlier]:
                raise CutError(
                    f"the order has {_label(graph, k)}, before {_label(graph, earlier)}, "
                    "with which it shares state: keep them in their order"
                )
            before[key] = k


def _label(graph: Graph, k: int) -> str:
    return label(k, graph.flat.subgraphs[graph.main].operators[graph.flow.counted[k]])


class _Copy:
    """The object tree of a whole file; buffers of one byte range become one."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.flat, self.schema = graph, graph.flat, schema()
        self.buffers: dict[Span, int] = {}
        self.large: list[tuple[int, int, Span]] = []

    def model(self, positions: Sequence[int]) -> Assembled:
        model = self.schema.ModelT()
        model.version, model.description = self.flat.version, self.flat.description
        model.operatorCodes = list(self.flat.codes)
        model.subgraphs = [self.subgraph(n, positions) for n in range(len(self.flat.subgraphs))]
        model.metadata = [
            self.metadata(n, b) for n, b in self.flat.metadata if n != NUMBERS_OPERATORS
        ] or None
        model.signatureDefs = [self.signature(n) for n in range(len(self.flat.signatures))] or None
        return Assembled(model, (None, *self.buffers), tuple(self.large))

    def subgraph(self, index: int, positions: Sequence[int]) -> Any:
        source = self.flat.subgraphs[index]
        table = self.schema.SubGraphT()
        table.name = source.name
        table.tensors = []
        for tensor in source.tensors:
            table.tensors.append(copy.copy(tensor))
            table.tensors[-1].buffer = self.buffer(tensor.buffer)
        if index == self.graph.main:
            # Of equal names the first made keeps its own; it must be the same tensor afterwards.
            for tensor, name in self.graph.flow.names.items():
                table.tensors[tensor].name = name
        kept = positions if index == self.graph.main else range(len(source.operators))
        table.operators = [self.operator(source.operators[p], (index, n)) for n, p in enumerate(kept)]
        table.inputs, table.outputs = (np.array(ts, np.int32) for ts in (source.inputs, source.outputs))
        return table

    def operator(self, source: FlatOperator, where: tuple[int, int]) -> Any:
        table = copy.copy(source.table)
        table.debugMetadataIndex = -1
        if source.large_options is not None:
            self.large.append((*where, source.large_options))
        return table

    def buffer(self, index: int) -> int:
        span = self.flat.buffers[index]
        return 0 if span is None else self.buffers.setdefault(span, len(self.buffers) + 1)

    def metadata(self, name: bytes, buffer: int) -> Any:
        entry = self.schema.MetadataT()
        entry.name, entry.buffer = name, self.buffer(buffer)
        return entry

    def signature(self, index: int) -> Any:
        source = self.flat.signatures[index]
        definition = self.schema.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = source.key, source.subgraph
        definition.inputs, definition.outputs = (self.maps(m) for m in (source.inputs, source.outputs))
        return definition

    def maps(self, names: Sequence[tuple[str, int]]) -> list[Any]:
        entries = []
        for name, tensor in names:
            entry = self.schema.TensorMapT()
            entry.name, entry.tensorIndex = name, tensor
            entries.append(entry)
        return entries
