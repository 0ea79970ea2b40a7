"""Which channels of a network stand and fall together.

Every channel that a layer makes is an atom; additions, gates and depthwise convolutions tie
atoms of several layers to one class (a union-find), and a class goes as a whole or not at all.
What is not understood pins what it touches, so that surgery is never wrong, only smaller.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.toolchain.compress.network import Network, Node, Ref

Ids = NDArray[np.int64]

MAKERS: Final = frozenset({"Conv1D", "Conv2D", "Dense", "SeparableConv1D", "SeparableConv2D"})
"""Layers whose channels are their own, and which mix all that go in."""
_KEEPERS: Final = frozenset(
    {
        *("BatchNormalization", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise"),
        *("Activation", "ReLU", "LeakyReLU", "ELU", "Relu", "Relu6", "HardSigmoid", "HardSilu", "Sigmoid"),
        *("Silu", "Tanh", "MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
        *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D", "UpSampling2D"),
    }
)
_TIES: Final = frozenset({"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"})


@dataclass(frozen=True)
class Channels:
    """Classes of channels, by number, along the last axis of every tensor."""

    of: Mapping[Ref, Ids]
    fixed: frozenset[int]
    """Classes that must stay."""
    makers: Mapping[int, tuple[str, ...]]
    """Names of the layers that make channels of a class, sorted."""

    def spaces(self) -> Mapping[tuple[str, ...], tuple[int, ...]]:
        """Classes that may go, by the layers that make them."""
        found: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number in sorted(set(self.makers) - self.fixed):
            found[self.makers[number]].append(number)
        return {names: tuple(numbers) for names, numbers in sorted(found.items())}


class _Trace:
    def __init__(self) -> None:
        self.parent: list[int] = []
        self.pinned: set[int] = set()
        self.of: dict[Ref, Ids] = {}
        self.made: dict[str, Ids] = {}

    def new(self, count: int) -> Ids:
        start = len(self.parent)
        self.parent += range(start, start + count)
        return np.arange(start, start + count)

    def root(self, atom: int) -> int:
        while self.parent[atom] != atom:
            self.parent[atom] = self.parent[self.parent[atom]]
            atom = self.parent[atom]
        return atom

    def tie(self, one: Ids, other: Ids) -> None:
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            first, second = sorted((self.root(a), self.root(b)))
            self.parent[second] = first

    def pin(self, ids: Iterable[Ids]) -> None:
        for each in ids:
            self.pinned.update(each.tolist())

    def opaque(self, node: Node) -> None:
        self.pin(self.of[ref] for ref in node.inputs)
        for index, shape in enumerate(node.shapes):
            made = self.new(shape[-1] if shape and shape[-1] else 1)
            self.pin([made])
            self.of[Ref(node.name, index)] = made

    def step(self, node: Node) -> None:
        given = [self.of[ref] for ref in node.inputs]
        out = self._out(node, given)
        if out is None or len(node.shapes) != 1:
            self.opaque(node)
        else:
            self.of[Ref(node.name)] = out

    def _out(self, node: Node, given: Sequence[Ids]) -> Ids | None:
        if not given or node.config.get("data_format") == "channels_first":
            return None
        if is_maker(node):
            self.made[node.name] = self.new(node.shape[-1])
            if node.config.get("activation") == "softmax":
                self.pin([self.made[node.name]])
            return self.made[node.name]
        if node.kind in _TIES:
            return self._tied(given)
        if len(given) == 1 and (node.kind == "Flatten" or keeps_channels(node)):
            return np.tile(given[0], node.shape[-1] // len(given[0]))
        if node.kind == "Reshape" and node.shape[-1] == len(given[0]):
            return given[0]
        if node.kind == "Concatenate" and node.config["axis"] in (-1, len(node.shape)):
            return np.concatenate(given)
        return None

    def _tied(self, given: Sequence[Ids]) -> Ids:
        widest = max(given, key=len)
        for ids in given:
            if len(ids) == len(widest):
                self.tie(widest, ids)
            else:
                # One value for all channels: whatever makes it stays.
                self.pin([ids])
        return widest


def is_maker(node: Node) -> bool:
    """Whether a layer's channels can be taken from it."""
    plain = node.config.get("groups", 1) == 1 and node.config.get("depth_multiplier", 1) == 1
    return node.kind in MAKERS and plain


def keeps_channels(node: Node) -> bool:
    """Whether channel k of what goes out depends on channel k of what goes in, and on no other."""
    if node.kind == "DepthwiseConv2D":
        return bool(node.config["depth_multiplier"] == 1)
    if node.kind == "BatchNormalization":
        return node.config["axis"] in (-1, len(node.shape))
    return node.kind in _KEEPERS and node.config.get("activation") != "softmax"


def trace(network: Network) -> Channels:
    """Follow the channels of a network from its inputs to its outputs."""
    found = _Trace()
    for node in network.nodes:
        found.step(node)
    found.pin(found.of[ref] for ref in network.outputs)
    root = np.array([found.root(atom) for atom in range(len(found.parent))], np.int64)
    makers: dict[int, set[str]] = defaultdict(set)
    for name, ids in found.made.items():
        for number in root[ids].tolist():
            makers[number].add(name)
    return Channels(
        {ref: root[ids] for ref, ids in found.of.items()},
        frozenset(root[sorted(found.pinned)].tolist()) if found.pinned else frozenset(),
        {number: tuple(sorted(names)) for number, names in makers.items()},
    )
