"""Small models, one for each kind of layer, and what goes in: for gradients beside TensorFlow's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from collab.toolchain.trainable.convolution import Conv2D, DepthwiseConv2D
from collab.toolchain.trainable.network import Network, Node, Parameter
from collab.toolchain.trainable.normalisation import BatchNorm, GroupNorm
from collab.toolchain.trainable.plain import Activation, Add, Concatenate, Dense, Dropout, Flatten, Softmax
from collab.toolchain.trainable.pooling import GlobalAverage, Pool2D

BATCH = 4
CLASSES = 5
IMAGE = (6, 6, 3)

RELU = Activation("relu")
SAME = Conv2D(4, (3, 3), same=True)
HEAD = (Flatten(), Dense(CLASSES))


@dataclass(frozen=True)
class Case:
    """A model and how it is trained."""

    layers: tuple[Any, ...]
    shape: tuple[int, ...] = IMAGE
    loss: str = "cross_entropy"
    missing: int = 0
    """Examples that are not there in the only batch."""


CASES: Mapping[str, Case] = {
    "dense": Case((Dense(7), RELU, Dense(CLASSES)), (6,)),
    "dense without bias, not a full batch": Case(
        (Dense(7, bias=False), RELU, Dense(CLASSES)), (6,), missing=1
    ),
    "softmax at the end": Case((Dense(7), Activation("relu6"), Dense(CLASSES), Softmax()), (6,)),
    "mean squared error": Case((Dense(7), Activation("tanh"), Dense(CLASSES)), (6,), "mean_squared_error"),
    "mean squared error, not a full batch": Case((Dense(CLASSES),), (6,), "mean_squared_error", missing=2),
    "convolutions": Case((SAME, RELU, Conv2D(4, (3, 3)), *HEAD)),
    "strides, padded": Case((SAME, Conv2D(4, (3, 3), (2, 2), same=True), *HEAD)),
    "strides that leave pixels out": Case((SAME, Conv2D(4, (2, 2), (3, 3)), *HEAD)),
    "one by one": Case((Conv2D(4, (1, 1)), Conv2D(4, (1, 1), bias=False), Conv2D(4, (1, 1), (2, 2)), *HEAD)),
    "uneven windows": Case((Conv2D(4, (5, 3), same=True), Conv2D(4, (2, 3), (2, 1)), *HEAD)),
    "more filters than taps of a row": Case(
        (SAME, Conv2D(12, (3, 3), same=True), GlobalAverage(), Dense(CLASSES))
    ),
    "windows larger than the image": Case(
        (
            *(SAME, Pool2D(True, (3, 3), (3, 3)), Conv2D(4, (5, 5), same=True)),
            *(Conv2D(20, (5, 5), same=True), DepthwiseConv2D((5, 5), same=True), *HEAD),
        )
    ),
    "depthwise": Case(
        (DepthwiseConv2D((3, 3), same=True), DepthwiseConv2D((3, 3), (2, 2), same=True), *HEAD)
    ),
    "largest": Case((SAME, RELU, Pool2D(True, (2, 2), (2, 2)), *HEAD)),
    "largest, overlapping": Case((SAME, Pool2D(True, (3, 3), (2, 2), same=True), *HEAD)),
    "largest, some left out": Case((SAME, Pool2D(True, (4, 4), (4, 4)), *HEAD)),
    "largest, padded": Case((SAME, Pool2D(True, (4, 4), (4, 4), same=True), *HEAD)),
    "mean": Case((SAME, Pool2D(False, (2, 2), (2, 2)), *HEAD)),
    "mean, overlapping": Case((SAME, Pool2D(False, (3, 3), (2, 2), same=True), *HEAD)),
    "mean of all": Case((SAME, GlobalAverage(), Dense(CLASSES))),
    "batch normalisation": Case((Conv2D(4, (3, 3), bias=False), BatchNorm(0.9), RELU, *HEAD)),
    "batch normalisation, not a full batch": Case((Conv2D(4, (3, 3)), BatchNorm(0.9), *HEAD), missing=2),
    "batch normalisation of features": Case(
        (Dense(6), BatchNorm(), Activation("leaky_relu", 0.25), Dense(CLASSES)), (6,)
    ),
    "batch normalisation first": Case((BatchNorm(scale=False), *HEAD)),
    "batch normalisation of channels": Case(
        (DepthwiseConv2D((3, 3)), BatchNorm(center=False), Activation("hard_silu"), *HEAD)
    ),
    "group normalisation": Case((Conv2D(6, (3, 3)), GroupNorm(3), Activation("leaky_relu", 0.1), *HEAD)),
    "other activations": Case(
        (Conv2D(6, (3, 3)), Activation("hard_sigmoid"), Conv2D(3, (3, 3)), Activation("sigmoid"), *HEAD)
    ),
}


def network(case: Case) -> Network:
    """The case's layers one behind another, with weights that are nowhere zero or one."""
    rng = np.random.default_rng(11)
    nodes, parameters, shape = [], [], case.shape
    for number, layer in enumerate(case.layers):
        name = f"layer{number}"
        nodes.append(Node(name, layer, (number,)))
        for key, size in _weights(layer, shape).items():
            low = -0.6 if key == "kernel" else 0.3
            value = (low + (0.6 - low + 0.6 * (key != "kernel")) * rng.random(size)).astype(np.float32)
            parameters.append(Parameter(f"{name}/{key}", value, not key.startswith("moving_")))
        shape = layer.shape([shape])
    return Network(case.shape, tuple(nodes), tuple(parameters), case.loss)


