"""Normalisation of batches and of groups of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collab.toolchain.trainable.network import Pass, Pull
from collab.toolchain.trainable.writer import GraphWriter, Ref, Shape


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Batch normalisation (Ioffe and Szegedy, ICML 2015), with averaged statistics as Keras keeps them."""

    momentum: float = 0.99
    epsilon: float = 1e-3
    scale: bool = True
    center: bool = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return inputs[0]

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """See `Layer`."""
        g, (given,) = run.graph, inputs
        flat = len(given.shape) == 2
        x = g.reshape(g.transpose(given, (1, 0)), (1, given.shape[1], 1, given.shape[0])) if flat else given
        made, pull = self._learn(run, name, x)

        def back(dy: Ref) -> Sequence[Ref]:
            if flat:
                dy = g.reshape(g.transpose(dy, (1, 0)), x.shape)
            (dx,) = pull(dy)
            return [g.transpose(g.reshape(dx, (x.shape[1], x.shape[3])), (1, 0)) if flat else dx]

        if flat:
            made = g.transpose(g.reshape(made, (x.shape[1], x.shape[3])), (1, 0))
        return made, back

    def _learn(self, run: Pass, name: str, x: Ref) -> tuple[Ref, Pull]:
        g = run.graph
        height, channels, width, batch = x.shape
        column = (1, channels, 1, 1)
        moving = [run.parameters[f"{name}/moving_{what}"] for what in ("mean", "variance")]
        if run.training:
            # Examples of weight 0 fill the batch up, so they must not move the statistics.
            total = g.reduce("SUM", run.weight, (0,))
            share = g.div(run.weight, g.mul(total, g.const(float(height * width))))
            mean = self._mean(g, x, share)
            centred = g.sub(x, mean)
            variance = self._mean(g, g.mul(centred, centred), share)
            for what, old, new in zip(("mean", "variance"), moving, (mean, variance), strict=True):
                kept = g.mul(old, g.const(self.momentum))
                fresh = g.mul(g.reshape(new, (channels,)), g.const(1 - self.momentum))
                run.statistics[f"{name}/moving_{what}"] = g.add(kept, fresh)
        else:
            mean, variance = (g.reshape(part, column) for part in moving)
            centred = g.sub(x, mean)
        inverse = g.unary("RSQRT", g.add(variance, g.const(self.epsilon)))
        normal = g.mul(centred, inverse)
        gamma = g.reshape(run.parameters[f"{name}/gamma"], column) if self.scale else None
        y = g.mul(normal, gamma) if gamma is not None else normal
        if self.center:
            y = g.add(y, g.reshape(run.parameters[f"{name}/beta"], column))

        def pull(dy: Ref) -> Sequence[Ref]:
            along = g.reduce("SUM", g.mul(dy, normal), (0, 2, 3))
            total = g.reduce("SUM", dy, (0, 2, 3))
            if self.center:
                run.gradients[f"{name}/beta"] = g.reshape(total, (channels,))
            if gamma is not None:
                run.gradients[f"{name}/gamma"] = g.reshape(along, (channels,))
            moved = g.add(g.mul(normal, along), total)
            inner = g.sub(dy, g.mul(moved, g.reshape(share, (1, 1, 1, batch))))
            return [g.mul(inner, g.mul(inverse, gamma) if gamma is not None else inverse)]

        return y, pull

    @staticmethod
    def _mean(g: GraphWriter, x: Ref, share: Ref) -> Ref:
        """Weighted mean of each channel."""
        rows = g.reduce("SUM", x, (0, 2), keep=False)
        return g.reshape(g.matmul(rows, g.reshape(share, (x.shape[3], 1))), (1, x.shape[1], 1, 1))

    def line(self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str) -> tuple[Ref, Ref]:
        """Factor and offset of each channel once statistics are fixed."""
        variance = graph.add(parameters[f"{name}/moving_variance"], graph.const(self.epsilon))
        factor = graph.unary("RSQRT", variance)
        if self.scale:
            factor = graph.mul(factor, parameters[f"{name}/gamma"])
        moved = graph.mul(parameters[f"{name}/moving_mean"], factor)
        offset = graph.sub(parameters[f"{name}/beta"] if self.center else graph.const(0.0), moved)
        return factor, offset

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`; where a convolution comes before it, it vanishes in that."""
        factor, offset = self.line(graph, parameters, name)
        return graph.add(graph.mul(inputs[0], factor), offset)


@dataclass(frozen=True, slots=True)
class GroupNorm:
    """Group normalisation (Wu and He, ECCV 2018)."""

    groups: int
    epsilon: float = 1e-3
    scale: bool = True
    center: bool = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return inputs[0]

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """See `Layer`."""
        g, (x,) = run.graph, inputs
        height, channels, width, batch = x.shape
        column = (1, channels, 1, 1)
        groups = (height, self.groups, channels // self.groups * width, batch)
        grouped = g.reshape(x, groups)
        centred = g.sub(grouped, g.reduce("MEAN", grouped, (0, 2)))
        variance = g.reduce("MEAN", g.mul(centred, centred), (0, 2))
        inverse = g.unary("RSQRT", g.add(variance, g.const(self.epsilon)))
        normal = g.mul(centred, inverse)
        y = shaped = g.reshape(normal, x.shape)
        gamma = g.reshape(run.parameters[f"{name}/gamma"], column) if self.scale else None
        if gamma is not None:
            y = g.mul(y, gamma)
        if self.center:
            y = g.add(y, g.reshape(run.parameters[f"{name}/beta"], column))

        def pull(dy: Ref) -> Sequence[Ref]:
            if self.center:
                run.gradients[f"{name}/beta"] = g.reduce("SUM", dy, (0, 2, 3), keep=False)
            if gamma is not None:
                run.gradients[f"{name}/gamma"] = g.reduce("SUM", g.mul(dy, shaped), (0, 2, 3), keep=False)
            if not wanted:
                return []
            inner = g.reshape(g.mul(dy, gamma) if gamma is not None else dy, groups)
            along = g.mul(normal, g.reduce("MEAN", g.mul(inner, normal), (0, 2)))
            rest = g.sub(g.sub(inner, g.reduce("MEAN", inner, (0, 2))), along)
            return [g.reshape(g.mul(rest, inverse), x.shape)]

        return y, pull

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        (x,) = inputs
        _, height, width, channels = x.shape
        grouped = graph.reshape(x, (height * width, self.groups, channels // self.groups))
        centred = graph.sub(grouped, graph.reduce("MEAN", grouped, (0, 2)))
        variance = graph.reduce("MEAN", graph.mul(centred, centred), (0, 2))
        y = graph.mul(centred, graph.unary("RSQRT", graph.add(variance, graph.const(self.epsilon))))
        y = graph.reshape(y, x.shape)
        if self.scale:
            y = graph.mul(y, parameters[f"{name}/gamma"])
        if self.center:
            y = graph.add(y, parameters[f"{name}/beta"])
        return y
