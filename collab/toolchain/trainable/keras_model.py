"""A Keras model -> a network; whatever cannot be trained on a device is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from collab.errors import ModelError
from collab.federated.trainable import Loss
from collab.toolchain.trainable.convolution import Conv2D, DepthwiseConv2D
from collab.toolchain.trainable.network import Network, Node, Parameter, Plain, Product
from collab.toolchain.trainable.normalisation import BatchNorm, GroupNorm
from collab.toolchain.trainable.plain import (
    Activation,
    Add,
    Concatenate,
    Dense,
    Dropout,
    Flatten,
    Kind,
    Softmax,
)
from collab.toolchain.trainable.pooling import GlobalAverage, Pool2D
from collab.toolchain.trainable.writer import Shape

ACTIVATIONS: Final = (
    "relu",
    "relu6",
    "leaky_relu",
    "hard_sigmoid",
    "hard_silu",
    "sigmoid",
    "tanh",
    "softmax at the end",
)


_SIMPLE: Final[Mapping[str, Kind]] = {
    "relu": "relu",
    "relu6": "relu6",
    "hard_sigmoid": "hard_sigmoid",
    "hard_silu": "hard_silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}


def read_keras(model: Any, loss: Loss | None = None) -> Network:
    """Take a built Keras 3 model apart, a functional or sequential one with one input and one output.

    Args:
        model: the model.
        loss: cross-entropy without it.

    Raises:
        ModelError: a layer or a setting cannot be trained on a device; names it and those that can.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"the model has {len(model.inputs)} inputs and {len(model.outputs)} outputs: give one of each"
        )
    shape = tuple(model.inputs[0].shape[1:])
    if len(shape) not in (1, 3) or any(d is None for d in shape):
        raise ModelError(f"the input has shape {shape}: it must be (features,) or (height, width, channels)")
    reader = _Reader(loss or "cross_entropy")
    reader.place(model.inputs[0], 0)
    # A sequential model keeps a functional one inside.
    graph = getattr(model, "_functional", None) or model
    uses = {id(node) for nodes in graph._nodes_by_depth.values() for node in nodes}
    for operation in graph.operations:
        if type(operation).__name__ != "InputLayer":
            # One that came from a file was called while it was made as well.
            reader.read(operation, [node for node in operation._inbound_nodes if id(node) in uses])
    return reader.finish(model.outputs[0], shape)


@dataclass
class _Reader:
    loss: Loss
    nodes: list[Node] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    values: dict[int, int] = field(default_factory=dict)
    """Number of the node by the identity of Keras' tensor."""
    shapes: dict[str, Shape] = field(default_factory=dict)

    def place(self, tensor: Any, number: int) -> None:
        self.values[id(tensor)] = number

    def read(self, layer: Any, uses: list[Any]) -> None:
        kind = type(layer).__name__
        if kind not in KINDS:
            raise ModelError(
                f"layer {layer.name!r} is a {kind}, which cannot be trained on a device: {_known()}"
            )
        if len(uses) != 1:
            raise ModelError(f"layer {layer.name!r} is used {len(uses)} times: use a copy each time")
        (node,) = uses
        inputs = tuple(self.values[id(tensor)] for tensor in node.input_tensors)
        try:
            made, activation = KINDS[kind](layer)
        except ModelError as error:
            raise ModelError(f"layer {layer.name!r}: {error}") from error
        number = inputs[0]
        if made is not None:
            number = self.add(layer.name, made, inputs)
        weights = [variable for variable in layer.weights if "seed_generator" not in variable.path]
        if weights and not layer.trainable:
            raise ModelError(f"layer {layer.name!r} is frozen: set trainable = True, all weights are trained")
        for variable in weights:
            name = variable.path.rsplit("/", 1)[-1]
            value = np.asarray(variable, np.float32)
            self.parameters.append(Parameter(f"{layer.name}/{name}", value, not name.startswith("moving_")))
        if activation is not None:
            name = layer.name if made is None else f"{layer.name}/activation"
            number = self.add(name, activation, (number,))
        self.place(node.output_tensors[0], number)

    def add(self, name: str, layer: Plain | Product, inputs: tuple[int, ...]) -> int:
        self.nodes.append(Node(name, layer, inputs))
        return len(self.nodes)

    def finish(self, output: Any, shape: Shape) -> Network:
        if self.values[id(output)] != len(self.nodes):
            raise ModelError("the output is not the last layer: remove layers that lead nowhere")
        for node in self.nodes[:-1]:
            if isinstance(node.layer, Softmax):
                raise ModelError(f"layer {node.name!r}: softmax works at the end only")
        if self.nodes and isinstance(self.nodes[-1].layer, Softmax) and self.loss != "cross_entropy":
            raise ModelError("a model that ends in softmax is trained by cross_entropy")
        network = Network(shape, tuple(self.nodes), tuple(self.parameters), self.loss)
        if len(network.shapes()[-1]) != 1:
            raise ModelError("the output must be (classes,) or (features,): flatten it or average it first")
        return network


