"""Small untrained models for tests and trials, made without Keras.

    python -m collab.toolchain.trainable.fixtures --out tests/data

writes ``trainable_mlp.tflite`` and ``trainable_cnn.tflite``, which take images of 28 by 28 pixels
and tell ten classes apart.  The seed fixes every byte.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from collab.toolchain.trainable.convolution import Conv2D
from collab.toolchain.trainable.export import export
from collab.toolchain.trainable.network import Layer, Network, Node, Parameter
from collab.toolchain.trainable.plain import Activation, Dense, Flatten
from collab.toolchain.trainable.pooling import Pool2D
from collab.toolchain.trainable.writer import Shape

SEED: Final = 7
BATCH: Final = 20
"""As in the experiments of McMahan et al., AISTATS 2017."""


class _Stack:
    """Layers one behind another, with weights as Keras draws them (Glorot and Bengio, AISTATS 2010)."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.nodes, self.parameters = shape, list[Node](), list[Parameter]()
        self._rng = np.random.default_rng(SEED)

    def add(self, name: str, layer: Layer) -> None:
        self.nodes.append(Node(name, layer, (len(self.nodes),)))

    def weights(self, name: str, kernel: Shape) -> None:
        field = int(np.prod(kernel[:-2]))
        limit = float(np.sqrt(6 / (field * (kernel[-2] + kernel[-1]))))
        drawn: NDArray[np.float32] = self._rng.uniform(-limit, limit, kernel).astype(np.float32)
        self.parameters.append(Parameter(f"{name}/kernel", drawn))
        self.parameters.append(Parameter(f"{name}/bias", np.zeros(kernel[-1], np.float32)))

    def network(self) -> Network:
        return Network(self.shape, tuple(self.nodes), tuple(self.parameters))


def mlp() -> Network:
    """784 pixels, 64 hidden units, ten classes: 50,890 weights."""
    stack = _Stack((28, 28, 1))
    stack.add("flatten", Flatten())
    stack.add("hidden", Dense(64))
    stack.weights("hidden", (784, 64))
    stack.add("hidden/activation", Activation("relu"))
    stack.add("logits", Dense(10))
    stack.weights("logits", (64, 10))
    return stack.network()


def cnn() -> Network:
    """Two convolutions of 3 by 3 with 16 and 32 filters, each halved: 20,490 weights."""
    stack = _Stack((28, 28, 1))
    channels = 1
    for name, filters in (("first", 16), ("second", 32)):
        stack.add(name, Conv2D(filters, (3, 3), same=True))
        stack.weights(name, (3, 3, channels, filters))
        stack.add(f"{name}/activation", Activation("relu"))
        stack.add(f"{name}/halved", Pool2D(True, (2, 2), (2, 2)))
        channels = filters
    stack.add("flatten", Flatten())
    stack.add("logits", Dense(10))
    stack.weights("logits", (7 * 7 * 32, 10))
    return stack.network()


MODELS: Final[Mapping[str, Callable[[], Network]]] = MappingProxyType({"mlp": mlp, "cnn": cnn})


def main() -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m collab.toolchain.trainable.fixtures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, make in MODELS.items():
        file = options.out / f"trainable_{name}.tflite"
        file.write_bytes(export(make(), BATCH))
        sys.stderr.write(f"{file}: {file.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
