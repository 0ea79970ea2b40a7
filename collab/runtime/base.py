"""What a back end is: it loads a stage's bytes and runs them on arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collab.codec.tensors import Array
from collab.core.tensor import TensorSpec


@dataclass(frozen=True)
class RuntimeClass:
    """What must be equal for two devices to give bit-identical results."""

    backend: str
    version: str
    machine: str
    """Instruction set, as ``platform.machine`` gives it."""
    cpu_features: tuple[str, ...]
    """Sorted names of the features that kernels are chosen by."""
    delegate: str

    def __str__(self) -> str:
        features = "+".join(self.cpu_features) or "baseline"
        return f"{self.backend} {self.version} {self.machine} {features} {self.delegate}"


class LoadedStage(ABC):
    """A stage in memory; not thread-safe, but any one thread at a time may use it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Compute the outputs of inputs given in the order, shapes and dtypes of `inputs`.

        The arrays that are returned are the caller's.  Releases the GIL while it
        computes.  Raises `BackendError` if the runtime fails, `TensorError` for inputs
        of the wrong number, shape or dtype.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the memory; safe to repeat."""


class Backend(ABC):
    """Loads stages."""

    name: str

    @property
    def remark(self) -> str:
        """What people should know of it on this device, such as a delegate that is missing."""
        return ""

    @abstractmethod
    def runtime_class(self) -> RuntimeClass:
        """The class that this back end's results belong to on this device."""

    @abstractmethod
    def load(self, model: Path | bytes, threads: int) -> LoadedStage:
        """Load a stage from a file or its bytes.

        Raises `ModelError` for what is no model of this back end or has an operator
        that it does not know, `BackendError` where the runtime is not installed.
        """
