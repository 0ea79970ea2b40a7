"""Losses, weighted by example, and their gradients."""

from __future__ import annotations

from dataclasses import dataclass

from collab.toolchain.trainable.network import Loss
from collab.toolchain.trainable.writer import GraphWriter, Ref


@dataclass(frozen=True, slots=True)
class Measured:
    """Weighted sums over a batch, and the gradient of the loss by the model's output.

    Attributes:
        loss: each example's loss times its weight, summed up.
        correct: weights of the examples that are named right, summed up; 0 without classes.
        gradient: of the loss, ``[batch, …]``.
    """

    loss: Ref
    correct: Ref
    gradient: Ref


def measure(g: GraphWriter, loss: Loss, output: Ref, y: Ref, weight: Ref) -> Measured:
    """Write a loss; `output` is ``[batch, classes]`` logits, or ``[batch, features]``."""
    column = g.reshape(weight, (weight.shape[0], 1))
    if loss == "cross_entropy":
        return _cross_entropy(g, output, y, weight, column)
    apart = g.sub(output, y)
    weighted = g.mul(apart, column)
    width = output.shape[1]
    squares = g.mul(g.reduce("SUM", g.mul(apart, weighted), (0, 1), keep=False), g.const(1 / width))
    return Measured(squares, g.mul(squares, g.const(0.0)), g.mul(weighted, g.const(2 / width)))


def _cross_entropy(g: GraphWriter, logits: Ref, y: Ref, weight: Ref, column: Ref) -> Measured:
    classes = logits.shape[1]
    parts = (y, g.const(classes, "int32"), g.const(1.0), g.const(0.0))
    wanted = g.op("ONE_HOT", parts, logits.shape, axis=-1)
    log = g.op("LOG_SOFTMAX", (logits,), logits.shape)
    weighted = g.mul(wanted, column)
    loss = g.mul(g.reduce("SUM", g.mul(log, weighted), (0, 1), keep=False), g.const(-1.0))
    probabilities = g.unary("SOFTMAX", logits, beta=1.0)
    codes = (logits, g.const(1, "int32"))
    said = g.op("ARG_MAX", codes, y.shape, "int32", outputType=2)
    right = g.compare("EQUAL", said, y)
    correct = g.reduce("SUM", g.mul(right, weight), (0,), keep=False)
    return Measured(loss, correct, g.mul(g.sub(probabilities, wanted), column))
