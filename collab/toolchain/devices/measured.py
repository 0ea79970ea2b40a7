"""What the interpreter here says of a model: its arena, what XNNPACK takes, and the time of operators."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from collab import assets
from collab.codec.tensors import Array
from collab.graph import Graph, allowed_cuts, read_model, split
from collab.runtime.base import Backend, LoadedStage
from collab.runtime.sample import zero_inputs
from collab.toolchain.devices.memory import lives

RUNS: Final = 11
MAX_PIECES: Final = 200
REFERENCE_MS: Final = 8.0
"""MobileNetV2 1.0 224 fp32 with one thread on the machine that the yardsticks are compared with."""
REFERENCE_MACS: Final = 300_774_272
REFERENCE_DIGITS_MS: Final = 4.6
"""The demo's digit model on that machine; timed again here, it says how fast this one is."""


def arena_bytes(graph: Graph) -> int | None:
    """Memory from the first to the last byte of the tensors that LiteRT places without a delegate.

    What kernels take for themselves lies between them or behind, so this may be more than
    the plan and less than all.  None where the runtime does not tell, or a shape is open.
    """
    if any(value.barred for value in graph.flow.values.values()):
        return None
    try:
        module: Any = importlib.import_module("ai_edge_litert.interpreter")
        interpreter = module.Interpreter(
            model_content=bytes(graph.data),
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
        spans = [_span(interpreter, life.tensor) for life in lives(graph) if life.bytes]
    except (ImportError, RuntimeError, ValueError, AttributeError, TypeError):
        return None
    if not spans:
        return 0
    return max(stop for _, stop in spans) - min(start for start, _ in spans)


def _span(interpreter: Any, tensor: int) -> tuple[int, int]:
    # Where there is no memory yet this raises, and the next call would not.
    interpreter.get_tensor(tensor)
    view = interpreter.tensor(tensor)()
    start = int(view.__array_interface__["data"][0])
    return start, start + int(view.nbytes)


@dataclass(frozen=True)
class Times:
    """How long a model takes here, with one thread.

    Attributes:
        whole_ms: the whole model.
        op_ms: of each counted operator; together they are `whole_ms`.
        speed: how many times as fast as the reference machine this one is.
    """

    whole_ms: float
    op_ms: tuple[float, ...]
    speed: float


def times(graph: Graph, weights: Sequence[float], backend: Backend) -> Times:
    """Time a model, its pieces between cuts, and the yardstick.

    Args:
        graph: the model.
        weights: shares of the operators within one piece, which cannot be timed one by one.
        backend: what runs it.
    """
    whole = _timed(backend, graph.data)
    op_ms = [0.0] * graph.op_count
    for start, stop, took in _pieces(graph, backend):
        total = sum(weights[start:stop]) or float(stop - start)
        for at in range(start, stop):
            op_ms[at] = took * (weights[at] if sum(weights[start:stop]) else 1.0) / total
    together = sum(op_ms)
    scale = whole / together if together else 1.0
    yardstick = read_model(assets.path("digits.tflite"))
    speed = REFERENCE_DIGITS_MS / max(_timed(backend, yardstick.data), 1e-6)
    return Times(whole, tuple(ms * scale for ms in op_ms), speed)


def _pieces(graph: Graph, backend: Backend) -> list[tuple[int, int, float]]:
    cuts = list(allowed_cuts(graph))
    if len(cuts) >= MAX_PIECES:
        cuts = cuts[:: -(-len(cuts) // MAX_PIECES)]
    values: dict[str, Array] = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in graph.inputs}
    found = []
    for piece in split(graph, cuts):
        stage = backend.load(piece.data, 1)
        try:
            given = [values[spec.name] for spec in piece.inputs]
            values |= zip((spec.name for spec in piece.outputs), stage.run(given), strict=True)
            found.append((piece.start, piece.stop, _best_ms(stage, given)))
        finally:
            stage.close()
    return found


def _timed(backend: Backend, data: Any) -> float:
    stage = backend.load(bytes(data), 1)
    try:
        return _best_ms(stage, zero_inputs(stage))
    finally:
        stage.close()


def _best_ms(stage: LoadedStage, inputs: Sequence[Array]) -> float:
    stage.run(inputs)
    found = []
    for _ in range(RUNS):
        begun = time.thread_time_ns()
        stage.run(inputs)
        found.append((time.thread_time_ns() - begun) / 1e6)
    # Of one thread, the fastest: others may share this machine.
    return min(found)
