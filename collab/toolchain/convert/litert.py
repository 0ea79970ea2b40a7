"""Keras to LiteRT: float32, one example at a time, tensors named as the Keras model names them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from typing import Any, Final

from collab.errors import ModelError
from collab.graph.reader import read_flat
from collab.graph.schema import IDENTIFIER, schema
from collab.graph.write import InlineBuffer
from collab.toolchain.convert.quiet import quietly
from collab.toolchain.extras import needed

SIGNATURE: Final = "serving_default"
_NO_COUNTERPART: Final = re.compile(
    r"(?:Custom|Flex|Select TF|TensorFlow) ops?: ([\w.]+(?:, [\w.]+)*)|'tf\.(\w+)' op is neither"
)


def keras_to_litert(model: Any) -> bytes:
    """Return a Keras 3 `model` as a float32 ``.tflite`` of batch 1 with the signature ``serving_default``.

    Its tensors carry the names of the model's inputs and of the layers that make its outputs.

    Raises:
        ModelError: a shape is not fixed, or an operator has no counterpart in LiteRT; it names which.
        BackendError: TensorFlow is not installed.
    """
    tf = needed("tensorflow")
    module = tf.Module()
    module.serve = serving_function(tf, model)
    # Saved are variables that the module holds itself; Keras' own wrap them.
    module.held = [v if isinstance(v, tf.Variable) else v.value for v in model.variables]
    return module_to_litert(tf, module)


def module_to_litert(tf: Any, module: Any) -> bytes:
    """A ``tf.Module`` with a ``serve`` of fixed shapes, as `keras_to_litert` writes models."""
    with tempfile.TemporaryDirectory(prefix="collab-litert-") as folder, quietly():
        try:
            tf.saved_model.save(module, folder, signatures={SIGNATURE: module.serve})
            raw = bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
        except Exception as error:  # whatever an operator makes the converter raise
            raise ModelError(no_counterpart(error, "LiteRT")) from error
    return _named(raw)


def serving_function(tf: Any, model: Any) -> Any:
    """The model as a ``tf.function`` of one example, outputs by name; raises `ModelError` for open shapes."""
    names = input_names(model)
    specs = [
        tf.TensorSpec(example_shape(tensor, name), tensor.dtype, name=name)
        for tensor, name in zip(model.inputs, names, strict=True)
    ]
    outputs = output_names(model)

    def serve(*arrays: Any) -> dict[str, Any]:
        made = tf.nest.flatten(model(arrays[0] if len(arrays) == 1 else list(arrays), training=False))
        # Without the identity, an output that is an input too would lose its name.
        return {name: tf.identity(value) for name, value in zip(outputs, made, strict=True)}

    return tf.function(serve, input_signature=specs, autograph=False)


def example_shape(tensor: Any, name: str) -> tuple[int, ...]:
    """Shape of one example of a Keras tensor, batch included."""
    shape = (1, *tuple(tensor.shape)[1:])
    if None in shape:
        raise ModelError(
            f"input {name!r} has the open shape {list(tensor.shape)}: devices need fixed ones; "
            "build the model with its input shape"
        )
    return shape


def input_names(model: Any) -> list[str]:
    """Names of a Keras model's inputs, in order, as files carry them."""
    return _unique(_plain(tensor.name) for tensor in model.inputs)


def output_names(model: Any) -> list[str]:
    """Names of the layers that make a Keras model's outputs, in order, as files carry them."""
    histories = [tensor._keras_history for tensor in model.outputs]
    return _unique(_plain(getattr(h, "operation", h[0]).name) for h in histories)


def no_counterpart(error: Exception, target: str) -> str:
    """One line that names the operators that a converter had no way to write."""
    text = str(error)
    found = [n for names in _NO_COUNTERPART.findall(text) for n in ", ".join(filter(None, names)).split(", ")]
    if not found:
        return f"{target} cannot be written: {' '.join(text.split())[:300]}"
    names = ", ".join(dict.fromkeys(name.removeprefix("tf.") for name in found))
    return f"{names} has no counterpart in {target}: write that layer with other operations, or leave it out"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name.partition(":")[0])


def _unique(names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found.append(candidate)
    return found


def _named(raw: bytes) -> bytes:
    """Name the tensors at both ends as the signature does, in place of the converter's names."""
    tables = schema()
    model = tables.ModelT.InitFromPackedBuf(raw, 0)
    for signature in model.signatureDefs or ():
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        for entry in (*signature.inputs, *signature.outputs):
            tensors[entry.tensorIndex].name = entry.name
    # The schema's own buffers would lose their alignment.
    spans = read_flat(raw).buffers
    model.buffers = [tables.BufferT() if span is None else InlineBuffer(raw, span) for span in spans]
    builder = tables.flatbuffers.Builder(len(raw) + 65536)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())
