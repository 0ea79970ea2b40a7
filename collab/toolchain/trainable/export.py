"""A network -> the bytes of a trainable ``.tflite``."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import ModelError
from collab.federated import trainable as names
from collab.federated.trainable import Description, DropoutMask, Weight
from collab.toolchain.trainable.inference import write_inference
from collab.toolchain.trainable.losses import measure
from collab.toolchain.trainable.network import Network, Pass
from collab.toolchain.trainable.plain import NHWC_TO_HCWN, Dropout
from collab.toolchain.trainable.pooling import pool_first
from collab.toolchain.trainable.writer import FileWriter, GraphWriter, Ref

MAX_BATCH: Final = 1024
MAX_CALIBRATION: Final = 512


def export(network: Network, batch_size: int, calibration: NDArray[np.float32] | None = None) -> bytes:
    """Write the signatures of a trainable model (`collab.federated.trainable`).

    Args:
        network: the model.
        batch_size: examples in a step; larger batches are summed up from several.
        calibration: inputs from which `bake` takes ranges for int8, at most `MAX_CALIBRATION`;
            they travel with the model, so they must not be anybody's secret.

    Raises:
        ModelError: a shape does not fit, or there is nothing to train.
    """
    if not 1 <= batch_size <= MAX_BATCH:
        raise ModelError(f"a batch has 1 to {MAX_BATCH} examples, not {batch_size}")
    if not any(parameter.trainable for parameter in network.parameters):
        raise ModelError("the model has no weights to train")
    network.shapes()
    file = FileWriter("collab trainable")
    _infer(file.subgraph(names.INFER), network)
    training, quick = file.subgraph(names.TRAIN), pool_first(network)
    _train(training, quick, batch_size)
    _evaluate(file.subgraph(names.EVALUATE), quick, batch_size)
    initial = file.subgraph(names.INITIAL)
    _initial(initial, network, describe(network, batch_size, training.peak_bytes()))
    if calibration is not None:
        if calibration.shape[1:] != network.input_shape or not 0 < len(calibration) <= MAX_CALIBRATION:
            raise ModelError(
                f"calibration of shape {calibration.shape} does not fit: "
                f"give 1 to {MAX_CALIBRATION} inputs of shape {network.input_shape}"
            )
        initial.output(names.CALIBRATION, initial.const(calibration))
    return file.finish()


def _parameters(graph: GraphWriter, network: Network) -> dict[str, Ref]:
    return {p.name: graph.input(names.PARAMETER + p.name, p.value.shape) for p in network.parameters}


def _infer(graph: GraphWriter, network: Network) -> None:
    x = graph.input("x", (1, *network.input_shape))
    graph.output("y", write_inference(graph, network, _parameters(graph, network), x))


def _begin(graph: GraphWriter, network: Network, batch: int, training: bool) -> tuple[Pass, Ref, Ref]:
    """Inputs of a pass, the examples laid out for it, and what they should give."""
    x = graph.input("x", (batch, *network.input_shape))
    classes = network.loss == "cross_entropy"
    y = graph.input(
        "y", (batch,) if classes else (batch, *network.shapes()[-1]), "int32" if classes else "float32"
    )
    weight = graph.input("weight", (batch,))
    run = Pass(graph, _parameters(graph, network), weight, training)
    return run, graph.transpose(x, NHWC_TO_HCWN) if len(x.shape) == 4 else x, y


def _train(graph: GraphWriter, network: Network, batch: int) -> None:
    run, x, y = _begin(graph, network, batch, training=True)
    needed = _needs_gradient(network)
    values, pulls = [x], []
    for node in network.nodes:
        wanted = any(needed[i] for i in node.inputs)
        value, pull = node.layer.learn(run, node.name, [values[i] for i in node.inputs], wanted)
        values.append(value)
        pulls.append(pull)
    measured = measure(graph, network.loss, values[-1], y, run.weight)
    waiting: dict[int, Ref] = {len(network.nodes): measured.gradient}
    for number in range(len(network.nodes), 0, -1):
        gradient = waiting.pop(number, None)
        if gradient is None or not needed[number]:
            continue
        node = network.nodes[number - 1]
        for i, made in zip(node.inputs, pulls[number - 1](gradient), strict=False):
            if needed[i]:
                waiting[i] = made if i not in waiting else graph.add(waiting[i], made)
    graph.output("loss", measured.loss)
    graph.output("correct", measured.correct)
    for parameter in network.parameters:
        prefix, found = (
            (names.GRADIENT, run.gradients) if parameter.trainable else (names.STATISTIC, run.statistics)
        )
        if parameter.name not in found:
            raise ModelError(f"parameter {parameter.name!r} has no influence on the loss")
        graph.output(prefix + parameter.name, graph.reshape(found[parameter.name], parameter.value.shape))


def _needs_gradient(network: Network) -> list[bool]:
    """Whether something that is trained lies at or before each node, the input first."""
    trained = {p.name.rpartition("/")[0] for p in network.parameters if p.trainable}
    needed = [False]
    for node in network.nodes:
        needed.append(node.name in trained or any(needed[i] for i in node.inputs))
    return needed


def _evaluate(graph: GraphWriter, network: Network, batch: int) -> None:
    run, x, y = _begin(graph, network, batch, training=False)
    values = [x]
    for node in network.nodes:
        values.append(node.layer.learn(run, node.name, [values[i] for i in node.inputs], False)[0])
    measured = measure(graph, network.loss, values[-1], y, run.weight)
    graph.output("loss", measured.loss)
    graph.output("correct", measured.correct)


def _initial(graph: GraphWriter, network: Network, description: Description) -> None:
    for parameter in network.parameters:
        graph.output(names.PARAMETER + parameter.name, graph.const(parameter.value, name=parameter.name))
    graph.output("description", graph.const(description.encode(), "uint8", "description"))


def describe(network: Network, batch: int, step_bytes: int) -> Description:
    """What the file says of itself."""
    shapes = network.shapes()
    return Description(
        format=names.FORMAT,
        loss=network.loss,
        batch_size=batch,
        input_shape=network.input_shape,
        output_shape=shapes[-1],
        weights=tuple(Weight(p.name, p.value.shape, p.trainable) for p in network.parameters),
        dropout={
            node.name: DropoutMask(node.layer.rate, shapes[number])
            for number, node in enumerate(network.nodes, 1)
            if isinstance(node.layer, Dropout)
        },
        step_bytes=step_bytes,
    )
