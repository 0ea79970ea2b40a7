"""LiteRT: ``ai_edge_litert``, or its predecessor ``tflite_runtime`` where only that is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from collab.codec.tensors import Array, check_array
from collab.core.tensor import TensorSpec
from collab.errors import BackendError, ModelError, TensorError
from collab.runtime.base import Backend, LoadedStage, RuntimeClass
from collab.runtime.cpu import cpu_features

_PACKAGES: Final = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
)
_UNKNOWN_OPERATOR: Final = re.compile(
    r"(?:unresolved custom op: (\S+)|Didn't find op for builtin opcode '(\w+)'|Op builtin_code out of range: (\d+))"
)


def _interpreter_module() -> tuple[Any, str]:
    for module, distribution in _PACKAGES:
        try:
            return importlib.import_module(module), distribution
        except ImportError:
            continue
    raise BackendError("no LiteRT runtime is installed; install ai-edge-litert")


class _LiteRTStage(LoadedStage):
    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs = tuple(map(_spec, inputs))
        self.outputs = tuple(map(_spec, outputs))
        self._into = tuple(detail["index"] for detail in inputs)
        self._from = tuple(detail["index"] for detail in outputs)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        if len(inputs) != len(self.inputs):
            raise TensorError(f"stage takes {len(self.inputs)} tensors, got {len(inputs)}")
        for spec, array in zip(self.inputs, inputs):
            check_array(spec, array)
        interpreter = self._interpreter
        try:
            for index, array in zip(self._into, inputs):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._from]
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"LiteRT: {_one_line(error)}") from error

    def close(self) -> None:
        self._interpreter = None


def _spec(detail: dict[str, Any]) -> TensorSpec:
    dtype = np.dtype(detail["dtype"]).name if detail["dtype"] is not np.bytes_ else "string"
    return TensorSpec(detail["name"], tuple(int(d) for d in detail["shape"]), dtype)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


class LiteRT(Backend):
    """Runs stages on the CPU through LiteRT's interpreter and its default delegate, XNNPACK."""

    name = "litert"

    def runtime_class(self) -> RuntimeClass:
        """LiteRT build, instruction set, CPU features and delegate."""
        _, distribution = _interpreter_module()
        version = f"{distribution} {importlib.metadata.version(distribution)}"
        return RuntimeClass(self.name, version, platform.machine(), cpu_features(), "xnnpack")

    def load(self, model: Path | bytes, threads: int = 1) -> LoadedStage:
        """Load and allocate a ``.tflite``; a file is mapped, not read."""
        module, _ = _interpreter_module()
        source = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": bytes(model)}
        try:
            interpreter = module.Interpreter(num_threads=threads, **source)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError, OSError) as error:
            unknown = _UNKNOWN_OPERATOR.search(str(error))
            if unknown:
                name = next(group for group in unknown.groups() if group)
                raise ModelError(
                    f"operator {name!r} is not known to this LiteRT; update it or convert anew"
                ) from error
            raise ModelError(f"LiteRT cannot load the model: {_one_line(error)}") from error
        return _LiteRTStage(interpreter)
