"""Layers without windows: dense, activations, dropout, joins, changes of shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from collab.toolchain.trainable.network import Pass, Pull
from collab.toolchain.trainable.writer import GraphWriter, Ref, Shape

HCWN_TO_NHWC: Final = (3, 0, 2, 1)
NHWC_TO_HCWN: Final = (1, 3, 2, 0)

LARGEST: Final = float(np.finfo(np.float32).max)
CLAMP: Final = 2
"""``RELU_N1_TO_1`` of schema.fbs, as an activation fused into another operator."""
RELU: Final = 1
RELU6: Final = 3


def positive(g: GraphWriter, x: Ref) -> Ref:
    """1.0 where `x` is above zero and 0.0 where it is zero; nothing of `x` is negative.

    Comparisons and casts are not delegated; a product that saturates is.
    """
    return g.op("MUL", (x, g.const(LARGEST)), x.shape, fusedActivationFunction=CLAMP)


def product_of_columns(g: GraphWriter, a: Ref, b: Ref) -> Ref:
    """``a @ b.T`` of ``[m, k]`` and ``[n, k]``."""
    return g.op("BATCH_MATMUL", (a, b), (a.shape[0], b.shape[0]), adjY=True)


@dataclass(frozen=True, slots=True)
class Dense:
    """``x @ kernel + bias``."""

    units: int
    bias: bool = True

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return (self.units,)

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """See `Layer`."""
        g, (x,) = run.graph, inputs
        kernel = run.parameters[f"{name}/kernel"]
        y = g.matmul(x, kernel)
        if self.bias:
            y = g.add(y, run.parameters[f"{name}/bias"])

        def pull(dy: Ref) -> Sequence[Ref]:
            run.gradients[f"{name}/kernel"] = g.matmul(g.transpose(x, (1, 0)), dy)
            if self.bias:
                run.gradients[f"{name}/bias"] = g.reduce("SUM", dy, (0,), keep=False)
            return [product_of_columns(g, dy, kernel)] if wanted else []

        return y, pull

    def arrange(self, graph: GraphWriter, kernel: Ref, factor: Ref | None) -> Ref:
        """See `Product`."""
        if factor is not None:
            kernel = graph.mul(kernel, factor)
        return graph.transpose(kernel, (1, 0))

    def product(self, graph: GraphWriter, x: Ref, kernel: Ref, bias: Ref | None, fused: int = 0) -> Ref:
        """See `Product`; the kernel is ``[units, features]``."""
        shape = (x.shape[0], self.units)
        parts = (x, kernel, bias)
        return graph.op("FULLY_CONNECTED", parts, shape, fusedActivationFunction=fused)


Kind = Literal["relu", "relu6", "leaky_relu", "hard_sigmoid", "hard_silu", "sigmoid", "tanh"]


@dataclass(frozen=True, slots=True)
class Activation:
    """A function of each element."""

    kind: Kind
    slope: float = 0.0
    """Of ``leaky_relu`` below zero."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return inputs[0]

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """See `Layer`."""
        g, (x,) = run.graph, inputs
        y = self.infer(g, {}, name, inputs)

        def pull(dy: Ref) -> Sequence[Ref]:
            return [g.mul(dy, self._slope(g, x, y))] if wanted else []

        return y, pull

    def _slope(self, g: GraphWriter, x: Ref, y: Ref) -> Ref:
        if self.kind == "relu":
            return positive(g, y)
        if self.kind == "relu6":
            return _inside(g, y)
        if self.kind == "leaky_relu":
            above = positive(g, g.unary("RELU", x))
            return g.add(g.mul(above, g.const(1 - self.slope)), g.const(self.slope))
        if self.kind == "sigmoid":
            return g.mul(y, g.sub(g.const(1.0), y))
        if self.kind == "tanh":
            return g.sub(g.const(1.0), g.mul(y, y))
        gate = g.add(x, g.const(3.0), RELU6)
        inside = _inside(g, gate)
        if self.kind == "hard_silu":
            inside = g.add(gate, g.mul(x, inside))
        return g.mul(inside, g.const(1 / 6))

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        (x,) = inputs
        if self.kind == "leaky_relu":
            return graph.unary("LEAKY_RELU", x, alpha=self.slope)
        if self.kind == "hard_silu":
            return graph.unary("HARD_SWISH", x)
        if self.kind == "hard_sigmoid":
            return graph.mul(graph.add(x, graph.const(3.0), RELU6), graph.const(1 / 6))
        names = {"relu": "RELU", "relu6": "RELU6", "sigmoid": "LOGISTIC", "tanh": "TANH"}
        return graph.unary(names[self.kind], x)

    @property
    def rises(self) -> bool:
        """Whether a larger value never becomes a smaller one."""
        return self.kind != "hard_silu" and self.slope >= 0

    @property
    def fused(self) -> int | None:
        """Its number as an activation that other operators take along, if they can."""
        return {"relu": RELU, "relu6": RELU6}.get(self.kind)


