"""Int8 weights that stay what they were in the release before, so that the delta to it is small.

A weight that training moved by less than a rounding step often falls over the edge between two integers,
and each that does costs bytes on every device's link.  With the former integer at hand it may stay where it
is while it is off by no more than a stated number of steps: a hysteresis in place of the edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import InputError
from collab.graph import Graph, parse_model
from collab.graph.schema import INT8

STEPS: Final = 1.0
"""By default; each rounded for itself is off by half a step at most."""
_FLOAT32: Final = 0
"""Of ``enum TensorType`` in schema.fbs."""


@dataclass(frozen=True)
class Former:
    """The int8 model of the release before, and how far off a weight may be that stays its."""

    model: bytes
    steps: float = STEPS

    def __post_init__(self) -> None:
        """Raise `InputError` for a model without int8 weights."""
        if not any(True for _ in _weights(parse_model(self.model))):
            raise InputError("--near: has no int8 weights; give the int8 .tflite of the release before")


@dataclass(frozen=True)
class _Weights:
    name: str
    values: NDArray[Any]
    start: int
    """In the file."""
    scale: NDArray[np.float64]
    """Shaped so that it goes with the values."""


def nearer(model: bytes, plain: bytes, former: Former) -> bytes:
    """Keep each weight of the former model that is near enough to the real one.

    Args:
        model: what the quantiser made of ``plain``; only its int8 constants change, and their scales stay.
        plain: the float32 model, with the same names of tensors.
        former: its constants are paired with the model's in order; those of another shape are left.
    """
    real = {each.name: each.values for each in _weights(parse_model(plain), _FLOAT32)}
    data = bytearray(model)
    for now, before in _pairs(model, former.model):
        wanted = real.get(now.name)
        if wanted is not None and wanted.shape == now.values.shape:
            off = np.abs(wanted / now.scale - before)
            kept = np.where(off <= former.steps, before, now.values)
            data[now.start : now.start + kept.nbytes] = kept.tobytes()
    return bytes(data)


def same_weights(model: bytes, former: bytes) -> float:
    """The share of a model's int8 weights that are those of a former one."""
    count = sum(each.values.size for each in _weights(parse_model(model)))
    same = sum(int((now.values == before).sum()) for now, before in _pairs(model, former))
    return same / max(count, 1)


def _pairs(model: bytes, former: bytes) -> Iterator[tuple[_Weights, NDArray[Any]]]:
    pairs = zip(_weights(parse_model(model)), _weights(parse_model(former)), strict=False)
    return ((now, before.values) for now, before in pairs if now.values.shape == before.values.shape)


def _weights(graph: Graph, kind: int = INT8) -> Iterator[_Weights]:
    """Constants of one type with two axes or more, in the order of the file."""
    flat = graph.flat
    dtype = np.int8 if kind == INT8 else np.float32
    for tensor in flat.subgraphs[graph.main].tensors:
        span = flat.buffers[tensor.buffer]
        shape = () if tensor.shape is None else tuple(int(each) for each in tensor.shape)
        if span is None or len(shape) < 2 or tensor.type != kind:
            continue
        scale = _scale(tensor.quantization, len(shape)) if kind == INT8 else np.ones(1)
        count = int(np.prod(shape))
        if scale is not None and span[1] == count * np.dtype(dtype).itemsize:
            values = np.frombuffer(flat.data, dtype, count, span[0]).reshape(shape)
            yield _Weights(tensor.name.decode(), values, span[0], scale)


def _scale(found: Any, axes: int) -> NDArray[np.float64] | None:
    """None where the numbers are not multiples of a scale."""
    if found is None or found.scale is None or np.any(found.zeroPoint):
        return None
    scale = np.asarray(found.scale, np.float64)
    along = [1] * axes
    along[found.quantizedDimension if scale.size > 1 else 0] = -1
    return scale.reshape(along)
