"""Architectures of the zoo: their parameters beside those of their papers, and their operators.

Each is built for the input and classes that it is known by.  With ``--full`` each is also
converted for 28×28 pictures, and run by LiteRT beside Keras.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import numpy as np

from benchmarks.figures import Figure, run
from collab.graph import parse_model
from collab.runtime.litert import LiteRT
from collab.toolchain.convert.litert import keras_to_litert
from collab.toolchain.zoo import ZOO, build
from collab.toolchain.zoo.table import Entry


def parameters(name: str, entry: Entry) -> Figure:
    """How far the count is from what the table says; it is the paper's as that rounds it."""
    model = build(name, input_shape=entry.shape, classes=entry.classes)
    count = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    said = f"published {entry.published}, {entry.source}" if entry.published else "our own"
    return Figure(
        f"{name}: parameters off", abs(count - entry.parameters), "", "<= 0", None, f"{count:,}; {said}"
    )


def conversion(name: str, entry: Entry) -> Figure:
    """The largest difference between LiteRT and Keras; operators that are not builtin cannot be loaded."""
    shape = (28, 28, 1) if entry.shape[0] == 224 else entry.shape
    model = build(name, input_shape=shape, classes=10, seed=1)
    data = keras_to_litert(model)
    x = np.random.default_rng(0).random((1, *shape), np.float32)
    (answer,) = LiteRT().load(data).run([x])
    apart: Any = np.abs(answer - np.asarray(model(x, training=False))).max()
    kinds = sorted({operator.name for operator in parse_model(data).operators})
    return Figure(f"{name}: LiteRT beside Keras", float(apart), "", "<= 1e-5", None, ", ".join(kinds))


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All figures."""
    figures = []
    for name, entry in ZOO.items():
        figures.append(parameters(name, entry))
        if options.full:
            figures.append(conversion(name, entry))
        print(f"{name}: {figures[-1].how}", file=sys.stderr)
    return figures


if __name__ == "__main__":
    run(measure, __doc__)