def _inside(g: GraphWriter, gate: Ref) -> Ref:
    """1.0 where a value cut to [0, 6] is neither."""
    return g.mul(positive(g, gate), positive(g, g.sub(g.const(6.0), gate)))


@dataclass(frozen=True, slots=True)
class Softmax:
    """Probabilities of logits; only at the end, where the loss takes the logits."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return inputs[0]

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """Nothing: the loss does it."""
        return inputs[0], lambda dy: [dy]

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        return graph.unary("SOFTMAX", inputs[0], beta=1.0)


@dataclass(frozen=True, slots=True)
class Dropout:
    """Scales by a mask that is an input: 0 or ``1 / (1 - rate)``, drawn by who trains."""

    rate: float

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return inputs[0]

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """See `Layer`."""
        g, (x,) = run.graph, inputs
        if not run.training:
            return x, lambda dy: [dy]
        image = len(x.shape) == 4
        shape = tuple(x.shape[axis] for axis in HCWN_TO_NHWC) if image else x.shape
        run.masks[name] = given = g.input(f"mask:{name}", shape)
        mask = g.transpose(given, NHWC_TO_HCWN) if image else given
        return g.mul(x, mask), lambda dy: [g.mul(dy, mask)] if wanted else []

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        return inputs[0]


@dataclass(frozen=True, slots=True)
class Flatten:
    """All features of an example in a row, channels last."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return (int(np.prod(inputs[0])),)

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """See `Layer`."""
        g, (x,) = run.graph, inputs
        if len(x.shape) == 2:
            return x, lambda dy: [dy]
        moved = g.transpose(x, HCWN_TO_NHWC)
        y = g.reshape(moved, (moved.shape[0], moved.size // moved.shape[0]))

        def pull(dy: Ref) -> Sequence[Ref]:
            return [g.transpose(g.reshape(dy, moved.shape), NHWC_TO_HCWN)] if wanted else []

        return y, pull

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        return graph.reshape(inputs[0], (1, inputs[0].size))


@dataclass(frozen=True, slots=True)
class Add:
    """Sum of its inputs, of one shape."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return inputs[0]

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """See `Layer`."""
        return self.infer(run.graph, {}, name, inputs), lambda dy: [dy] * len(inputs)

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        total = inputs[0]
        for part in inputs[1:]:
            total = graph.add(total, part)
        return total


@dataclass(frozen=True, slots=True)
class Concatenate:
    """Its inputs one behind another along the channels."""

    def shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output of one example."""
        return (*inputs[0][:-1], sum(shape[-1] for shape in inputs))

    def learn(self, run: Pass, name: str, inputs: Sequence[Ref], wanted: bool) -> tuple[Ref, Pull]:
        """See `Layer`."""
        g = run.graph
        axis = 1

        def pull(dy: Ref) -> Sequence[Ref]:
            parts, at = [], 0
            for x in inputs:
                begin = [0] * len(dy.shape)
                begin[axis] = at
                parts.append(g.slice(dy, begin, x.shape))
                at += x.shape[axis]
            return parts

        return g.concat(inputs, axis), pull

    def infer(
        self, graph: GraphWriter, parameters: Mapping[str, Ref], name: str, inputs: Sequence[Ref]
    ) -> Ref:
        """See `Layer`."""
        return graph.concat(inputs, len(inputs[0].shape) - 1)
