"""The bytes of a .tflite file -> `FlatModel`.

A file is foreign: every index is checked here, and the work done is bounded by the
file's length, so that overlapping tables cannot make it explode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from collab.errors import ModelError
from collab.graph.flat import Bytes, FlatModel, FlatOperator, FlatSignature, FlatSubgraph, Span
from collab.graph.schema import (
    CUSTOM_CODE,
    IDENTIFIER,
    PLACEHOLDER_CODE,
    SUBGRAPH_FIELDS,
    field_count,
    operator_names,
    schema,
)

MAX_NESTING: Final = 32
"""Depth of control flow in control flow; real models stay below 5."""


def read_flat(data: Bytes) -> FlatModel:
    """Take a file's bytes apart.

    Raises:
        ModelError: it is not a .tflite file, is truncated or corrupt, or needs a newer schema.
    """
    head = bytes(data[:8])
    if head == b"version ":
        raise ModelError("this is a Git LFS pointer, not the model: run `git lfs pull`")
    if not head:
        raise ModelError("the file is empty: give a .tflite file")
    if head[4:8] != IDENTIFIER:
        raise ModelError("this is not a .tflite file (no TFL3 mark at byte 4): convert the model first")
    tables = schema()
    try:
        return _Reader(data).model(tables.Model.GetRootAs(data, 0))
    except ModelError:
        raise
    except Exception as error:  # the generated accessors raise whatever struct and numpy raise
        raise ModelError(f"the file is truncated or corrupt ({error}): fetch or export it again") from error


class _Reader:
    """Reads tables and charges what they cost to a budget that the file's length sets."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.schema = schema()
        self.left = 2 * len(data) + 65536

    def charge(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise ModelError("the file is corrupt (its tables overlap): fetch or export it again")

    def each(self, count: Callable[[], int], get: Callable[[int], Any]) -> Iterator[Any]:
        """Tables of a vector; each costs at least its entry and its vtable offset."""
        number = count()
        self.charge(8 * number)
        return (get(i) for i in range(number))

    def unpack(self, kind: str, accessor: Any) -> Any:
        """Unpack a leaf table into its object and charge for all that it holds."""
        self.known(kind, accessor._tab)
        table = getattr(self.schema, kind + "T").InitFromObj(accessor)
        self.weigh(table)
        return table

    def weigh(self, value: Any) -> None:
        if isinstance(value, bytes):
            self.charge(len(value))
        elif isinstance(value, np.ndarray):
            self.charge(value.nbytes)
        elif isinstance(value, list):
            for item in value:
                self.weigh(item)
        elif hasattr(value, "__dict__"):
            for item in vars(value).values():
                self.weigh(item)

    def known(self, kind: str, table: Any) -> None:
        """Refuse fields that the installed schema would silently drop."""
        fields = field_count(kind)
        vtable = table.Pos - self.schema.flatbuffers.encode.Get(
            self.schema.flatbuffers.packer.soffset, table.Bytes, table.Pos
        )
        end = self.schema.flatbuffers.encode.Get(self.schema.flatbuffers.packer.voffset, table.Bytes, vtable)
        for slot in range(4 + 2 * fields, end, 2):
            if table.Offset(slot):
                raise ModelError(
                    f"the file has a field of {kind} that is newer than this schema: update ai-edge-litert"
                )

    def span(self, start: int, size: int, what: str) -> Span:
        if start < 0 or size < 0 or start + size > len(self.data):
            raise ModelError(
                f"{what} ends at byte {start + size} but the file has {len(self.data)}: it is truncated"
            )
        return start, size

    def model(self, root: Any) -> FlatModel:
        self.known("Model", root._tab)
        if getattr(root, "ExternalBuffersLength", int)():  # older schemas lack it: then `known` has refused
            raise ModelError("its weights are in external buffer files: export it as one file")
        codes = tuple(
            self.unpack("OperatorCode", c) for c in self.each(root.OperatorCodesLength, root.OperatorCodes)
        )
        names = [_operator_name(code) for code in codes]
        buffers = self.buffers(root)
        subgraphs = tuple(
            self.subgraph(s, names, root.SubgraphsLength(), len(buffers), f"subgraph {i}")
            for i, s in enumerate(self.each(root.SubgraphsLength, root.Subgraphs))
        )
        if not subgraphs:
            raise ModelError("the file has no subgraph: export it again")
        metadata = []
        for entry in self.each(root.MetadataLength, root.Metadata):
            item = self.unpack("Metadata", entry)
            metadata.append(
                (item.name or b"", _index(item.buffer, len(buffers), "a metadata entry", "buffer"))
            )
        signatures = tuple(
            self.signature(s, subgraphs) for s in self.each(root.SignatureDefsLength, root.SignatureDefs)
        )
        description = root.Description()
        self.weigh(description)
        flat = FlatModel(
            data=self.data,
            version=root.Version(),
            description=description,
            codes=codes,
            subgraphs=subgraphs,
            buffers=buffers,
            metadata=tuple(metadata),
            signatures=signatures,
        )
        _check_nesting(flat)
        return flat

    def buffers(self, root: Any) -> tuple[Span | None, ...]:
        spans: list[Span | None] = []
        for i, buffer in enumerate(self.each(root.BuffersLength, root.Buffers)):
            self.known("Buffer", buffer._tab)
            field = buffer._tab.Offset(4)
            if field:  # as LiteRT: data inside wins over an offset
                found = buffer._tab.Vector(field), buffer._tab.VectorLen(field)
                spans.append(self.span(*found, f"buffer {i}"))
            elif buffer.Offset() > 1:
                spans.append(
                    self.span(buffer.Offset(), buffer.Size(), f"buffer {i} (outside the flatbuffer)")
                )
            else:
                spans.append(None)
        self.charge(sum(size for _, size in {s for s in spans if s}))
        return tuple(spans)

    def subgraph(
        self, table: Any, names: list[tuple[str, bool]], subgraphs: int, buffers: int, where: str
    ) -> FlatSubgraph:
        self.known("SubGraph", table._tab)
        tensors = tuple(self.tensor(t, buffers, where) for t in self.each(table.TensorsLength, table.Tensors))
        operators = []
        for i, accessor in enumerate(self.each(table.OperatorsLength, table.Operators)):
            operators.append(
                self.operator(accessor, names, len(tensors), subgraphs, f"{where}, operator {i}")
            )
        title = table.Name()
        self.weigh(title)
        return FlatSubgraph(
            name=title,
            tensors=tensors,
            operators=tuple(operators),
            inputs=self.indices(table.InputsAsNumpy(), len(tensors), f"{where}, inputs", absent=False),
            outputs=self.indices(table.OutputsAsNumpy(), len(tensors), f"{where}, outputs", absent=False),
        )

    def tensor(self, accessor: Any, buffers: int, where: str) -> Any:
        quantisation, sparsity = accessor.Quantization(), accessor.Sparsity()
        if quantisation is not None:
            self.known("QuantizationParameters", quantisation._tab)
        if sparsity is not None:
            self.charge(8 * sparsity.DimMetadataLength())
        self.charge(8 * accessor.VariantTensorsLength())
        tensor = self.unpack("Tensor", accessor)
        _index(tensor.buffer, buffers, f"{where}, a tensor", "buffer")
        if getattr(tensor, "externalBuffer", 0):
            raise ModelError("its weights are in external buffer files: export it as one file")
        return tensor

    def operator(
        self, accessor: Any, names: list[tuple[str, bool]], tensors: int, subgraphs: int, where: str
    ) -> FlatOperator:
        table = self.unpack("Operator", accessor)
        code = _index(table.opcodeIndex, len(names), where, "operator code")
        name, custom = names[code]
        where = f"{where} ({name})"
        for kind, options in (("Options", table.builtinOptions), ("Options2", table.builtinOptions2)):
            found = getattr(accessor, f"Builtin{kind}")()
            if found is not None and options is None and getattr(table, f"builtin{kind}Type"):
                raise ModelError(f"{where} has options newer than this schema: update ai-edge-litert")
            if options is not None:
                self.known(type(options).__name__[:-1], found)
        large = None
        if table.customOptions is None and table.largeCustomOptionsOffset > 1:
            large = self.span(
                table.largeCustomOptionsOffset, table.largeCustomOptionsSize, f"{where}: options"
            )
        return FlatOperator(
            name=name,
            code=code,
            inputs=self.indices(table.inputs, tensors, where),
            outputs=self.indices(table.outputs, tensors, where),
            intermediates=self.indices(table.intermediates, tensors, where),
            subgraphs=_called(table, subgraphs, name, where),
            custom=custom,
            large_options=large,
            table=table,
        )

    def indices(self, found: Any, count: int, where: str, *, absent: bool = True) -> tuple[int, ...]:
        if found is None or isinstance(found, int):  # AsNumpy returns 0 for a missing vector
            return ()
        self.charge(4 * len(found))
        return tuple(-1 if absent and i == -1 else _index(i, count, where, "tensor") for i in found.tolist())

    def signature(self, accessor: Any, subgraphs: tuple[FlatSubgraph, ...]) -> FlatSignature:
        self.charge(8 * (accessor.InputsLength() + accessor.OutputsLength()))
        table = self.unpack("SignatureDef", accessor)
        key = _text(table.signatureKey)
        index = _index(table.subgraphIndex, len(subgraphs), f"signature {key!r}", "subgraph")
        count = len(subgraphs[index].tensors)

        def entries(maps: Any) -> tuple[tuple[str, int], ...]:
            return tuple(
                (_text(m.name), _index(m.tensorIndex, count, f"signature {key!r}", "tensor"))
                for m in maps or ()
            )

        return FlatSignature(
            key=key, subgraph=index, inputs=entries(table.inputs), outputs=entries(table.outputs)
        )


def _operator_name(code: Any) -> tuple[str, bool]:
    """Name of an operator code, and whether it is a custom one."""
    number = max(code.deprecatedBuiltinCode, code.builtinCode)
    if number == CUSTOM_CODE:
        return _text(code.customCode) or "CUSTOM", True
    if number not in operator_names() or number == PLACEHOLDER_CODE:
        raise ModelError(f"builtin operator code {number} is newer than this schema: update ai-edge-litert")
    return operator_names()[number], False


def _index(value: Any, count: int, where: str, what: str) -> int:
    if not 0 <= value < count:
        raise ModelError(f"{where} refers to {what} {value} of {count}: the file is corrupt")
    return int(value)


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")


def _called(table: Any, subgraphs: int, name: str, where: str) -> tuple[int, ...]:
    """Subgraphs that an operator's options name."""
    called: list[int] = []
    for options in (table.builtinOptions, table.builtinOptions2):
        for field in SUBGRAPH_FIELDS.get(type(options).__name__, ()):
            value = getattr(options, field)
            values = [] if value is None else np.atleast_1d(value).tolist()
            called.extend(_index(v, subgraphs, where, "subgraph") for v in values)
    if name in ("IF", "WHILE") and len(called) != 2:
        raise ModelError(f"{where} names {len(called)} subgraphs in place of 2: the file is corrupt")
    return tuple(called)


def _check_nesting(flat: FlatModel) -> None:
    """Refuse subgraphs that reach themselves or nest too deep."""
    calls = [{c for op in s.operators for c in op.subgraphs} for s in flat.subgraphs]
    callers: list[list[int]] = [[] for _ in calls]
    for caller, called in enumerate(calls):
        for c in called:
            callers[c].append(caller)
    waiting = [len(called) for called in calls]
    depth = [1] * len(calls)
    ready = [i for i, count in enumerate(waiting) if not count]
    for leaf in ready:  # grows while it runs: a topological sort from the leaves up
        for caller in callers[leaf]:
            waiting[caller] -= 1
            depth[caller] = max(depth[caller], depth[leaf] + 1)
            if not waiting[caller]:
                ready.append(caller)
    if len(ready) < len(calls):
        stuck = min(i for i, count in enumerate(waiting) if count)
        raise ModelError(f"subgraph {stuck} calls itself, which LiteRT cannot run: export it again")
    if max(depth) > MAX_NESTING:
        raise ModelError(f"subgraphs call each other {max(depth)} deep, over {MAX_NESTING}: export it again")
