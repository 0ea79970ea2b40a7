"""Pooling layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from collab.toolchain.trainable.network import Network, Node, Pass, Pull
from collab.toolchain.trainable.plain import CLAMP, LARGEST, Activation
from collab.toolchain.trainable.windows import SAME, VALID, Line, Windows
from collab.toolchain.trainable.writer import GraphWriter, Ref, Shape


@dataclass(frozen=True, slots=True)
class Pool2D:
    """Largest value or mean of each window; padding does not count."""

    largest: bool
    size: tuple[int, int]
    stride: tuple[int, int]
    same: bool = False

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return (*self.windows(inputs[0][:2]).count, inputs[0][2])

    def windows(self, image: Sequence[int]) -> Windows:
        """The windows over an image of this height and width."""
        return Windows(self.size, self.stride, (image[0], image[1]), self.same)

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """See `Layer`; columns are pooled first and then rows."""
        g, (x,) = run.graph, inputs
        windows = self.windows((x.shape[0], x.shape[2]))
        if self.largest:
            narrow, back_columns = _largest(g, windows.columns, x)
            y, back_rows = _largest(g, windows.rows, narrow)
            return y, lambda dy: [back_columns(back_rows(dy))] if wanted else []
        share = g.const(_shares(windows)[:, None, :, None])
        narrow = _summed(g, windows.columns, x)
        y = g.mul(_summed(g, windows.rows, narrow), share)

        def pull(dy: Ref) -> Sequence[Ref]:
            if not wanted:
                return []
            part = windows.rows.place(g, [g.mul(dy, share)] * self.size[0])
            return [windows.columns.place(g, [part] * self.size[1])]

        return y, pull

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        (x,) = inputs
        return graph.op(
            "MAX_POOL_2D" if self.largest else "AVERAGE_POOL_2D",
            (x,),
            (x.shape[0], *self.windows(x.shape[1:3]).count, x.shape[3]),
            padding=SAME if self.same else VALID,
            filterHeight=self.size[0],
            filterWidth=self.size[1],
            strideH=self.stride[0],
            strideW=self.stride[1],
        )


def _largest(g: GraphWriter, line: Line, x: Ref) -> tuple[Ref, Callable[[Ref], Ref]]:
    """Largest value of each window along an axis, and the way back."""
    padded = g.pad_with(x, line.around(*line.padding), -LARGEST)
    parts = [line.pick(g, padded, at) for at in range(line.size)]
    y = parts[0]
    for part in parts[1:]:
        y = g.maximum(y, part)

    def back(dy: Ref) -> Ref:
        """The gradient for the first element that is the largest, as in TensorFlow, nothing for the rest."""
        left, slopes = dy, []
        for part in parts[:-1]:
            below = g.sub(y, part)
            is_below = g.op("MUL", (below, g.const(LARGEST)), below.shape, fusedActivationFunction=CLAMP)
            rest = g.mul(left, is_below)
            slopes.append(g.sub(left, rest))
            left = rest
        return line.place(g, [*slopes, left])

    return y, back


def _summed(g: GraphWriter, line: Line, x: Ref) -> Ref:
    """Sum of each window along an axis."""
    padded = g.pad(x, line.around(*line.padding))
    total = line.pick(g, padded, 0)
    for at in range(1, line.size):
        total = g.add(total, line.pick(g, padded, at))
    return total


def _shares(windows: Windows) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """One over the number of elements of each window that lie in the image."""
    counts = []
    for axis in (0, 1):
        begin = np.arange(windows.count[axis]) * windows.stride[axis] - windows.padding[axis][0]
        end = np.minimum(begin + windows.size[axis], windows.image[axis])
        counts.append(end - np.maximum(begin, 0))
    shares: np.ndarray[tuple[int, int], np.dtype[np.float64]] = 1.0 / np.outer(counts[0], counts[1])
    return shares


@dataclass(frozen=True, slots=True)
class GlobalAverage:
    """Mean of each channel."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return (inputs[0][2],)

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """See `Layer`."""
        g, (x,) = run.graph, inputs
        height, channels, width, batch = x.shape
        y = g.transpose(g.reduce("MEAN", x, (0, 2), keep=False), (1, 0))

        def pull(dy: Ref) -> Sequence[Ref]:
            share = g.const(np.full((height, 1, width, 1), 1 / (height * width)))
            column = g.reshape(g.transpose(dy, (1, 0)), (1, channels, 1, batch))
            return [g.mul(column, share)] if wanted else []

        return y, pull

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        return graph.reduce("MEAN", inputs[0], (1, 2), keep=False)


def pool_first(network: Network) -> Network:
    """The same network with activations behind the pooling that follows them, where that changes nothing.

    The largest of rising values is where the largest of the values before was, and there are fewer.
    """
    nodes, readers = list(network.nodes), network.readers()
    for number in range(1, len(nodes)):
        first, second = nodes[number - 1], nodes[number]
        if (
            isinstance(first.layer, Activation)
            and first.layer.rises
            and isinstance(second.layer, Pool2D)
            and second.layer.largest
            and readers[number] == [number + 1]
        ):
            nodes[number - 1] = Node(second.name, second.layer, first.inputs)
            nodes[number] = Node(first.name, first.layer, (number,))
    return replace(network, nodes=tuple(nodes))
