"""The chosen parts of a stage -> the object tree of a new .tflite file, reindexed."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Final

import numpy as np

from collab.graph.flat import FlatOperator, Span
from collab.graph.graph import Graph
from collab.graph.schema import INT8, SUBGRAPH_FIELDS, schema
from collab.graph.shapes import tensor_shape
from collab.graph.stage import StageParts

DROPPED_METADATA: Final = frozenset({b"TFLITE_METADATA", b"model_control_dependencies"})
"""Metadata that describes the whole model's inputs or numbers its operators."""


@dataclasses.dataclass(frozen=True)
class Assembled:
    """A schema ``ModelT`` whose buffers are still ranges of the whole model's file.

    Attributes:
        model: the object tree; its ``buffers`` are not filled in.
        buffers: byte range of each buffer, None where it has none; 0 is the empty sentinel.
        large_options: (subgraph, operator, byte range) of custom options outside the flatbuffer.
    """

    model: Any
    buffers: tuple[Span | None, ...]
    large_options: tuple[tuple[int, int, Span], ...]


def assemble(graph: Graph, parts: StageParts) -> Assembled:
    """Build the object tree of a stage."""
    return _Assembler(graph, parts).build()


class _Assembler:
    def __init__(self, graph: Graph, parts: StageParts) -> None:
        self.graph, self.parts, self.flat = graph, parts, graph.flat
        self.schema = schema()
        self.codes: dict[int, int] = {}
        self.buffers: dict[Span, int] = {}
        self.calls: dict[int, int] = {}
        self.queue: list[int] = []
        self.large: list[tuple[int, int, Span]] = []

    def build(self) -> Assembled:
        model = self.schema.ModelT()
        model.version, model.description = self.flat.version, self.flat.description
        main, place = self.main_subgraph()
        model.subgraphs = [main]
        for called in self.queue:  # grows while it runs
            model.subgraphs.append(self.called_subgraph(called))
        model.operatorCodes = [self.flat.codes[c] for c in self.codes]
        model.metadata = [
            self.metadata(n, b) for n, b in self.flat.metadata if n not in DROPPED_METADATA
        ] or None
        definition = self.signature(place)
        model.signatureDefs = None if definition is None else [definition]
        return Assembled(model, (None, *self.buffers), tuple(self.large))

    def main_subgraph(self) -> tuple[Any, dict[int, int]]:
        source, parts = self.flat.subgraphs[self.graph.main], self.parts
        operators = [source.operators[p] for p in parts.operators]
        used = {t for op in operators for t in (*op.inputs, *op.outputs, *op.intermediates) if t >= 0}
        order = sorted(used | set(parts.inputs) | set(parts.outputs))
        place = {tensor: new for new, tensor in enumerate(order)} | {-1: -1}
        table = self.schema.SubGraphT()
        table.name = source.name
        table.tensors = [self.stand_in(t) if t in parts.stand_ins else self.tensor(t) for t in order]
        table.operators = [self.operator(op, place, (0, i)) for i, op in enumerate(operators)]
        table.inputs = _indices(parts.inputs, place)
        table.outputs = _indices(parts.outputs, place)
        return table, place

    def called_subgraph(self, index: int) -> Any:
        source = self.flat.subgraphs[index]
        place = {t: t for t in range(-1, len(source.tensors))}
        table = self.schema.SubGraphT()
        table.name = source.name
        table.tensors = [self.buffered(t) for t in source.tensors]
        at = self.calls[index]
        table.operators = [self.operator(op, place, (at, i)) for i, op in enumerate(source.operators)]
        table.inputs, table.outputs = _indices(source.inputs, place), _indices(source.outputs, place)
        return table

    def buffered(self, source: Any) -> Any:
        """Copy of a tensor with its buffer's new number."""
        tensor = copy.copy(source)
        tensor.buffer = self.buffer(source.buffer)
        return tensor

    def tensor(self, index: int) -> Any:
        tensor = self.buffered(self.flat.subgraphs[self.graph.main].tensors[index])
        flow = self.graph.flow
        if index in flow.names:
            tensor.name = flow.names[index]
        value = flow.values.get(index)
        if value is not None and value.spec.shape != tensor_shape(tensor):
            tensor.shape = np.array(value.spec.shape, np.int32)
        return tensor

    def stand_in(self, index: int) -> Any:
        """State nobody reads, in the place of a tensor of which a stage needs the shape alone.

        A constant in place of SHAPE would be exact too but for XNNPACK: it takes an operator
        whose shape operand is constant and leaves it when the operand is computed.
        """
        spec = self.graph.flow.values[index].spec
        tensor = self.schema.TensorT()
        tensor.name, tensor.type, tensor.isVariable = f"{spec.name[:900]}:shape", INT8, True
        tensor.shape, tensor.hasRank = np.array(spec.shape, np.int32), True
        return tensor

    def operator(self, source: FlatOperator, place: dict[int, int], where: tuple[int, int]) -> Any:
        table = copy.copy(source.table)
        table.opcodeIndex = self.codes.setdefault(source.code, len(self.codes))
        table.inputs = _indices(source.inputs, place)
        table.outputs = _indices(source.outputs, place)
        table.intermediates = None if table.intermediates is None else _indices(source.intermediates, place)
        table.builtinOptions = self.options(table.builtinOptions)
        table.builtinOptions2 = self.options(table.builtinOptions2)
        table.debugMetadataIndex = -1
        if source.large_options is not None:
            self.large.append((*where, source.large_options))
        return table

    def options(self, source: Any) -> Any:
        fields = SUBGRAPH_FIELDS.get(type(source).__name__)
        if fields is None:
            return source
        options = copy.copy(source)
        for field in fields:
            value = getattr(source, field)
            if isinstance(value, np.ndarray):
                setattr(options, field, np.array([self.call(int(v)) for v in value], np.int32))
            elif value is not None:
                setattr(options, field, self.call(value))
        return options

    def call(self, subgraph: int) -> int:
        """New number of a called subgraph; the stage itself is 0."""
        if subgraph not in self.calls:
            self.queue.append(subgraph)
            self.calls[subgraph] = len(self.queue)
        return self.calls[subgraph]

    def buffer(self, index: int) -> int:
        """New number of a buffer; buffers of one byte range become one."""
        span = self.flat.buffers[index]
        return 0 if span is None else self.buffers.setdefault(span, len(self.buffers) + 1)

    def metadata(self, name: bytes, buffer: int) -> Any:
        entry = self.schema.MetadataT()
        entry.name, entry.buffer = name, self.buffer(buffer)
        return entry

    def signature(self, place: dict[int, int]) -> Any:
        """The model's signature over what the stage reads and makes."""
        source = next(
            (
                s
                for s in self.flat.signatures
                if (s.key, s.subgraph) == (self.graph.signature, self.graph.main)
            ),
            None,
        )
        if source is None:
            return None
        definition = self.schema.SignatureDefT()
        definition.signatureKey = source.key
        definition.inputs = self.maps(self.parts.inputs, source.inputs, place)
        definition.outputs = self.maps(self.parts.outputs, source.outputs, place)
        return definition

    def maps(
        self, tensors: tuple[int, ...], known: tuple[tuple[str, int], ...], place: dict[int, int]
    ) -> list[Any]:
        """Entries of a signature: the model's names where it has them, the tensors' own elsewhere."""
        taken = {name for name, tensor in known if tensor in tensors}
        entries = []
        for tensor in tensors:
            names = [name for name, t in known if t == tensor]
            if not names:
                name = self.graph.flow.names[tensor]
                while name in taken:
                    name += "#boundary"
                names = [name]
            taken.update(names)
            for name in names:
                entry = self.schema.TensorMapT()
                entry.name, entry.tensorIndex = name, place[tensor]
                entries.append(entry)
        return entries


def _indices(tensors: tuple[int, ...], place: dict[int, int]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array([place[t] for t in tensors], np.int32)
