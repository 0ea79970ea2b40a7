"""Builds small .tflite files for tests, straight over the generated schema."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

TENSOR_TYPE = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "float64": schema.TensorType.FLOAT64,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
    "string": schema.TensorType.STRING,
    "resource": schema.TensorType.RESOURCE,
    "bfloat16": schema.TensorType.BFLOAT16,
    "int4": schema.TensorType.INT4,
}


class SubgraphBuilder:
    """One subgraph; tensors are plain indices."""

    def __init__(self, model: ModelBuilder, name: str) -> None:
        self.model = model
        self.table = schema.SubGraphT()
        self.table.name = name
        self.table.tensors, self.table.operators = [], []
        self.table.inputs, self.table.outputs = [], []

    def tensor(
        self,
        name: str | None,
        shape: Sequence[int] | None,
        dtype: str = "float32",
        *,
        data: np.ndarray[Any, Any] | None = None,
        variable: bool = False,
        quantised: tuple[float, int] | None = None,
        signature: Sequence[int] | None = None,
        has_rank: bool = True,
    ) -> int:
        """Add a tensor and return its index; ``data`` makes it a constant."""
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.isVariable = name, TENSOR_TYPE[dtype], variable
        tensor.shape = None if shape is None else np.array(shape, np.int32)
        tensor.hasRank = has_rank
        tensor.buffer = 0 if data is None else self.model.buffer(data.tobytes())
        if signature is not None:
            tensor.shapeSignature = np.array(signature, np.int32)
        if quantised is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array([quantised[0]], np.float32)
            tensor.quantization.zeroPoint = np.array([quantised[1]], np.int64)
        self.table.tensors.append(tensor)
        return len(self.table.tensors) - 1

    def input(self, name: str | None, shape: Sequence[int], dtype: str = "float32", **more: Any) -> int:
        """Add a model input."""
        index = self.tensor(name, shape, dtype, **more)
        self.table.inputs.append(index)
        return index

    def const(self, name: str | None, value: Any, dtype: str = "float32", **more: Any) -> int:
        """Add a constant."""
        array = np.asarray(value, dtype)
        return self.tensor(name, array.shape, dtype, data=array, **more)

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int] | None = None,
        *,
        name: str | None = None,
        shape: Sequence[int] | None = None,
        dtype: str = "float32",
        options: str | None = None,
        custom: bytes | None = None,
        fields: dict[str, Any] | None = None,
        **more: Any,
    ) -> int:
        """Add an operator and return its first output, made here unless ``outputs`` is given."""
        if outputs is None:
            outputs = [self.tensor(name or f"t{len(self.table.tensors)}", shape or [], dtype, **more)]
        operator = schema.OperatorT()
        operator.opcodeIndex = self.model.opcode(kind)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if custom is not None:
            operator.customOptions = np.frombuffer(custom, np.uint8)
        if options is not None:
            value = getattr(schema, options + "T")()
            for key, item in (fields or {}).items():
                assert hasattr(value, key), f"{options} has no {key}"
                setattr(value, key, item)
            if hasattr(schema.BuiltinOptions, options):
                operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
                operator.builtinOptions = value
            else:
                operator.builtinOptions2Type = getattr(schema.BuiltinOptions2, options)
                operator.builtinOptions2 = value
        self.table.operators.append(operator)
        return outputs[0] if outputs else -1

    def output(self, *tensors: int) -> None:
        """Make tensors outputs of the subgraph."""
        self.table.outputs.extend(tensors)

    # --- a few operators that most tests need ---

    def shape_of(self, index: int) -> list[int]:
        """Shape of a tensor."""
        return [int(d) for d in self.table.tensors[index].shape]

    def add(self, a: int, b: int, name: str | None = None, **more: Any) -> int:
        """Element-wise sum of equal shapes (or a scalar ``b``)."""
        return self.op("ADD", [a, b], name=name, shape=self.shape_of(a), options="AddOptions", **more)

    def mul(self, a: int, b: int, name: str | None = None, **more: Any) -> int:
        """Element-wise product of equal shapes (or a scalar ``b``)."""
        return self.op("MUL", [a, b], name=name, shape=self.shape_of(a), options="MulOptions", **more)

    def unary(self, kind: str, a: int, name: str | None = None, **more: Any) -> int:
        """An element-wise operator without options, such as TANH."""
        return self.op(kind, [a], name=name, shape=self.shape_of(a), **more)

    def conv(self, x: int, weights: np.ndarray[Any, Any], name: str | None = None) -> int:
        """A 3x3-like convolution, stride 1, SAME; ``weights`` are (out, kh, kw, in)."""
        n, height, width, _ = self.shape_of(x)
        kernel = self.const(f"w{len(self.table.tensors)}", weights)
        bias = self.const(f"b{len(self.table.tensors)}", np.linspace(-1, 1, weights.shape[0]))
        return self.op(
            "CONV_2D",
            [x, kernel, bias],
            name=name,
            shape=[n, height, width, weights.shape[0]],
            options="Conv2DOptions",
            fields={"strideH": 1, "strideW": 1},
        )

    def dense(self, x: int, weights: np.ndarray[Any, Any], name: str | None = None) -> int:
        """A fully connected layer; ``weights`` are (out, in)."""
        kernel = self.const(f"w{len(self.table.tensors)}", weights)
        shape = [self.shape_of(x)[0], weights.shape[0]]
        return self.op(
            "FULLY_CONNECTED", [x, kernel, -1], name=name, shape=shape, options="FullyConnectedOptions"
        )


class ModelBuilder:
    """A whole file; ``main`` is subgraph 0."""

    def __init__(self) -> None:
        self.table = schema.ModelT()
        self.table.version = 3
        self.table.description = "built by a test"
        self.table.buffers = [schema.BufferT()]
        self.table.operatorCodes, self.table.subgraphs, self.table.metadata = [], [], []
        self.table.signatureDefs = []
        self._codes: dict[str, int] = {}
        self.main = self.subgraph("main")

    def subgraph(self, name: str) -> SubgraphBuilder:
        """Add a subgraph."""
        builder = SubgraphBuilder(self, name)
        self.table.subgraphs.append(builder.table)
        return builder

    def buffer(self, data: bytes) -> int:
        """Add a buffer and return its index."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.table.buffers.append(buffer)
        return len(self.table.buffers) - 1

    def opcode(self, kind: str) -> int:
        """Index of the operator code, added when new; unknown names become custom operators."""
        if kind not in self._codes:
            code = schema.OperatorCodeT()
            number = getattr(schema.BuiltinOperator, kind, None)
            if number is None:
                code.customCode, number = kind, schema.BuiltinOperator.CUSTOM
            code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
            self._codes[kind] = len(self.table.operatorCodes)
            self.table.operatorCodes.append(code)
        return self._codes[kind]

    def metadata(self, name: str, data: bytes) -> None:
        """Add a metadata entry."""
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, self.buffer(data)
        self.table.metadata.append(entry)

    def signature(self, key: str, inputs: dict[str, int], outputs: dict[str, int], subgraph: int = 0) -> None:
        """Add a signature; the maps go from a name to a tensor index."""
        definition = schema.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = key, subgraph
        definition.inputs, definition.outputs = _maps(inputs), _maps(outputs)
        self.table.signatureDefs.append(definition)

    def build(self, *, external: bool = False) -> bytes:
        """The file's bytes; ``external`` puts buffers of 16 bytes and more behind the flatbuffer."""
        outside = [b for b in self.table.buffers if external and b.data is not None and b.data.size >= 16]
        held = [b.data for b in outside]
        for buffer, data in zip(outside, held, strict=True):
            buffer.data, buffer.offset, buffer.size = None, 2, data.size
        blob = bytearray(self._pack())
        tail = bytearray()
        base = -(-len(blob) // 16) * 16
        for buffer, data in zip(outside, held, strict=True):
            buffer.offset = base + len(tail)
            tail += data.tobytes() + b"\0" * (-data.size % 16)
        if outside:
            blob = bytearray(self._pack())
            assert len(blob) <= base
            blob += b"\0" * (base - len(blob)) + tail
        for buffer, data in zip(outside, held, strict=True):
            buffer.data, buffer.offset, buffer.size = data, 0, 0
        return bytes(blob)

    def _pack(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.table.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _maps(names: dict[str, int]) -> list[Any]:
    maps = []
    for name, index in names.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        maps.append(entry)
    return maps


def load(data: bytes) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    """Load a file's bytes in LiteRT; the function runs it, both ways in interpreter order."""
    return _runner(Interpreter(model_content=data, num_threads=1))


def load_path(path: Path) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    """The same for a file on disk."""
    return _runner(Interpreter(model_path=str(path), num_threads=1))


def _runner(interpreter: Any) -> Callable[[Sequence[np.ndarray[Any, Any]]], list[np.ndarray[Any, Any]]]:
    interpreter.allocate_tensors()
    inputs = [d["index"] for d in interpreter.get_input_details()]
    outputs = [d["index"] for d in interpreter.get_output_details()]

    def run(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        for index, array in zip(inputs, arrays, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run
