"""Convolutions that learn: as matrix products over windows, which delegate; native ones that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from collab.toolchain.trainable.network import Pass, Pull
from collab.toolchain.trainable.plain import product_of_columns
from collab.toolchain.trainable.windows import SAME, VALID, Windows
from collab.toolchain.trainable.writer import GraphWriter, Ref, Shape


@dataclass(frozen=True, slots=True)
class Conv2D:
    """A convolution; its kernel is ``[height, width, channels, filters]``."""

    filters: int
    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    same: bool = False
    bias: bool = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return (*self.windows(inputs[0][:2]).count, self.filters)

    def windows(self, image: Sequence[int]) -> Windows:
        """The windows over an image of this height and width."""
        return Windows(self.size, self.stride, (image[0], image[1]), self.same)

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """Write the layer as it is trained: all windows as columns of one matrix."""
        g, (x,) = run.graph, inputs
        channels, height, width, batch = x.shape
        windows = self.windows((height, width))
        (rows, columns), taps = windows.count, len(windows.offsets())
        padded = windows.pad(g, x)
        patches = g.concat([windows.pick(g, padded, at) for at in windows.offsets()], 0)
        patches = g.reshape(patches, (taps * channels, rows * columns * batch))
        kernel = g.reshape(run.parameters[f"{name}/kernel"], (taps * channels, self.filters))
        y = g.matmul(g.transpose(kernel, (1, 0)), patches)
        if self.bias:
            y = g.add(y, g.reshape(run.parameters[f"{name}/bias"], (self.filters, 1)))
        y = g.reshape(y, (self.filters, rows, columns, batch))

        def pull(dy: Ref) -> Sequence[Ref]:
            flat = g.reshape(dy, (self.filters, rows * columns * batch))
            made = product_of_columns(g, patches, flat)
            run.gradients[f"{name}/kernel"] = g.reshape(made, (*self.size, channels, self.filters))
            if self.bias:
                run.gradients[f"{name}/bias"] = g.reduce("SUM", flat, (1,), keep=False)
            if not wanted:
                return []
            spread = g.reshape(g.matmul(kernel, flat), (taps * channels, rows, columns, batch))
            block = (channels, rows, columns, batch)
            parts = [g.slice(spread, (k * channels, 0, 0, 0), block) for k in range(taps)]
            return [windows.place(g, parts)]

        return y, pull

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        kernel = graph.transpose(parameters[f"{name}/kernel"], (3, 0, 1, 2))
        return self.product(graph, inputs[0], kernel, parameters.get(f"{name}/bias"))

    def product(self, graph: GraphWriter, x: Ref, kernel: Ref, bias: Ref | None, fused: int = 0) -> Ref:
        """Write the operator itself, with the kernel ``[filters, height, width, channels]``."""
        shape = (1, *self.windows(x.shape[1:3]).count, self.filters)
        if bias is None:
            bias = graph.const(np.zeros(self.filters))
        return graph.op(
            "CONV_2D",
            (x, kernel, bias),
            shape,
            padding=SAME if self.same else VALID,
            strideH=self.stride[0],
            strideW=self.stride[1],
            dilationHFactor=1,
            dilationWFactor=1,
            fusedActivationFunction=fused,
        )


@dataclass(frozen=True, slots=True)
class DepthwiseConv2D:
    """A convolution of each channel by itself; its kernel is ``[height, width, channels, 1]``."""

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    same: bool = False
    bias: bool = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return (*self.windows(inputs[0][:2]).count, inputs[0][2])

    def windows(self, image: Sequence[int]) -> Windows:
        """The windows over an image of this height and width."""
        return Windows(self.size, self.stride, (image[0], image[1]), self.same)

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """Write the layer as it is trained: a sum of shifted images, each times one tap."""
        g, (x,) = run.graph, inputs
        channels, height, width, _ = x.shape
        windows = self.windows((height, width))
        padded = windows.pad(g, x)
        picked = [windows.pick(g, padded, at) for at in windows.offsets()]
        kernel = g.reshape(run.parameters[f"{name}/kernel"], (len(picked), channels, 1, 1))
        taps = [
            g.reshape(g.slice(kernel, (k, 0, 0, 0), (1, channels, 1, 1)), (channels, 1, 1, 1))
            for k in range(len(picked))
        ]
        y = g.mul(picked[0], taps[0])
        for part, tap in zip(picked[1:], taps[1:], strict=True):
            y = g.add(y, g.mul(part, tap))
        if self.bias:
            y = g.add(y, g.reshape(run.parameters[f"{name}/bias"], (channels, 1, 1, 1)))

        def pull(dy: Ref) -> Sequence[Ref]:
            sums = [g.reduce("SUM", g.mul(part, dy), (1, 2, 3), keep=False) for part in picked]
            made = g.concat([g.reshape(s, (1, channels)) for s in sums], 0)
            run.gradients[f"{name}/kernel"] = g.reshape(made, (*self.size, channels, 1))
            if self.bias:
                run.gradients[f"{name}/bias"] = g.reduce("SUM", dy, (1, 2, 3), keep=False)
            return [windows.place(g, [g.mul(dy, tap) for tap in taps])] if wanted else []

        return y, pull

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        kernel = parameters[f"{name}/kernel"]
        kernel = graph.reshape(kernel, (1, *self.size, kernel.shape[2]))
        return self.product(graph, inputs[0], kernel, parameters.get(f"{name}/bias"))

    def product(self, graph: GraphWriter, x: Ref, kernel: Ref, bias: Ref | None, fused: int = 0) -> Ref:
        """Write the operator itself, with the kernel ``[1, height, width, channels]``."""
        shape = (1, *self.windows(x.shape[1:3]).count, x.shape[3])
        if bias is None:
            bias = graph.const(np.zeros(x.shape[3]))
        return graph.op(
            "DEPTHWISE_CONV_2D",
            (x, kernel, bias),
            shape,
            padding=SAME if self.same else VALID,
            strideH=self.stride[0],
            strideW=self.stride[1],
            depthMultiplier=1,
            dilationHFactor=1,
            dilationWFactor=1,
            fusedActivationFunction=fused,
        )
