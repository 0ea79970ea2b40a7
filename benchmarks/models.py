"""Models with known properties, for measurements that no published model allows."""

from __future__ import annotations

import numpy as np

from tests.tflite_builder import ModelBuilder


def relay(elements: int, operators: int) -> bytes:
    """A chain of cheap elementwise operators; all tensors are float32 [1, elements]."""
    builder = ModelBuilder()
    x = builder.main.input("x", [1, elements])
    for i in range(operators):
        x = builder.main.unary("NEG", x, name=f"y{i}")
    builder.main.output(x)
    return builder.build()


def convolutions(layers: int, channels: int = 48, side: int = 40, seed: int = 0) -> bytes:
    """Equal 3x3 convolutions with random weights, [1, side, side, channels] throughout."""
    rng = np.random.default_rng(seed)
    builder = ModelBuilder()
    x = builder.main.input("x", [1, side, side, channels])
    for i in range(layers):
        scale = np.sqrt(2 / (9 * channels))
        x = builder.main.conv(
            x, rng.normal(0, scale, (channels, 3, 3, channels)).astype(np.float32), name=f"y{i}"
        )
    builder.main.output(x)
    return builder.build()
