"""The digits model with other weights in its last layer: the same operators, byte by byte in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from collab.assets import path as asset
from collab.graph import parse_model

DIGITS = asset("digits.tflite")


def _edited(change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    data = DIGITS.read_bytes()
    graph = parse_model(data)
    operator = graph.flat.subgraphs[graph.main].operators[graph.flow.counted[-2]]
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    made = bytearray(data)
    for tensor in operator.inputs[1:]:
        weights = interpreter.get_tensor(int(tensor))
        raw = weights.tobytes()
        assert data.count(raw) == 1
        place = data.index(raw)
        made[place : place + len(raw)] = change(weights).astype(np.float32).tobytes()
    return bytes(made)


def sharper(factor: float = 1.01) -> bytes:
    """Says the same with other numbers."""
    return _edited(lambda weights: weights * factor)


def shuffled() -> bytes:
    """Gives every digit the name of the one before."""
    return _edited(lambda weights: np.roll(weights, 1, axis=0))


def not_finite() -> bytes:
    """Answers with NaN."""
    return _edited(lambda weights: np.full_like(weights, np.nan))
