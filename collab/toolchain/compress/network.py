"""A functional Keras model as plain nodes with weights, to be changed and built anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collab.errors import ModelError

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Ref:
    """One output of a node."""

    node: str
    index: int = 0


@dataclass(frozen=True)
class Node:
    """A layer, or an operation on tensors, and where its arguments come from."""

    name: str
    kind: str
    """The name of its class."""
    cls: type = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    args: tuple[Any, ...]
    """Of the call; tensors are `Ref`, also within lists."""
    kwargs: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    """Of the outputs, without the batch."""
    weights: tuple[tuple[str, Array], ...] = field(default=(), repr=False)

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """Every tensor that it reads, in order."""
        return tuple(refs_in([list(self.args), dict(self.kwargs)]))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first output, without the batch."""
        return self.shapes[0]

    def weight(self, name: str) -> Array | None:
        """One of its weights, None where it has none of that name."""
        return dict(self.weights).get(name)

    def with_weights(self, **changed: Array) -> Node:
        """The same with some weights replaced, or added at the end."""
        return replace(self, weights=tuple({**dict(self.weights), **changed}.items()))

    def with_config(self, **changed: Any) -> Node:
        """The same with some settings replaced."""
        return replace(self, config={**self.config, **changed})


@dataclass(frozen=True)
class Network:
    """Nodes in an order in which each reads earlier ones only."""

    nodes: tuple[Node, ...]
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]

    def node(self, name: str) -> Node:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def readers(self, name: str) -> tuple[Node, ...]:
        """Nodes that read a node."""
        return tuple(node for node in self.nodes if any(ref.node == name for ref in node.inputs))

    def changed(self, nodes: Mapping[str, Node]) -> Network:
        """The same with some nodes replaced."""
        return replace(self, nodes=tuple(nodes.get(node.name, node) for node in self.nodes))

    def without(self, name: str, instead: Ref) -> Network:
        """The same without a node; those that read it read another output."""
        kept = tuple(
            replace(
                node, args=_swapped(node.args, name, instead), kwargs=_swapped(node.kwargs, name, instead)
            )
            for node in self.nodes
            if node.name != name
        )
        return replace(self, nodes=kept, outputs=tuple(_swapped(self.outputs, name, instead)))

    def reachable(self) -> Network:
        """The same without nodes that no output needs."""
        by_name = {node.name: node for node in self.nodes}
        needed: set[str] = set()
        todo = [ref.node for ref in (*self.outputs, *self.inputs)]
        while todo:
            name = todo.pop()
            if name not in needed:
                needed.add(name)
                todo += [ref.node for ref in by_name[name].inputs]
        return replace(self, nodes=tuple(node for node in self.nodes if node.name in needed))

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return sum(value.size for node in self.nodes for _, value in node.weights)


def refs_in(value: Any) -> Iterator[Ref]:
    """Every `Ref` in nested lists, tuples and dicts."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from refs_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from refs_in(item)


def mapped(value: Any, found: Callable[[Ref], Any]) -> Any:
    """The same nested value with every `Ref` replaced."""
    if isinstance(value, Ref):
        return found(value)
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(item, found) for item in value)
    if isinstance(value, Mapping):
        return {key: mapped(item, found) for key, item in value.items()}
    return value


def _swapped(value: Any, name: str, instead: Ref) -> Any:
    return mapped(value, lambda ref: instead if ref.node == name else ref)


def read(model: Any) -> Network:
    """The network of a functional Keras 3 model.

    Raises:
        ModelError: It is no functional model, shares a layer, or holds models within models.
    """
    operations: Sequence[Any] = getattr(model, "operations", None) or ()
    if not operations:
        raise ModelError(f"model {model.name}: is not functional; build it by keras.Model(inputs, outputs)")
    inside = {id(operation) for operation in operations}
    nodes = tuple(_node(operation, inside) for operation in operations)
    return Network(nodes, tuple(map(_ref, model.inputs)), tuple(map(_ref, model.outputs)))


def _ref(tensor: Any) -> Ref:
    history = tensor._keras_history
    return Ref(history.operation.name, history.tensor_index)


def _node(operation: Any, inside: set[int]) -> Node:
    from keras import KerasTensor, Model

    if isinstance(operation, Model):
        raise ModelError(f"layer {operation.name}: is a model of its own; compress it by itself")
    if len(operation._inbound_nodes) != 1:
        raise ModelError(f"layer {operation.name}: is used more than once; give each use a layer of its own")
    (call,) = operation._inbound_nodes

    def taken(value: Any) -> Any:
        if isinstance(value, KerasTensor):
            return _ref(value)
        if isinstance(value, (list, tuple)):
            return type(value)(taken(item) for item in value)
        return value

    variables = getattr(operation, "weights", ())
    weights = [(variable.name, np.asarray(variable)) for variable in variables]
    return Node(
        operation.name,
        type(operation).__name__,
        type(operation),
        operation.get_config(),
        tuple(taken(value) for value in call.arguments.args),
        {key: taken(value) for key, value in call.arguments.kwargs.items() if value is not None},
        tuple(tuple(tensor.shape[1:]) for tensor in call.outputs),
        tuple(weights),
    )


def build(network: Network, name: str = "model") -> Any:
    """The Keras 3 model of a network, its weights set.

    Raises:
        ModelError: A node does not take what it is given.
    """
    import keras

    layers: dict[str, Any] = {}
    made: dict[str, list[Any]] = {}
    for node in network.nodes:
        if node.kind == "InputLayer":
            tensor = keras.Input(batch_shape=(None, *node.shape), name=node.name, dtype=node.config["dtype"])
            made[node.name] = [tensor]
            continue
        try:
            layers[node.name] = node.cls.from_config(dict(node.config))  # type: ignore[attr-defined]
            args = mapped(node.args, lambda ref: made[ref.node][ref.index])
            kwargs = mapped(dict(node.kwargs), lambda ref: made[ref.node][ref.index])
            out = layers[node.name](*args, **kwargs)
        except (ValueError, TypeError) as error:
            raise ModelError(f"layer {node.name}: {' '.join(str(error).split())[:200]}") from error
        made[node.name] = list(out) if isinstance(out, (list, tuple)) else [out]
    ends = [[made[ref.node][ref.index] for ref in refs] for refs in (network.inputs, network.outputs)]
    model = keras.Model(*(refs[0] if len(refs) == 1 else refs for refs in ends), name=name)
    for node in network.nodes:
        if node.weights:
            layers[node.name].set_weights([value for _, value in node.weights])
    return model
