"""What a variant is worth: right answers, size, time beside the baseline, memory, exact cuts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from collab.errors import ModelError
from collab.graph import Graph, VerifyReport, parse_model, verify
from collab.runtime.litert import LiteRT
from collab.toolchain.compress.network import Array
from collab.toolchain.devices.memory import lives, plan_arena

ZSTD_LEVEL: Final = 19
_EPSILON: Final = 1e-7

Progress = Callable[[int, int], None]


def answers(model: bytes, inputs: Array, progress: Progress | None = None) -> Array:
    """What a ``.tflite`` of one float32 input and output answers, ``[n, classes]``, on one thread."""
    stage = LiteRT().load(model, 1)
    try:
        if len(stage.inputs) != 1 or len(stage.outputs) != 1 or stage.inputs[0].dtype != "float32":
            raise ModelError("has not one float32 input and one output; compress classifiers of one each")
        made = []
        for at, each in enumerate(inputs):
            made.append(stage.run([each[None]])[0][0])
            if progress is not None and at % 500 == 499:
                progress(at + 1, len(inputs))
        return np.asarray(made, np.float32)
    finally:
        stage.close()


def right(model: bytes, inputs: Array, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which inputs a model names right."""
    found: NDArray[np.bool_] = answers(model, inputs).argmax(axis=1) == labels
    return found


def loss(model: bytes, inputs: Array, labels: NDArray[np.int64]) -> float:
    """Mean cross entropy of a model that answers with probabilities."""
    chosen = answers(model, inputs)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, _EPSILON)).mean())


def zstd_bytes(model: bytes) -> int:
    """Bytes on the way to a device."""
    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(model))


def arena_bytes(model: bytes) -> int:
    """Peak memory of the activations, as a greedy planner places them."""
    return plan_arena(lives(parse_model(model))).bytes


def times_ms(models: Sequence[bytes], example: Array, rounds: int = 30, calls: int = 10) -> tuple[float, ...]:
    """Median time of a call of each model on one thread, the models measured in turns.

    Of each turn the least of ``calls`` counts: what disturbs it only ever adds.
    """
    stages = [LiteRT().load(model, 1) for model in models]
    found: list[list[float]] = [[] for _ in models]
    try:
        for at in range(rounds + 1):
            for stage, row in zip(stages, found, strict=True):
                taken = []
                for _ in range(calls):
                    start = time.perf_counter()
                    stage.run([example])
                    taken.append(time.perf_counter() - start)
                if at:
                    row.append(min(taken) * 1e3)
    finally:
        for stage in stages:
            stage.close()
    return tuple(statistics.median(row) for row in found)


def exact_cuts(model: bytes, inputs: Array, progress: Progress | None = None) -> VerifyReport:
    """Split a model at every cut by itself and compare with the whole one on real inputs."""
    graph: Graph = parse_model(model)
    splits = [(at,) for at in range(1, graph.op_count)]
    backend = LiteRT()
    return verify(
        graph,
        splits,
        lambda data: backend.load(data, 1).run,
        inputs=[[each[None]] for each in inputs[:2]],
        progress=None if progress is None else lambda done: progress(done, len(splits)),
    )
