"""Keras to ONNX by Keras' own export, and its answers by onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collab.codec.tensors import Array
from collab.errors import ModelError
from collab.toolchain.convert.litert import no_counterpart
from collab.toolchain.convert.quiet import quietly
from collab.toolchain.convert.source import Source, in_batches
from collab.toolchain.extras import needed


def keras_to_onnx(source: Source) -> bytes:
    """Return the model as ONNX with an open batch; outputs carry the names of their layers.

    Raises:
        ModelError: an operator has no counterpart in ONNX.
        BackendError: tf2onnx or onnx is not installed.
    """
    needed("tf2onnx")
    onnx = needed("onnx")
    tf = needed("tensorflow")
    with tempfile.TemporaryDirectory(prefix="collab-onnx-") as folder, quietly():
        path = Path(folder) / "model.onnx"
        try:
            # A model that was never called has no signature to export.
            source.answers([tf.zeros(spec.shape, spec.dtype).numpy() for spec in source.inputs])
            source.model.export(str(path), format="onnx", verbose=False)
            model = onnx.load(str(path))
        except Exception as error:  # whatever an operator makes the exporter raise
            raise ModelError(no_counterpart(error, "ONNX")) from error
    _rename(model.graph, dict(zip((o.name for o in model.graph.output), source.outputs, strict=True)))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"ONNX cannot be written: {' '.join(str(error).split())[:300]}") from error
    return bytes(model.SerializeToString())


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Give tensors other names, unless a tensor has that name already."""
    taken = {name for node in graph.node for name in node.output} | {i.name for i in graph.input}
    names = {old: new for old, new in names.items() if new not in taken}
    for node in graph.node:
        for ends in (node.input, node.output):
            for i, name in enumerate(ends):
                ends[i] = names.get(name, name)
    for output in graph.output:
        output.name = names.get(output.name, output.name)


def onnx_answers(data: bytes, examples: Sequence[Array]) -> list[Array]:
    """What onnxruntime gives on the CPU for examples ``[n, …]`` in the order of the model's inputs.

    Raises:
        ModelError: onnxruntime cannot load or run the model.
    """
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]

        def call(batch: Sequence[Array]) -> list[Array]:
            return list(session.run(None, dict(zip(names, batch, strict=True))))

        return in_batches(examples, call)
    except Exception as error:  # onnxruntime's errors have no common base but this
        raise ModelError(f"onnxruntime refuses the model: {' '.join(str(error).split())[:300]}") from error
