"""The network as it runs later: native operators, normalisation and activations folded into them."""

from __future__ import annotations

from collections.abc import Mapping

from collab.toolchain.trainable.network import Network, Plain, Product
from collab.toolchain.trainable.normalisation import BatchNorm
from collab.toolchain.trainable.plain import Activation
from collab.toolchain.trainable.writer import GraphWriter, Ref


def write_inference(graph: GraphWriter, network: Network, parameters: Mapping[str, Ref], x: Ref) -> Ref:
    """Write it and return its output.

    What only depends on parameters becomes constant once they are: `bake` evaluates it, so that
    a normalisation behind a convolution costs nothing.
    """
    readers = network.readers()
    values: dict[int, Ref] = {0: x}
    for number, node in enumerate(network.nodes, 1):
        if number in values:  # taken along by the operator before it
            continue
        inputs = [values[i] for i in node.inputs]
        if isinstance(node.layer, Product):
            last, made = _product(graph, network, parameters, number, node.layer, inputs[0], readers)
            values.update(dict.fromkeys(range(number, last + 1), made))
        else:
            values[number] = node.layer.infer(graph, parameters, node.name, inputs)
    return values[len(network.nodes)]


def _product(
    graph: GraphWriter,
    network: Network,
    parameters: Mapping[str, Ref],
    number: int,
    layer: Product,
    x: Ref,
    readers: list[list[int]],
) -> tuple[int, Ref]:
    """Write a product with what follows it; number of the last node that it stands for."""

    def follower() -> Plain | Product | None:
        """The next layer, if it alone reads this one and comes right behind it."""
        return network.nodes[last].layer if readers[last] == [last + 1] else None

    last, name = number, network.nodes[number - 1].name
    bias, factor = parameters.get(f"{name}/bias"), None
    after = follower()
    if isinstance(after, BatchNorm):
        factor, offset = after.line(graph, parameters, network.nodes[last].name)
        bias = offset if bias is None else graph.add(graph.mul(bias, factor), offset)
        last += 1
        after = follower()
    fused = 0
    if isinstance(after, Activation) and after.fused is not None:
        fused = after.fused
        last += 1
    kernel = layer.arrange(graph, parameters[f"{name}/kernel"], factor)
    return last, layer.product(graph, x, kernel, bias, fused)