def branching() -> Network:
    """A sum and a join: both pass gradients to several layers."""
    straight = network(Case((SAME, RELU, SAME.__class__(4, (3, 3), same=True))))
    rng = np.random.default_rng(12)
    nodes = (
        *straight.nodes,
        Node("sum", Add(), (2, 3)),
        Node("join", Concatenate(), (4, 2)),
        Node("mean", GlobalAverage(), (5,)),
        Node("head", Dense(CLASSES), (6,)),
    )
    head = (
        Parameter("head/kernel", rng.random((8, CLASSES)).astype(np.float32)),
        Parameter("head/bias", np.zeros(CLASSES, np.float32)),
    )
    return Network(IMAGE, nodes, (*straight.parameters, *head))


def with_dropout() -> Network:
    """Dropout between two dense layers, and of an image."""
    return network(Case((SAME, Dropout(0.5), *HEAD)))


def _weights(layer: Any, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a layer's parameters, in Keras' order."""
    made = layer.shape([shape])[-1:]
    found: dict[str, tuple[int, ...]] = {}
    if isinstance(layer, Dense):
        found["kernel"] = (shape[0], layer.units)
    elif isinstance(layer, Conv2D):
        found["kernel"] = (*layer.size, shape[2], layer.filters)
    elif isinstance(layer, DepthwiseConv2D):
        found["kernel"] = (*layer.size, shape[2], 1)
    if found and layer.bias:
        found["bias"] = made
    if isinstance(layer, BatchNorm | GroupNorm):
        found |= {"gamma": made} if layer.scale else {}
        found |= {"beta": made} if layer.center else {}
    if isinstance(layer, BatchNorm):
        found |= {"moving_mean": made, "moving_variance": made}
    return found


def batch(case: Case) -> dict[str, Any]:
    """Inputs, labels and weights; a part of each image is flat, so that windows have ties."""
    rng = np.random.default_rng(13)
    x = (2 * rng.random((BATCH, *case.shape)) - 1).astype(np.float32)
    x[:, :3] = 0.5
    if case.loss == "cross_entropy":
        y = np.arange(BATCH, dtype=np.int32) % CLASSES
    else:
        y = rng.random((BATCH, CLASSES)).astype(np.float32)
    weight = np.zeros(BATCH, np.float32)
    real = BATCH - case.missing
    weight[:real] = 1 / real
    return {"x": x, "y": y, "weight": weight}
