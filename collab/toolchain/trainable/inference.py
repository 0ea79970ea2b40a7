"""The network as it runs later: native operators, normalisation and activations folded into them."""

from __future__ import annotations

from collections.abc import Mapping

from collab.toolchain.trainable.convolution import Conv2D, DepthwiseConv2D
from collab.toolchain.trainable.network import Network, Node
from collab.toolchain.trainable.normalisation import BatchNorm
from collab.toolchain.trainable.plain import Activation, Dense
from collab.toolchain.trainable.writer import GraphWriter, Ref


def write_inference(graph: GraphWriter, network: Network, parameters: Mapping[str, Ref], x: Ref) -> Ref:
    """Write it and return its output.

    What only depends on parameters becomes constant once they are: `bake` evaluates it, so that
    a normalisation behind a convolution costs nothing.
    """
    readers = _readers(network)
    values: dict[int, Ref] = {0: x}
    for number, node in enumerate(network.nodes, 1):
        if number in values:  # taken along by the operator before it
            continue
        inputs = [values[i] for i in node.inputs]
        if isinstance(node.layer, Dense | Conv2D | DepthwiseConv2D):
            last, made = _product(graph, network, parameters, number, inputs[0], readers)
            values.update(dict.fromkeys(range(number, last + 1), made))
        else:
            values[number] = node.layer.infer(graph, parameters, node.name, inputs)
    return values[len(network.nodes)]


def _readers(network: Network) -> list[list[int]]:
    """Numbers of the nodes that read each node, the input first."""
    readers: list[list[int]] = [[] for _ in range(len(network.nodes) + 1)]
    for number, node in enumerate(network.nodes, 1):
        for i in node.inputs:
            readers[i].append(number)
    return readers


def _product(
    graph: GraphWriter,
    network: Network,
    parameters: Mapping[str, Ref],
    number: int,
    x: Ref,
    readers: list[list[int]],
) -> tuple[int, Ref]:
    """Write a dense layer or a convolution with what follows it; the last node it stands for."""

    def follower() -> Node | None:
        """The next node, if it is the only one that reads this one and comes right behind it."""
        return network.nodes[last] if readers[last] == [last + 1] else None

    last, node = number, network.nodes[number - 1]
    layer = node.layer
    assert isinstance(layer, Dense | Conv2D | DepthwiseConv2D)
    kernel = parameters[f"{node.name}/kernel"]
    bias = parameters.get(f"{node.name}/bias")
    # The channels that the layer makes, along the last axis.
    channels = kernel.shape[2] if isinstance(layer, DepthwiseConv2D) else kernel.shape[-1]
    if isinstance(layer, DepthwiseConv2D):
        kernel = graph.reshape(kernel, (1, *layer.size, channels))
    after = follower()
    if after is not None and isinstance(after.layer, BatchNorm):
        factor, offset = after.layer.line(graph, parameters, after.name)
        kernel = graph.mul(kernel, factor)
        bias = offset if bias is None else graph.add(graph.mul(bias, factor), offset)
        last += 1
        after = follower()
    fused = 0
    if after is not None and isinstance(after.layer, Activation) and after.layer.fused is not None:
        fused = after.layer.fused
        last += 1
    if isinstance(layer, Conv2D):
        kernel = graph.transpose(kernel, (3, 0, 1, 2))
    elif isinstance(layer, Dense):
        kernel = graph.transpose(kernel, (1, 0))
    return last, layer.product(graph, x, kernel, bias, fused)
