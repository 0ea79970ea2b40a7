"""A trained model -> a plain inference ``.tflite``: weights become constants, and what they alone decide.

No TensorFlow: the folded operators are run by LiteRT itself, so a value is what the model computed
before.  A batch normalisation behind a convolution or dense layer is gone afterwards, because the
signature ``infer`` writes it as arithmetic on the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import ModelError, TensorError
from collab.federated.trainable import INFER, PARAMETER
from collab.federated.update import Parameters
from collab.graph.flat import FlatOperator, FlatSubgraph
from collab.graph.graph import Graph, parse_model
from collab.graph.schema import DTYPES
from collab.graph.shapes import tensor_shape
from collab.runtime.litert import LiteRT
from collab.toolchain.trainable.writer import FileWriter, GraphWriter, Ref

Array = NDArray[Any]

SERVING: Final = "serving_default"
"""The signature's name, as converters call it."""


def bake(trainable: bytes, parameters: Parameters) -> bytes:
    """Write the inference model of a trainable one with these weights.

    Args:
        trainable: the file that `export` wrote.
        parameters: its weights and statistics; others are refused.

    Raises:
        ModelError: `trainable` is not a trainable model.
        TensorError: `parameters` are not those of the model, or not finite.
    """
    graph = parse_model(trainable, signature=INFER)
    known = _constants(graph) | _weights(graph, parameters)
    subgraph = graph.flat.subgraphs[graph.main]
    folded = _folded(subgraph, set(known))
    kept = [op for op in subgraph.operators if op not in folded]
    needed = {t for op in kept for t in op.inputs} & {t for op in folded for t in op.outputs}
    known |= _evaluate(subgraph, folded, known, sorted(needed))
    return _write(graph, kept, known)


def _constants(graph: Graph) -> dict[int, Array]:
    """What is constant in the file, by tensor."""
    found = {}
    flat, subgraph = graph.flat, graph.flat.subgraphs[graph.main]
    for index, tensor in enumerate(subgraph.tensors):
        span = flat.buffers[tensor.buffer]
        if span is not None:
            data = bytes(flat.data[span[0] : span[0] + span[1]])
            found[index] = np.frombuffer(data, DTYPES[tensor.type]).reshape(tensor_shape(tensor))
    return found


def _weights(graph: Graph, parameters: Parameters) -> dict[int, Array]:
    """The weights, by tensor."""
    found: dict[int, Array] = {}
    wanted = set()
    subgraph = graph.flat.subgraphs[graph.main]
    signature = next(s for s in graph.flat.signatures if s.key == INFER)
    for key, index in signature.inputs:
        if not key.startswith(PARAMETER):
            continue
        name = key.removeprefix(PARAMETER)
        wanted.add(name)
        shape = tensor_shape(subgraph.tensors[index])
        if name not in parameters or parameters[name].shape != shape:
            raise TensorError(f"parameter {name!r} of shape {shape} is missing or has another shape")
        if not np.isfinite(parameters[name]).all():
            raise TensorError(f"parameter {name!r} is not finite: such a model must not run")
        found[index] = np.ascontiguousarray(parameters[name], np.float32)
    if not found:
        raise ModelError("signature 'infer' takes no parameters: this is not a trainable model")
    if more := set(parameters) - wanted:
        raise TensorError(f"the model has no parameter {min(more)!r}")
    return found


def _folded(subgraph: FlatSubgraph, known: set[int]) -> list[FlatOperator]:
    """Operators that read constants alone, in their order."""
    found = []
    known = set(known)
    for operator in subgraph.operators:
        if all(t in known for t in operator.inputs if t >= 0):
            found.append(operator)
            known.update(operator.outputs)
    return found


def _evaluate(
    subgraph: FlatSubgraph, operators: list[FlatOperator], known: Mapping[int, Array], wanted: list[int]
) -> dict[int, Array]:
    """Run operators on constants; the values of the tensors wanted."""
    if not wanted:
        return {}
    file = FileWriter("collab folded")
    graph = file.subgraph("fold")
    refs: dict[int, Ref] = {}
    for operator in operators:
        _copy(graph, subgraph, operator, refs, known)
    for tensor in wanted:
        graph.output(f"{tensor}", refs[tensor])
    made = LiteRT().signatures(file.finish()).run("fold", {})
    return {tensor: made[f"{tensor}"] for tensor in wanted}


def _write(graph: Graph, operators: list[FlatOperator], known: Mapping[int, Array]) -> bytes:
    subgraph = graph.flat.subgraphs[graph.main]
    signature = next(s for s in graph.flat.signatures if s.key == INFER)
    file = FileWriter("collab baked")
    writer = file.subgraph(SERVING)
    refs: dict[int, Ref] = {}
    for key, index in signature.inputs:
        if not key.startswith(PARAMETER):
            refs[index] = writer.input(key, tensor_shape(subgraph.tensors[index]))
    for operator in operators:
        _copy(writer, subgraph, operator, refs, known)
    for key, index in signature.outputs:
        writer.output(key, refs[index])
    return file.finish()


def _copy(
    graph: GraphWriter,
    subgraph: FlatSubgraph,
    operator: FlatOperator,
    refs: dict[int, Ref],
    known: Mapping[int, Array],
) -> None:
    """Write an operator once more, constants in place of what is known."""

    def ref(tensor: int) -> Ref | None:
        if tensor < 0:
            return None
        if tensor not in refs:
            value = known[tensor]
            refs[tensor] = graph.const(value, value.dtype.name)
        return refs[tensor]

    (output,) = operator.outputs
    made = subgraph.tensors[output]
    options = operator.table.builtinOptions
    refs[output] = graph.op(
        operator.name,
        [ref(tensor) for tensor in operator.inputs],
        tensor_shape(made),
        DTYPES[made.type],
        **({} if options is None else vars(options)),
    )
