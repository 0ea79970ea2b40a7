"""Answers of a model file to examples: a ``.tflite`` without TensorFlow, a ``.keras`` with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.codec.tensors import Array
from collab.core.tensor import TensorSpec
from collab.errors import ModelError, UsageError
from collab.graph import read_model
from collab.runtime.base import Backend
from collab.toolchain.convert.source import load_keras, matched

Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Scale:
    """How integers of a tensor stand for numbers: ``(q - zero) * scale``; None where they are floats."""

    scale: float
    zero: int


def scores(
    path: Path,
    examples: Mapping[str, Array],
    backend: Backend,
    output: str | None = None,
    advance: Advance = lambda done, total: None,
) -> NDArray[np.float64]:
    """Answers ``[n, …]`` of one output, restored to numbers where a model has integer ends.

    Args:
        path: ``.tflite`` or ``.keras``.
        examples: float32 ``[n, …]`` by input; of one input any name serves.
        backend: what runs a ``.tflite``.
        output: its name, where there are several.
        advance: told how many are done.

    Raises:
        ModelError: the file is no model.
        TensorError: the examples do not fit it.
        UsageError: the output is not there, or it is not clear which is meant.
    """
    if path.suffix in (".keras", ".h5"):
        source = load_keras(path)
        place = _output(source.outputs, output)
        answers = source.answers(matched(source.inputs, examples, "examples"))[place]
        return answers.astype(np.float64)
    if path.suffix != ".tflite":
        raise ModelError(f"{path}: give a .tflite or a .keras file")
    graph = read_model(path)
    scales = _scales(graph)
    taken = tuple(
        TensorSpec(spec.name, spec.shape, "float32" if spec.name in scales else spec.dtype)
        for spec in graph.inputs
    )
    place = _output([spec.name for spec in graph.outputs], output)
    given = matched(taken, examples, "examples")
    _one_at_a_time(graph.inputs, path)
    stage = backend.load(bytes(graph.data), 1)
    wanted = graph.outputs[place]
    try:
        rows = []
        order = [[spec.name for spec in graph.inputs].index(spec.name) for spec in stage.inputs]
        for n in range(len(given[0])):
            row = [_quantised(given[i][n : n + 1], graph.inputs[i], scales) for i in order]
            rows.append(stage.run(row)[place])
            advance(n + 1, len(given[0]))
    finally:
        stage.close()
    found = np.concatenate(rows)
    scale = scales.get(wanted.name)
    restored: NDArray[np.float64] = found.astype(np.float64)
    return restored if scale is None else (restored - scale.zero) * scale.scale


def _output(names: Sequence[str], wanted: str | None) -> int:
    if wanted is None:
        if len(names) == 1:
            return 0
        raise UsageError(f"the model has several outputs; give --output, one of {', '.join(names)}")
    if wanted not in names:
        raise UsageError(f"--output {wanted}: the model has {', '.join(names)}")
    return list(names).index(wanted)


def _one_at_a_time(inputs: Sequence[TensorSpec], path: Path) -> None:
    for spec in inputs:
        if not spec.shape or spec.shape[0] != 1:
            raise ModelError(
                f"{path}: input {spec.name!r} has the shape {list(spec.shape)}: convert it with batch 1"
            )


def _scales(graph: Any) -> dict[str, Scale]:
    """Scales of integer inputs and outputs, by name."""
    subgraph = graph.flat.subgraphs[graph.main]
    found = {}
    ends = ((subgraph.inputs, graph.inputs), (subgraph.outputs, graph.outputs))
    for tensors, specs in ends:
        for tensor, spec in zip(tensors, specs, strict=True):
            quantisation = subgraph.tensors[tensor].quantization
            if spec.dtype not in ("int8", "uint8", "int16") or quantisation is None:
                continue
            if quantisation.scale is not None and len(quantisation.scale) == 1:
                found[spec.name] = Scale(float(quantisation.scale[0]), int(quantisation.zeroPoint[0]))
    return found


def _quantised(values: Array, spec: TensorSpec, scales: Mapping[str, Scale]) -> Array:
    scale = scales.get(spec.name)
    if scale is None:
        return values
    limits = np.iinfo(spec.dtype)
    whole = np.round(values.astype(np.float64) / scale.scale) + scale.zero
    clipped: Array = np.clip(whole, limits.min, limits.max).astype(spec.dtype)
    return clipped
