"""Smaller networks of the same build: fewer layers, other widths, fresh weights."""

from __future__ import annotations

import numpy as np

from collab.toolchain.compress.channels import is_maker, trace
from collab.toolchain.compress.importance import MULTIPLE, kept_of
from collab.toolchain.compress.network import Network, Node, Ref

_NEUTRAL = frozenset({"BatchNormalization", "ReLU", "Activation", "LeakyReLU", "Dropout"})


def student_of(network: Network, width: float, depth: float) -> Network:
    """The network with ``depth`` of the layers that can be left out, and ``width`` times the channels.

    Depth goes into width where ``depth`` is below and ``width`` above 1.  Left out are, from the
    last one on, residual branches and layers that take and give the same shape.  Weights are
    gone: build it and train.
    """
    return _wider(_shallower(network, depth), width)


def _shallower(network: Network, depth: float) -> Network:
    optional = [node.name for node in network.nodes if _way_around(network, node) is not None]
    for name in reversed(optional[round(len(optional) * depth) :]):
        around = _way_around(network, network.node(name))
        if around is not None:
            for each in (name, *_behind(network, name)):
                network = network.without(each, around)
            network = network.reachable()
    return network


def _behind(network: Network, name: str) -> list[str]:
    """Norms and activations right behind a layer, which go with it; none behind an addition."""
    found: list[str] = []
    current = name
    while network.node(name).kind != "Add":
        readers = network.readers(current)
        if len(readers) != 1 or readers[0].kind not in _NEUTRAL:
            break
        current = readers[0].name
        found.append(current)
    return found


def _way_around(network: Network, node: Node) -> Ref | None:
    """What readers of a node can read instead, of the same shape; None where it is needed."""
    if node.kind == "Add" and len(node.inputs) == 2:
        # The branch is what came later; the shortcut is what the branch came from.
        order = [each.name for each in network.nodes]
        first, second = sorted(node.inputs, key=lambda ref: order.index(ref.node))
        return first if _comes_from(network, second, first) else None
    if not is_maker(node) or node.shape != _given(network, node):
        return None
    branch = any(each.kind in ("Add", "Multiply") for each in network.readers(node.name))
    return None if branch or any(ref.node == node.name for ref in network.outputs) else node.inputs[0]


def _given(network: Network, node: Node) -> tuple[int, ...]:
    ref = node.inputs[0]
    return network.node(ref.node).shapes[ref.index]


def _comes_from(network: Network, one: Ref, source: Ref) -> bool:
    todo, seen = [one], set()
    while todo:
        ref = todo.pop()
        if ref == source:
            return True
        if ref not in seen:
            seen.add(ref)
            todo += network.node(ref.node).inputs
    return False


def _wider(network: Network, width: float) -> Network:
    """Every width that is free, times a factor; Keras infers the rest when it is built."""
    channels = trace(network)
    free = {
        node.name
        for node in network.nodes
        if is_maker(node) and channels.fixed.isdisjoint(channels.of[Ref(node.name)].tolist())
    }
    changed: dict[str, Node] = {}
    for node in network.nodes:
        if node.name in free:
            key = "units" if node.kind == "Dense" else "filters"
            node = node.with_config(**{key: _width(node.config[key], width)})
        elif node.kind == "Reshape" and np.any(channels.of[Ref(node.name)]):
            node = node.with_config(target_shape=(*node.config["target_shape"][:-1], -1))
        changed[node.name] = Node(
            node.name, node.kind, node.cls, node.config, node.args, node.kwargs, node.shapes
        )
    return network.changed(changed)


def _width(count: int, width: float) -> int:
    return kept_of(count, width) if width <= 1 else MULTIPLE * max(1, round(count * width / MULTIPLE))
