"""Writes ``.tflite`` subgraphs operator by operator, with shapes worked out on the way.

Only what training graphs need.  Everything has a fixed shape; float32 unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import ModelError
from collab.graph.schema import DTYPES, IDENTIFIER, schema

Shape = tuple[int, ...]

_TYPE_CODES: Final = {name: code for code, name in DTYPES.items()}
_SCHEMA_VERSION: Final = 3
_ALIGNMENT: Final = 16
"""``force_align`` of ``Buffer.data`` in schema.fbs."""

_OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ADD": "AddOptions",
        "SUB": "SubOptions",
        "MUL": "MulOptions",
        "DIV": "DivOptions",
        "FULLY_CONNECTED": "FullyConnectedOptions",
        "BATCH_MATMUL": "BatchMatMulOptions",
        "CONV_2D": "Conv2DOptions",
        "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
        "MAX_POOL_2D": "Pool2DOptions",
        "AVERAGE_POOL_2D": "Pool2DOptions",
        "CONCATENATION": "ConcatenationOptions",
        "RESHAPE": "ReshapeOptions",
        "SUM": "ReducerOptions",
        "MEAN": "ReducerOptions",
        "SOFTMAX": "SoftmaxOptions",
        "LEAKY_RELU": "LeakyReluOptions",
        "ARG_MAX": "ArgMaxOptions",
        "ONE_HOT": "OneHotOptions",
        "CAST": "CastOptions",
    }
)
"""Option tables of those operators that are nothing without them."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor of a subgraph that is being written."""

    index: int
    shape: Shape
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


class FileWriter:
    """One file: buffers and operator codes that its subgraphs share."""

    def __init__(self, description: str) -> None:
        tables = schema()
        self._tables = tables
        self._model = tables.ModelT()
        self._model.version, self._model.description = _SCHEMA_VERSION, description
        self._model.subgraphs, self._model.operatorCodes = [], []
        self._model.buffers, self._model.signatureDefs = [tables.BufferT()], []
        self._codes: dict[str, int] = {}
        self._constants: dict[bytes, int] = {}

    def subgraph(self, key: str) -> GraphWriter:
        """Begin the subgraph of one signature."""
        table = self._tables.SubGraphT()
        table.name, table.tensors, table.operators, table.inputs, table.outputs = key, [], [], [], []
        definition = self._tables.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = key, len(self._model.subgraphs)
        definition.inputs, definition.outputs = [], []
        self._model.subgraphs.append(table)
        self._model.signatureDefs.append(definition)
        return GraphWriter(self, table, definition)

    def code(self, name: str) -> int:
        """Number of an operator's code in this file."""
        if name not in self._codes:
            code = self._tables.OperatorCodeT()
            code.builtinCode = getattr(self._tables.BuiltinOperator, name)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
            self._codes[name] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        return self._codes[name]

    def buffer(self, data: bytes) -> int:
        """Number of a buffer with these bytes; equal ones are stored once."""
        if data not in self._constants:
            self._constants[data] = len(self._model.buffers)
            self._model.buffers.append(_Aligned(self._tables, data))
        return self._constants[data]

    def finish(self) -> bytes:
        """The file."""
        builder = self._tables.flatbuffers.Builder(sum(map(len, self._constants)) + 65536)
        builder.Finish(self._model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())


def _bytes(tensor: Any) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * np.dtype(DTYPES[tensor.type]).itemsize


class _Aligned:
    """Packs like the schema's ``BufferT``, but aligned as the schema demands."""

    def __init__(self, tables: Any, data: bytes) -> None:
        self._tables, self._data = tables, data

    def Pack(self, builder: Any) -> Any:
        builder.Prep(_ALIGNMENT, len(self._data))
        vector = builder.CreateByteVector(self._data)
        self._tables.BufferStart(builder)
        self._tables.BufferAddData(builder, vector)
        return self._tables.BufferEnd(builder)