_Made = tuple[Plain | Product | None, Plain | None]


def _known() -> str:
    return f"those that can are {', '.join(sorted(KINDS))}, with {', '.join(ACTIVATIONS)}"


def _activation(function: Any) -> Plain | None:
    name = getattr(function, "__name__", type(function).__name__)
    if name == "linear":
        return None
    if name == "softmax":
        return Softmax()
    if name == "leaky_relu":
        return Activation("leaky_relu", 0.2)  # the default of keras.activations
    if name in _SIMPLE:
        return Activation(_SIMPLE[name])
    raise ModelError(
        f"activation {name!r} cannot be trained on a device: use one of {', '.join(ACTIVATIONS)}"
    )


def _demand(layer: Any, **wanted: Any) -> None:
    """Refuse settings other than those given."""
    for name, value in wanted.items():
        found = getattr(layer, name, value)
        if isinstance(found, list):
            found = tuple(found)
        if found != value:
            raise ModelError(f"{name}={found!r} does not work, {value!r} does")


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _same(layer: Any) -> bool:
    if layer.padding not in ("same", "valid"):
        raise ModelError(f"padding={layer.padding!r} does not work, 'same' and 'valid' do")
    return bool(layer.padding == "same")


def _dense(layer: Any) -> _Made:
    if len(layer.input.shape) != 2:
        raise ModelError("its input must be (features,): put Flatten before it")
    return Dense(layer.units, layer.use_bias), _activation(layer.activation)


def _conv(layer: Any) -> _Made:
    _demand(layer, data_format="channels_last", dilation_rate=(1, 1), groups=1)
    made = Conv2D(layer.filters, _pair(layer.kernel_size), _pair(layer.strides), _same(layer), layer.use_bias)
    return made, _activation(layer.activation)


def _depthwise(layer: Any) -> _Made:
    _demand(layer, data_format="channels_last", dilation_rate=(1, 1), depth_multiplier=1)
    made = DepthwiseConv2D(_pair(layer.kernel_size), _pair(layer.strides), _same(layer), layer.use_bias)
    return made, _activation(layer.activation)


def _pool(largest: bool) -> Callable[[Any], _Made]:
    def make(layer: Any) -> _Made:
        _demand(layer, data_format="channels_last")
        return Pool2D(largest, _pair(layer.pool_size), _pair(layer.strides), _same(layer)), None

    return make


def _global(layer: Any) -> _Made:
    _demand(layer, data_format="channels_last", keepdims=False)
    return GlobalAverage(), None


def _batch(layer: Any) -> _Made:
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    if axis not in (-1, len(layer.input.shape) - 1):
        raise ModelError(f"axis={axis} does not work, the last one does")
    _demand(layer, renorm=False)
    return BatchNorm(layer.momentum, layer.epsilon, layer.scale, layer.center), None


def _group(layer: Any) -> _Made:
    _demand(layer, axis=-1)
    if len(layer.input.shape) != 4:
        raise ModelError("group normalisation works on images only")
    channels = layer.input.shape[-1]
    groups = channels if layer.groups == -1 else layer.groups
    return GroupNorm(groups, layer.epsilon, layer.scale, layer.center), None


def _relu(layer: Any) -> _Made:
    if layer.threshold:
        raise ModelError(f"threshold={layer.threshold} does not work, 0 does")
    ceiling, slope = layer.max_value, float(layer.negative_slope or 0.0)
    if ceiling is None:
        return None, Activation("leaky_relu", slope) if slope else Activation("relu")
    if ceiling == 6 and not slope:
        return None, Activation("relu6")
    raise ModelError(f"max_value={ceiling} with negative_slope={slope} does not work, 6 without a slope does")


def _leaky(layer: Any) -> _Made:
    return None, Activation("leaky_relu", float(layer.negative_slope))


KINDS: Final[Mapping[str, Callable[[Any], _Made]]] = {
    "Dense": _dense,
    "Conv2D": _conv,
    "DepthwiseConv2D": _depthwise,
    "MaxPooling2D": _pool(True),
    "AveragePooling2D": _pool(False),
    "GlobalAveragePooling2D": _global,
    "BatchNormalization": _batch,
    "GroupNormalization": _group,
    "Activation": lambda layer: (None, _activation(layer.activation)),
    "ReLU": _relu,
    "LeakyReLU": _leaky,
    "Softmax": lambda layer: (None, Softmax()),
    "Dropout": lambda layer: (Dropout(float(layer.rate)), None),
    "Flatten": lambda layer: (Flatten(), None),
    "Add": lambda layer: (Add(), None),
    "Concatenate": lambda layer: (Concatenate(), None),
}
"""Kinds of Keras layers by class name: what each becomes, and the activation behind it."""
