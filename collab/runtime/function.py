"""A back end in memory: stages that are Python functions, for tests and simulations."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from collab.codec.tensors import Array, check_array
from collab.core.tensor import TensorSpec
from collab.errors import BackendError, ModelError, TensorError
from collab.runtime.base import Backend, LoadedStage, RuntimeClass

Function = Callable[[Sequence[Array]], Sequence[Array]]


class _FunctionStage(LoadedStage):
    def __init__(
        self, function: Function, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self._function = function
        self.inputs, self.outputs = inputs, outputs

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        if len(inputs) != len(self.inputs):
            raise TensorError(f"stage takes {len(self.inputs)} tensors, got {len(inputs)}")
        arrays = [check_array(spec, array) for spec, array in zip(self.inputs, inputs, strict=True)]
        made = list(self._function(arrays))
        if len(made) != len(self.outputs):
            raise BackendError(f"function gave {len(made)} tensors, not {len(self.outputs)}")
        return [check_array(spec, array).copy() for spec, array in zip(self.outputs, made, strict=True)]

    def close(self) -> None:
        pass


class Functions(Backend):
    """Stages by the bytes that name them; nothing that arrives is ever executed."""

    name = "function"

    def __init__(
        self, stages: Mapping[bytes, tuple[Function, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]
    ) -> None:
        self._stages = dict(stages)

    def runtime_class(self) -> RuntimeClass:
        """Functions are deterministic on one machine type."""
        return RuntimeClass(self.name, "1", platform.machine(), (), "none")

    def load(self, model: Path | bytes, threads: int = 1) -> LoadedStage:
        """Find the function that the bytes name."""
        key = _read(model) if isinstance(model, Path) else bytes(model)
        if key not in self._stages:
            raise ModelError(f"no function is registered under {key[:40]!r}")
        return _FunctionStage(*self._stages[key])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
