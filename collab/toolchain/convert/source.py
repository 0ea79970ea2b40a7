"""The model that is converted: a Keras file or a ``.tflite``, loaded and run on real examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from collab.codec.tensors import Array
from collab.core.tensor import TensorSpec
from collab.errors import ModelError, TensorError
from collab.runtime.base import Backend
from collab.toolchain.convert.litert import example_shape, input_names, output_names
from collab.toolchain.convert.quiet import quietly
from collab.toolchain.extras import needed
from collab.toolchain.keras_files import load_model

BATCH: Final = 32
"""Examples that go through Keras and onnxruntime at a time."""


@dataclass(frozen=True)
class Source:
    """A Keras model; `inputs` are of one example, batch included."""

    path: Path
    model: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]

    def answers(self, examples: Sequence[Array]) -> list[Array]:
        """What it gives for examples ``[n, …]`` of each input, by output."""
        return in_batches(examples, self._call)

    def _call(self, batch: Sequence[Array]) -> list[Array]:
        tree = needed("tensorflow").nest
        made = self.model(batch[0] if len(batch) == 1 else list(batch), training=False)
        return [value.numpy() for value in tree.flatten(made)]


def load_keras(path: Path) -> Source:
    """Open a ``.keras`` file; lambdas in it are refused, since they are code.

    Raises:
        ModelError: the file is missing or no Keras model.
        BackendError: Keras is not installed.
    """
    with quietly():
        model = load_model(path)
    return keras_source(path, model)


def keras_source(path: Path, model: Any) -> Source:
    """A Keras model in memory."""
    if getattr(model, "inputs", None) is None:
        raise ModelError(f"{path}: its input shape is not fixed: call the model once before saving it")
    names = input_names(model)
    specs = tuple(
        TensorSpec(name, example_shape(tensor, name), str(tensor.dtype))
        for tensor, name in zip(model.inputs, names, strict=True)
    )
    return Source(path, model, specs, tuple(output_names(model)))


def in_batches(examples: Sequence[Array], call: Any, size: int = BATCH) -> list[Array]:
    """Call with slices of examples ``[n, …]`` and join what comes back."""
    count = len(examples[0])
    parts = [call([array[at : at + size] for array in examples]) for at in range(0, count, size)]
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def litert_answers(data: bytes | Path, backend: Backend, examples: Sequence[Array]) -> list[Array]:
    """What a ``.tflite`` of batch 1 gives for float examples ``[n, …]``, one after another."""
    stage = backend.load(data, 1)
    try:
        return in_batches(examples, stage.run, 1)
    finally:
        stage.close()


def matched(specs: Sequence[TensorSpec], arrays: Mapping[str, Array], what: str) -> list[Array]:
    """Arrays ``[n, …]`` in the order of the model's inputs; of one input, any name serves.

    Raises:
        TensorError: a name, dtype, shape or count is wrong; it says which and what is right.
    """
    if len(specs) == 1 and len(arrays) == 1:
        arrays = {specs[0].name: next(iter(arrays.values()))}
    found = []
    for spec in specs:
        if spec.name not in arrays:
            known = ", ".join(repr(s.name) for s in specs)
            raise TensorError(f"{what}: input {spec.name!r} is missing; the model takes {known}")
        array = arrays[spec.name]
        if array.shape[1:] != spec.shape[1:] or array.ndim != len(spec.shape):
            raise TensorError(
                f"{what}: {spec.name!r} has the shape {list(array.shape)}, the model takes "
                f"[N, {', '.join(map(str, spec.shape[1:]))}]: prepare the data for this model"
            )
        if array.dtype.name != spec.dtype:
            raise TensorError(
                f"{what}: {spec.name!r} is {array.dtype.name}, the model takes {spec.dtype}; use .astype()"
            )
        found.append(np.ascontiguousarray(array))
    counts = {len(array) for array in found}
    if len(counts) != 1 or not next(iter(counts)):
        raise TensorError(f"{what}: give at least one example, the same number for each input")
    return found
