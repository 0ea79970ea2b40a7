"""LiteRT: ``ai_edge_litert``, or its predecessor ``tflite_runtime`` where only that is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from collab.codec.tensors import Array, check_array
from collab.core.tensor import TensorSpec
from collab.errors import BackendError, ModelError, TensorError
from collab.runtime.base import Backend, LoadedStage, RuntimeClass
from collab.runtime.cpu import cpu_features
from collab.runtime.delegates import XNNPACK, Chosen, choose

_PACKAGES: Final = (
    ("ai_edge_litert", "ai-edge-litert"),
    ("tflite_runtime", "tflite-runtime"),
)
_UNKNOWN_OPERATOR: Final = re.compile(
    r"unresolved custom op: (\S+?)\.?(?:\s|$)"
    r"|Didn't find op for builtin opcode '(\w+)'"
    r"|Op builtin_code out of range: (\d+)"
)

_CLOSED: Final = "LiteRT: the stage is closed"


def _installed() -> tuple[str, str]:
    """Module and distribution of the runtime, found without importing it: an idle node does not need it."""
    for package, distribution in _PACKAGES:
        if importlib.util.find_spec(package) is not None:
            return f"{package}.interpreter", distribution
    raise BackendError("no LiteRT runtime is installed; install ai-edge-litert")


def _import() -> Any:
    module, distribution = _installed()
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(f"{distribution} is installed but cannot be imported: {error}") from error


class _LiteRTStage(LoadedStage):
    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs = tuple(map(_spec, inputs))
        self.outputs = tuple(map(_spec, outputs))
        self._into = tuple(detail["index"] for detail in inputs)
        self._from = tuple(detail["index"] for detail in outputs)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        _check(self.inputs, inputs)
        interpreter = self._interpreter
        if interpreter is None:
            raise BackendError(_CLOSED)
        try:
            for index, array in zip(self._into, inputs, strict=True):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._from]
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"LiteRT: {_one_line(error)}") from error

    def close(self) -> None:
        self._interpreter = None


class _SignatureStage(LoadedStage):
    def __init__(self, runner: Any) -> None:
        self._runner = runner
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        self.inputs = tuple(map(_spec, inputs.values()))
        self.outputs = tuple(map(_spec, outputs.values()))
        self._into, self._from = tuple(inputs), tuple(outputs)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        _check(self.inputs, inputs)
        if self._runner is None:
            raise BackendError(_CLOSED)
        try:
            made = self._runner(**dict(zip(self._into, inputs, strict=True)))
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"LiteRT: {_one_line(error)}") from error
        return [made[name] for name in self._from]

    def close(self) -> None:
        self._runner = None


class Signatures:
    """All signatures of one model in one interpreter, by name: what trains has several on the same file.

    One thread at a time.
    """

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self.names: tuple[str, ...] = tuple(interpreter.get_signature_list())
        self._runners: dict[str, Any] = {}

    def _runner(self, signature: str) -> Any:
        if signature not in self._runners:
            try:
                self._runners[signature] = self._interpreter.get_signature_runner(signature)
            except (RuntimeError, ValueError) as error:
                raise ModelError(f"LiteRT cannot run signature {signature!r}: {_one_line(error)}") from error
        return self._runners[signature]

    def inputs(self, signature: str) -> dict[str, TensorSpec]:
        """What a signature reads, by name; raises `ModelError` when there is no such signature."""
        return {name: _spec(detail) for name, detail in self._runner(signature).get_input_details().items()}

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Run one; raises `ModelError` when there is none, `BackendError` when LiteRT refuses the arrays."""
        runner = self._runner(signature)
        try:
            made: dict[str, Any] = runner(**inputs)
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"LiteRT: {_one_line(error)}") from error
        return made


def _check(specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> None:
    if len(arrays) != len(specs):
        raise TensorError(f"stage takes {len(specs)} tensors, got {len(arrays)}")
    for spec, array in zip(specs, arrays, strict=True):
        check_array(spec, array)


def _spec(detail: dict[str, Any]) -> TensorSpec:
    dtype = np.dtype(detail["dtype"]).name if detail["dtype"] is not np.bytes_ else "string"
    return TensorSpec(detail["name"], tuple(int(d) for d in detail["shape"]), dtype)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


class LiteRT(Backend):
    """Runs stages through LiteRT's interpreter and XNNPACK, or another ``delegate`` where it is.

    ``delegate`` is as `delegates.choose` takes it.
    """

    name = "litert"

    def __init__(self, delegate: str = XNNPACK) -> None:
        self._wanted = delegate

    @functools.cached_property
    def delegate(self) -> Chosen:
        """The delegate that is used; raises `ConfigError` where the setting is none."""
        return choose(self._wanted)

    @property
    def remark(self) -> str:
        """Why stages run on another delegate than was wanted."""
        return self.delegate.remark

    def runtime_class(self) -> RuntimeClass:
        """LiteRT build, instruction set, CPU features and delegate."""
        _, distribution = _installed()
        version = f"{distribution} {importlib.metadata.version(distribution)}"
        return RuntimeClass(self.name, version, platform.machine(), cpu_features(), self.delegate.name)

    def load(self, model: Path | bytes, threads: int = 1) -> LoadedStage:
        """Load and allocate a ``.tflite``; a file is mapped, not read."""
        return _LiteRTStage(self._interpreter(model, threads))

    def load_signature(self, model: Path | bytes, signature: str, threads: int = 1) -> LoadedStage:
        """Load one signature of a model that has several; tensors are in the order of its signature."""
        interpreter = self._interpreter(model, threads)
        try:
            return _SignatureStage(interpreter.get_signature_runner(signature))
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT cannot run signature {signature!r}: {_one_line(error)}") from error

    def signatures(self, model: Path | bytes, threads: int = 1) -> Signatures:
        """Load a model for its signatures."""
        return Signatures(self._interpreter(model, threads))

    def tensor_shapes(self, model: Path | bytes, subgraph: int = 0) -> list[tuple[int, ...]]:
        """Shapes that the interpreter really allocates, by tensor of a subgraph.

        Raises `ModelError` if the model cannot be loaded here.
        """
        details = self._interpreter(model, 1).get_tensor_details(subgraph_index=subgraph)
        return [tuple(int(d) for d in detail["shape"]) for detail in details]

    def _interpreter(self, model: Path | bytes, threads: int) -> Any:
        module = _import()
        source = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": bytes(model)}
        delegates = self._delegates(module)
        try:
            interpreter = module.Interpreter(
                num_threads=threads, experimental_delegates=delegates or None, **source
            )
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError, OSError) as error:
            unknown = _UNKNOWN_OPERATOR.search(str(error))
            if unknown:
                name = next(group for group in unknown.groups() if group)
                raise ModelError(
                    f"operator {name!r} is not known to this LiteRT; update it or convert anew"
                ) from error
            with_whom = f" with delegate {self.delegate.name!r}" if delegates else ""
            raise ModelError(f"LiteRT cannot load the model{with_whom}: {_one_line(error)}") from error
        return interpreter

    def _delegates(self, module: Any) -> list[Any]:
        """The delegate for one interpreter, which owns it."""
        if self.delegate.library is None:
            return []
        try:
            return [module.load_delegate(self.delegate.library)]
        except (RuntimeError, ValueError, OSError, AttributeError) as error:
            raise BackendError(
                f"delegate {self.delegate.name!r} ({self.delegate.library}) does not start: "
                f'{_one_line(error)}; set runtime.delegate = "xnnpack"'
            ) from error
