"""Taking channels out of a network, their outgoing weights dropped or handed to another channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.toolchain.compress.channels import Channels, Ids, is_maker, keeps_channels
from collab.toolchain.compress.network import Array, Network, Node, Ref

Merged = Mapping[int, tuple[int, float]]
"""Classes that go, with the class that takes over and how much of it each was."""

_NONE: Final[Merged] = {}
_OUT: Final = {"kernel": -1, "bias": -1, "pointwise_kernel": -1}
_IN: Final = {"kernel": -2, "depthwise_kernel": -2, "pointwise_kernel": -2}


def take_out(network: Network, channels: Channels, gone: frozenset[int], merged: Merged = _NONE) -> Network:
    """The network without some classes of channels.

    Args:
        channels: of this network.
        gone: classes, none of them fixed.
        merged: of those that go, which kept class takes over: what they gave is added to it.

    Returns:
        A network of the same inputs and outputs; every layer has its remaining weights.
    """
    kept_everywhere = {ref: _kept(ids, gone) for ref, ids in channels.of.items()}
    changed: dict[str, Node] = {}
    for node in network.nodes:
        keeps = kept_everywhere[Ref(node.name)]
        shape = (*node.shape[:-1], int(keeps.sum())) if node.shape else node.shape
        if is_maker(node):
            given = channels.of[node.inputs[0]]
            changed[node.name] = _maker(node, given, _kept(given, gone), keeps, merged)
        elif keeps.all():
            continue
        elif node.weights and keeps_channels(node):
            changed[node.name] = _sliced(node, keeps)
        elif node.kind == "Reshape":
            target = [*node.config["target_shape"][:-1], shape[-1]]
            changed[node.name] = node.with_config(target_shape=tuple(target))
    return network.changed(changed)


def _kept(ids: Ids, gone: frozenset[int]) -> NDArray[np.bool_]:
    return np.array([number not in gone for number in ids.tolist()], bool)


def _sliced(node: Node, keeps: NDArray[np.bool_]) -> Node:
    """A layer that keeps channels apart, without those that go."""
    # A depthwise kernel is [height, width, channels, 1]; all else is a number for each channel.
    changed = {
        name: np.compress(keeps, value, axis=-1 if value.ndim == 1 else 2) for name, value in node.weights
    }
    return node.with_weights(**changed)


def _maker(
    node: Node, given: Ids, reads: NDArray[np.bool_], keeps: NDArray[np.bool_], merged: Merged
) -> Node:
    changed: dict[str, Array] = {}
    for name, value in node.weights:
        if name in _IN:
            value = np.compress(reads, _handed(value, given, merged), axis=_IN[name])
        if name in _OUT:
            value = np.compress(keeps, value, axis=_OUT[name])
        changed[name] = value
    count = {"units" if node.kind == "Dense" else "filters": int(keeps.sum())}
    return node.with_config(**count).with_weights(**changed)


def _handed(kernel: Array, given: Ids, merged: Merged) -> Array:
    """The kernel with the rows of merged channels added to those of the ones that take over."""
    if not any(number in merged for number in given.tolist()):
        return kernel
    block = len(set(given.tolist()))
    place = {number: at for at, number in enumerate(given[:block].tolist())}
    rows = np.moveaxis(kernel.astype(np.float64), -2, 0)
    for at, number in enumerate(given.tolist()):
        if number in merged:
            heir, share = merged[number]
            rows[at // block * block + place[heir]] += share * rows[at]
    return np.moveaxis(rows, 0, -2).astype(np.float32)