class GraphWriter:
    """One subgraph and its signature."""

    def __init__(self, file: FileWriter, table: Any, definition: Any) -> None:
        self._file, self._table, self._definition = file, table, definition
        self._tables = schema()
        self._consts: dict[tuple[bytes, Shape, str], Ref] = {}
        self._reshaped: dict[tuple[int, Shape], Ref] = {}

    # --- tensors ---------------------------------------------------------------

    def input(self, name: str, shape: Shape, dtype: str = "float32") -> Ref:
        """An input of the signature."""
        ref = self._tensor(name, shape, dtype, 0)
        self._table.inputs.append(ref.index)
        self._map(self._definition.inputs, name, ref)
        return ref

    def output(self, name: str, ref: Ref) -> None:
        """Make a tensor an output of the signature."""
        self._table.outputs.append(ref.index)
        self._map(self._definition.outputs, name, ref)

    def const(self, value: Any, dtype: str = "float32", name: str = "") -> Ref:
        """A constant; equal ones are one tensor."""
        array: NDArray[Any] = np.asarray(value, dtype)
        data = array.tobytes()
        key = (data, array.shape, dtype)
        if key not in self._consts:
            self._consts[key] = self._tensor(name, array.shape, dtype, self._file.buffer(data))
        return self._consts[key]

    def _tensor(self, name: str, shape: Shape, dtype: str, buffer: int) -> Ref:
        tensor = self._tables.TensorT()
        tensor.name = name or f"t{len(self._table.tensors)}"
        tensor.type, tensor.buffer, tensor.hasRank = _TYPE_CODES[dtype], buffer, True
        tensor.shape = np.array(shape, np.int32)
        self._table.tensors.append(tensor)
        return Ref(len(self._table.tensors) - 1, tuple(int(d) for d in shape), dtype)

    def _map(self, entries: list[Any], name: str, ref: Ref) -> None:
        entry = self._tables.TensorMapT()
        entry.name, entry.tensorIndex = name, ref.index
        entries.append(entry)

    def op(
        self, name: str, inputs: Sequence[Ref | None], shape: Shape, dtype: str = "float32", **options: Any
    ) -> Ref:
        """An operator with one output of the given shape."""
        made = self._tensor("", shape, dtype, 0)
        operator = self._tables.OperatorT()
        operator.opcodeIndex = self._file.code(name)
        operator.inputs = np.array([-1 if i is None else i.index for i in inputs], np.int32)
        operator.outputs = np.array([made.index], np.int32)
        kind = _OPTIONS.get(name)
        if kind is not None:
            table = getattr(self._tables, kind + "T")()
            for field, value in options.items():
                if not hasattr(table, field):
                    raise AttributeError(f"{kind} has no field {field}")
                setattr(table, field, value)
            operator.builtinOptionsType = getattr(self._tables.BuiltinOptions, kind)
            operator.builtinOptions = table
        self._table.operators.append(operator)
        return made

    def peak_bytes(self) -> int:
        """Most bytes of tensors that are alive at a time, constants left out."""
        last = {int(t): k for k, op in enumerate(self._table.operators) for t in op.inputs}
        last |= {index: len(self._table.operators) for index in self._table.outputs}
        sizes = {i: _bytes(t) for i, t in enumerate(self._table.tensors) if not t.buffer}
        alive = peak = sum(sizes[i] for i in self._table.inputs)
        for k, op in enumerate(self._table.operators):
            alive += sum(sizes[int(t)] for t in op.outputs)
            peak = max(peak, alive)
            ended = {int(t) for t in (*op.inputs, *op.outputs) if last.get(int(t), k) == k}
            alive -= sum(sizes.get(t, 0) for t in ended)
        return int(peak)

    # --- elementwise -------------------------------------------------------------

    def _pair(self, name: str, a: Ref, b: Ref, fused: int = 0) -> Ref:
        shape = tuple(int(d) for d in np.broadcast_shapes(a.shape, b.shape))
        return self.op(name, (a, b), shape, fusedActivationFunction=fused)

    def add(self, a: Ref, b: Ref, fused: int = 0) -> Ref:
        """Sum of two tensors, broadcast as numpy does."""
        return self._pair("ADD", a, b, fused)

    def sub(self, a: Ref, b: Ref) -> Ref:
        """Difference."""
        return self._pair("SUB", a, b)

    def mul(self, a: Ref, b: Ref) -> Ref:
        """Product by element."""
        return self._pair("MUL", a, b)

    def div(self, a: Ref, b: Ref) -> Ref:
        """Quotient by element."""
        return self._pair("DIV", a, b)

    def maximum(self, a: Ref, b: Ref) -> Ref:
        """The larger one by element."""
        return self.op("MAXIMUM", (a, b), tuple(int(d) for d in np.broadcast_shapes(a.shape, b.shape)))

    def unary(self, name: str, x: Ref, **options: Any) -> Ref:
        """An operator that keeps shape and dtype."""
        return self.op(name, (x,), x.shape, **options)

    def compare(self, name: str, a: Ref, b: Ref) -> Ref:
        """1.0 where the comparison holds, else 0.0."""
        shape = tuple(int(d) for d in np.broadcast_shapes(a.shape, b.shape))
        return self.cast(self.op(name, (a, b), shape, "bool"), "float32")

    def cast(self, x: Ref, dtype: str) -> Ref:
        """The same values as another dtype."""
        codes = {"inDataType": _TYPE_CODES[x.dtype], "outDataType": _TYPE_CODES[dtype]}
        return self.op("CAST", (x,), x.shape, dtype, **codes)

    # --- shapes --------------------------------------------------------------------

    def reshape(self, x: Ref, shape: Sequence[int]) -> Ref:
        """The same elements in another shape; one that is asked for twice is written once.

        XNNPACK copies a tensor that has further readers beside its change of shape.
        """
        wanted = tuple(int(d) for d in shape)
        if int(np.prod(wanted, dtype=np.int64)) != x.size:
            raise ModelError(f"a tensor of shape {x.shape} cannot take shape {wanted}")
        if wanted == x.shape:
            return x
        key = (x.index, wanted)
        if key not in self._reshaped:
            parts = (x, self.const(wanted, "int32"))
            self._reshaped[key] = self.op("RESHAPE", parts, wanted, newShape=list(wanted))
        return self._reshaped[key]

    def transpose(self, x: Ref, order: Sequence[int]) -> Ref:
        """Axes in another order."""
        if tuple(order) == tuple(range(len(order))):
            return x
        shape = tuple(x.shape[axis] for axis in order)
        moved = [axis for axis in order if x.shape[axis] != 1]
        if moved == sorted(moved):  # only axes of size 1 move
            return self.reshape(x, shape)
        return self.op("TRANSPOSE", (x, self.const(order, "int32")), shape)

    def pad(self, x: Ref, by: Sequence[tuple[int, int]]) -> Ref:
        """Zeros before and behind each axis."""
        if not any(map(any, by)):
            return x
        shape = tuple(d + before + behind for d, (before, behind) in zip(x.shape, by, strict=True))
        return self.op("PAD", (x, self.const(by, "int32")), shape)

    def pad_with(self, x: Ref, by: Sequence[tuple[int, int]], value: float) -> Ref:
        """A value before and behind each axis."""
        if not any(map(any, by)):
            return x
        shape = tuple(d + before + behind for d, (before, behind) in zip(x.shape, by, strict=True))
        return self.op("PADV2", (x, self.const(by, "int32"), self.const(value)), shape)

    def slice(self, x: Ref, begin: Sequence[int], size: Sequence[int]) -> Ref:
        """A block of a tensor."""
        if tuple(size) == x.shape:
            return x
        parts = (x, self.const(begin, "int32"), self.const(size, "int32"))
        return self.op("SLICE", parts, tuple(int(d) for d in size))

    def concat(self, parts: Sequence[Ref], axis: int) -> Ref:
        """Tensors one behind another along an axis."""
        if len(parts) == 1:
            return parts[0]
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.op("CONCATENATION", parts, tuple(shape), axis=axis)

    # --- sums and products -----------------------------------------------------------

    def reduce(self, name: str, x: Ref, axes: Sequence[int], keep: bool = True) -> Ref:
        """``SUM``, ``MEAN`` or the like over some axes."""
        shape = [1 if axis in axes else d for axis, d in enumerate(x.shape)]
        if not keep:
            shape = [d for axis, d in enumerate(x.shape) if axis not in axes]
        return self.op(name, (x, self.const(axes, "int32")), tuple(shape), keepDims=keep)

    def matmul(self, a: Ref, b: Ref, transpose_b: bool = False) -> Ref:
        """Matrix product ``[n, k]`` by ``[k, m]``, or by ``[m, k]`` transposed."""
        inner, width = (b.shape[1], b.shape[0]) if transpose_b else b.shape
        if a.shape[1] != inner:
            raise ModelError(f"matrices {a.shape} and {b.shape} cannot be multiplied")
        if transpose_b:
            return self.op("FULLY_CONNECTED", (a, b, None), (a.shape[0], width), keepNumDims=False)
        return self.op("BATCH_MATMUL", (a, b), (a.shape[0], width))

    def products(self, a: Ref, b: Ref, transpose_b: bool = False) -> Ref:
        """Product of each of several matrices ``[n, a, k]`` by ``[n, k, b]``, or by ``[n, b, k]`` transposed.

        `a` may be a single matrix that all are multiplied with.
        """
        if len(a.shape) == 2:
            a = self.reshape(a, (1, *a.shape))
        inner, width = (b.shape[2], b.shape[1]) if transpose_b else b.shape[1:]
        if a.shape[2] != inner or a.shape[0] not in (1, b.shape[0]):
            raise ModelError(f"matrices {a.shape} and {b.shape} cannot be multiplied")
        return self.op("BATCH_MATMUL", (a, b), (b.shape[0], a.shape[1], width), adjY=transpose_b)
