"""Convolutions that learn: as matrix products over windows, which delegate; native ones that run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from collab.toolchain.trainable.network import Pass, Pull
from collab.toolchain.trainable.windows import SAME, VALID, Line, Windows
from collab.toolchain.trainable.writer import GraphWriter, Ref, Shape

Back = Callable[[Ref, bool], tuple[Ref, Ref | None]]
"""From the gradient ``[rows, filters, line]`` to the kernel's and, if it is wanted, that of the strips."""


def _lines(g: GraphWriter, x: Ref) -> Ref:
    """Columns and batch as one axis."""
    return g.reshape(x, (x.shape[0], x.shape[1], x.shape[2] * x.shape[3]))


def _rows_before(g: GraphWriter, rows: Line, kernel: Ref, strips: Ref) -> tuple[Ref, Back]:
    """All rows of a window one below the other in the matrix that the kernel is multiplied with.

    Args:
        g: where operators go.
        rows: of the windows.
        kernel: ``[taps, strip, filters]``.
        strips: shifted columns ``[padded rows, strip, columns, batch]``.
    """
    taps, strip, filters = kernel.shape
    matrix = g.reshape(kernel, (taps * strip, filters))
    patches = _lines(g, g.concat([rows.pick(g, strips, at) for at in range(taps)], 1))
    y = g.products(g.transpose(matrix, (1, 0)), patches)

    def back(dy: Ref, wanted: bool) -> tuple[Ref, Ref | None]:
        slope = g.reduce("SUM", g.products(patches, dy, transpose_b=True), (0,), keep=False)
        if not wanted:
            return slope, None
        shape = (rows.count, taps * strip, *strips.shape[2:])
        spread = g.reshape(g.products(matrix, dy), shape)
        block = (rows.count, strip, *strips.shape[2:])
        parts = [g.slice(spread, (0, at * strip, 0, 0), block) for at in range(taps)]
        return slope, rows.place(g, parts)

    return y, back


