"""Pooling layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from collab.toolchain.trainable.network import Pass, Pull
from collab.toolchain.trainable.plain import CLAMP, LARGEST
from collab.toolchain.trainable.windows import SAME, VALID, Windows
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
        """See `Layer`; to the operator, the batch lies where channels do elsewhere."""
        g, (x,) = run.graph, inputs
        windows = self.windows(x.shape[1:3])
        y = self.infer(g, {}, name, inputs)

        def pull(dy: Ref) -> Sequence[Ref]:
            if not wanted:
                return []
            if self.largest:
                return [windows.place(g, self._first_largest(g, windows, x, y, dy))]
            share = g.mul(dy, g.const(_shares(windows)[None, :, :, None]))
            return [windows.place(g, [share] * len(windows.offsets()))]

        return y, pull

    @staticmethod
    def _first_largest(g: GraphWriter, windows: Windows, x: Ref, y: Ref, dy: Ref) -> list[Ref]:
        """The gradient for the first element that is the largest, as in TensorFlow, nothing for the rest."""
        padded = windows.pad(g, x, -LARGEST)
        left, parts = dy, []
        for at in windows.offsets():
            below = g.sub(y, windows.pick(g, padded, at))
            is_below = g.op("MUL", (below, g.const(LARGEST)), below.shape, fusedActivationFunction=CLAMP)
            rest = g.mul(left, is_below)
            parts.append(g.sub(left, rest))
            left = rest
        return parts

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
        channels, height, width, batch = x.shape
        y = g.transpose(g.reduce("MEAN", x, (1, 2), keep=False), (1, 0))

        def pull(dy: Ref) -> Sequence[Ref]:
            share = g.const(np.full((1, height, width, 1), 1 / (height * width)))
            column = g.reshape(g.transpose(dy, (1, 0)), (channels, 1, 1, batch))
            return [g.mul(column, share)] if wanted else []

        return y, pull

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        return graph.reduce("MEAN", inputs[0], (1, 2), keep=False)
