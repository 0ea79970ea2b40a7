"""What a trainable model is made of: layers as plain records, in the order in which they run.

Tensors of images are ``[height, channels, width, batch]`` while training: then a shift along the rows is
one run of memory, one along the columns moves runs of whole lines, and none of the three products of a
convolution needs a transposition.  Others are ``[batch, features]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from collab.federated.trainable import Loss
from collab.toolchain.trainable.writer import GraphWriter, Ref, Shape

Pull = Callable[[Ref], Sequence[Ref]]
"""From the gradient of a layer's output to those of its inputs, in their order."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A weight, or a statistic that batches leave behind, with its first value."""

    name: str
    value: NDArray[np.float32] = field(repr=False)
    trainable: bool = True


@dataclass(slots=True)
class Pass:
    """One pass through the layers: the graph that is written, and what it has found.

    Attributes:
        graph: where operators go.
        parameters: parameters by name.
        weight: weight of each example ``[batch]``; 0 where a batch is not full.
        training: whether batches make statistics and dropout drops.
        gradients: gradients by the name of the parameter.
        statistics: new values of statistics.
        masks: what scales the inputs of dropout layers, by the name of the layer.
    """

    graph: GraphWriter
    parameters: Mapping[str, Ref]
    weight: Ref
    training: bool
    gradients: dict[str, Ref] = field(default_factory=dict)
    statistics: dict[str, Ref] = field(default_factory=dict)
    masks: dict[str, Ref] = field(default_factory=dict)


class Layer(Protocol):
    """A kind of layer with its settings.  Shapes leave the batch out and end in the channels."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """Write the layer as it is trained.

        Args:
            run: the pass.
            name: the layer's.
            inputs: what it reads.
            wanted: whether its inputs need gradients; if not, the pull may return none.
        """


class Plain(Layer, Protocol):
    """A layer that runs as it stands."""

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """Write the layer as it runs later: one image ``[1, height, width, channels]``."""


@runtime_checkable
class Product(Layer, Protocol):
    """A product with a kernel, which takes along what follows it when it runs."""

    def arrange(self, graph: GraphWriter, kernel: Ref, factor: Ref | None) -> Ref:
        """The kernel in the order that its operator wants, each channel it makes times a factor."""

    def product(self, graph: GraphWriter, x: Ref, kernel: Ref, bias: Ref | None, fused: int = 0) -> Ref:
        """Write the operator as it runs later, with an arranged kernel and a fused activation."""


@dataclass(frozen=True, slots=True)
class Node:
    """A layer at its place; `inputs` are numbers of nodes before it, 0 is the model's input."""

    name: str
    layer: Plain | Product
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """A model: node k of `nodes` has the number k + 1, and the last one is the output."""

    input_shape: Shape
    nodes: tuple[Node, ...]
    parameters: tuple[Parameter, ...]
    loss: Loss = "cross_entropy"

    def shapes(self) -> list[Shape]:
        """Shape of one example at the input and behind each node."""
        found = [self.input_shape]
        for node in self.nodes:
            found.append(node.layer.shape([found[i] for i in node.inputs]))
        return found

    def readers(self) -> list[list[int]]:
        """Numbers of the nodes that read each node, the input first."""
        found: list[list[int]] = [[] for _ in range(len(self.nodes) + 1)]
        for number, node in enumerate(self.nodes, 1):
            for i in node.inputs:
                found[i].append(number)
        return found