def _rows_behind(g: GraphWriter, rows: Line, kernel: Ref, strips: Ref) -> tuple[Ref, Back]:
    """The kernel's rows one below the other: their products are shifted and summed up.

    As `_rows_before`, but strips are not padded and the stride is 1.
    """
    taps, strip, filters = kernel.shape
    height, top = rows.length, rows.padding[0]
    flat = _lines(g, strips)
    tall = g.products(g.reshape(g.transpose(kernel, (0, 2, 1)), (taps * filters, strip)), flat)
    y: Ref | None = None
    for at in range(taps):
        begin, over = max(0, at - top), max(0, top - at)
        count = min(height - begin, rows.count - over)
        if count <= 0:  # such a tap sees the padding only
            continue
        part = g.slice(tall, (begin, at * filters, 0), (count, filters, flat.shape[2]))
        part = g.pad(part, [(over, rows.count - over - count), (0, 0), (0, 0)])
        y = part if y is None else g.add(y, part)
    assert y is not None

    def back(dy: Ref, wanted: bool) -> tuple[Ref, Ref | None]:
        padded = g.pad(dy, [(taps - 1 - top, height + top - rows.count), (0, 0), (0, 0)])
        block = (height, filters, flat.shape[2])
        shifted = g.concat([g.slice(padded, (taps - 1 - at, 0, 0), block) for at in range(taps)], 1)
        slopes = g.reduce("SUM", g.products(flat, shifted, transpose_b=True), (0,), keep=False)
        slope = g.transpose(g.reshape(slopes, (strip, taps, filters)), (1, 0, 2))
        if not wanted:
            return slope, None
        wide = g.reshape(g.transpose(kernel, (1, 0, 2)), (strip, taps * filters))
        return slope, g.reshape(g.products(wide, shifted), strips.shape)

    return y, back


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
        """Write the layer as it is trained: for each row a product with a strip of shifted columns."""
        g, (x,) = run.graph, inputs
        height, channels, width, batch = x.shape
        windows = self.windows((height, width))
        rows, columns = windows.rows, windows.columns
        strip = self.size[1] * channels
        kernel = g.reshape(run.parameters[f"{name}/kernel"], (self.size[0], strip, self.filters))
        # What is thinner is moved: strips before the product, or what it makes of them.
        before = strip <= self.filters or rows.stride > 1
        if before:
            x = g.pad(x, rows.around(*rows.padding))
        x = g.pad(x, columns.around(*columns.padding))
        strips = g.concat([columns.pick(g, x, at) for at in range(self.size[1])], 1)
        y, back = (_rows_before if before else _rows_behind)(g, rows, kernel, strips)
        if self.bias:
            y = g.add(y, g.reshape(run.parameters[f"{name}/bias"], (1, self.filters, 1)))
        y = g.reshape(y, (rows.count, self.filters, columns.count, batch))

        def pull(dy: Ref) -> Sequence[Ref]:
            flat = _lines(g, dy)
            if self.bias:
                run.gradients[f"{name}/bias"] = g.reduce("SUM", flat, (0, 2), keep=False)
            made, spread = back(flat, wanted)
            run.gradients[f"{name}/kernel"] = g.reshape(made, (*self.size, channels, self.filters))
            if spread is None:
                return []
            block = (height, channels, columns.count, batch)
            parts = [g.slice(spread, (0, k * channels, 0, 0), block) for k in range(self.size[1])]
            return [columns.place(g, parts)]

        return y, pull

    def arrange(self, graph: GraphWriter, kernel: Ref, factor: Ref | None) -> Ref:
        """See `Product`."""
        if factor is not None:
            kernel = graph.mul(kernel, factor)
        return graph.transpose(kernel, (3, 0, 1, 2))

    def product(self, graph: GraphWriter, x: Ref, kernel: Ref, bias: Ref | None, fused: int = 0) -> Ref:
        """See `Product`; the kernel is ``[filters, height, width, channels]``."""
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
        height, channels, width, _ = x.shape
        windows = self.windows((height, width))
        picked = windows.pick(g, windows.pad(g, x))
        kernel = g.reshape(run.parameters[f"{name}/kernel"], (*self.size, channels, 1))
        column = (1, channels, 1, 1)
        taps = [
            [g.reshape(g.slice(kernel, (i, j, 0, 0), (1, 1, channels, 1)), column) for j in range(len(line))]
            for i, line in enumerate(picked)
        ]
        made = [
            g.mul(part, tap)
            for pair in zip(picked, taps, strict=True)
            for part, tap in zip(*pair, strict=True)
        ]
        y = made[0]
        for part in made[1:]:
            y = g.add(y, part)
        if self.bias:
            y = g.add(y, g.reshape(run.parameters[f"{name}/bias"], column))

        def pull(dy: Ref) -> Sequence[Ref]:
            sums = [
                g.reduce("SUM", g.mul(part, dy), (0, 2, 3), keep=False) for line in picked for part in line
            ]
            slopes = g.concat([g.reshape(s, (1, channels)) for s in sums], 0)
            run.gradients[f"{name}/kernel"] = g.reshape(slopes, (*self.size, channels, 1))
            if self.bias:
                run.gradients[f"{name}/bias"] = g.reduce("SUM", dy, (0, 2, 3), keep=False)
            return [windows.place(g, [[g.mul(dy, tap) for tap in line] for line in taps])] if wanted else []

        return y, pull

    def arrange(self, graph: GraphWriter, kernel: Ref, factor: Ref | None) -> Ref:
        """See `Product`."""
        kernel = graph.reshape(kernel, (1, *self.size, kernel.shape[2]))
        return kernel if factor is None else graph.mul(kernel, factor)

    def product(self, graph: GraphWriter, x: Ref, kernel: Ref, bias: Ref | None, fused: int = 0) -> Ref:
        """See `Product`; the kernel is ``[1, height, width, channels]``."""
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
