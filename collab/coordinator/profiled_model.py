"""What a profile says of the model alone, and the stages that are timed to learn what it costs."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from collab.codec.edges import relative_error
from collab.codec.tensors import Array, EncodedTensor, encode
from collab.core.codecs import RAW, parse_codec
from collab.core.profile import CodecAt, ModelTensor
from collab.core.tensor import ITEMSIZE, TensorSpec
from collab.graph import Graph, StageModel, allowed_cuts, split
from collab.runtime.base import Backend

MAX_PIECES: Final = 400
"""Stages into which a model is cut at most, to time its operators."""
MAX_STAGES: Final = 64
"""Of one split but the finest; very short ones say little of what plans have."""
MAX_SENT_BYTES: Final = 256 << 20
"""Of all stages but the smallest ones, for each node."""
SAMPLE_BYTES: Final = 2 << 20
"""Of boundary tensors that a node times codecs on."""
MAX_SAMPLES: Final = 64
_SPLITS: Final = (
    ("cuts", 1),
    ("every", 8),
    ("cuts", 2),
    ("every", 4),
    ("cuts", 1),
    ("every", 16),
    ("cuts", 3),
    ("every", 2),
    ("cuts", 2),
    ("every", 32),
    ("cuts", 3),
    ("cuts", 1),
)
"""Splits at so many cuts by chance, or with a cut every so many pieces; any number of the first serves."""

Tensors = list[tuple[TensorSpec, Array]]


@dataclass(frozen=True)
class Boundary:
    """The tensors at one place of one pass through the model."""

    at: int
    tensors: Tensors


def places(graph: Graph) -> tuple[int, ...]:
    """0, the cuts between which operators are timed, and the number of operators."""
    works = allowed_cuts(graph)
    if len(works) >= MAX_PIECES:
        kept = np.unique(np.linspace(0, len(works) - 1, MAX_PIECES - 1).astype(int))
        works = tuple(works[i] for i in kept)
    return (0, *works, graph.op_count)


def splits(graph: Graph, between: Sequence[int], seed: int) -> Iterator[tuple[int, ...]]:
    """Cuts of splits whose stages tell what longer ranges cost, the same for the same seed.

    The whole model, grids of short stages, and stages of any length.  Each split has the
    size of the model; their number is bounded by `MAX_SENT_BYTES`, but three there are.
    """
    rng = random.Random(seed)
    cuts = list(between[1:-1])
    yield ()
    room = max(3, MAX_SENT_BYTES // max(len(graph.data), 1))
    for kind, number in _SPLITS[:room]:
        if kind == "every":
            at = cuts[rng.randrange(number) :: number]
        else:
            at = sorted(rng.sample(cuts, min(number, len(cuts))))
        if at and len(at) < min(len(cuts), MAX_STAGES):
            yield tuple(at)


def model_tensors(graph: Graph) -> tuple[ModelTensor, ...]:
    """What flows between counted operators."""
    flow, operators = graph.flow, graph.flat.subgraphs[graph.main].operators
    readers: dict[int, list[int]] = {}
    for number, position in enumerate(flow.counted):
        for tensor in dict.fromkeys(operators[position].inputs):
            readers.setdefault(tensor, []).append(number)
    return tuple(
        ModelTensor(
            name=value.spec.name,
            bytes=_size(value.spec),
            made=value.made - 1,
            readers=tuple(readers.get(value.tensor, ())),
            output=value.last == graph.op_count,
        )
        for value in flow.values.values()
        if value.last >= 0
    )


def working_bytes(graph: Graph) -> list[int]:
    """Bytes of all tensors that live while each operator runs."""
    found = []
    for k in range(graph.op_count):
        alive = {v.tensor: v.spec for v in (*graph.boundaries[k], *graph.boundaries[k + 1])}
        found.append(sum(map(_size, alive.values())))
    return found


def _size(spec: TensorSpec) -> int:
    """Bytes of a tensor; 0 of one whose size is not known, which cannot travel either."""
    return spec.nbytes if spec.dtype in ITEMSIZE and all(d >= 0 for d in spec.shape) else 0


def boundaries(
    graph: Graph, between: Sequence[int], backend: Backend, inputs: Sequence[Mapping[str, Array]]
) -> Iterator[Boundary]:
    """The tensors at every place, for each set of inputs; stages run on this machine.

    Raises `ModelError` or `BackendError`.
    """
    stages: Sequence[StageModel] = split(graph, between[1:-1])
    for given in inputs:
        held = {spec.name: np.asarray(given[spec.name]) for spec in graph.inputs}
        yield Boundary(0, [(spec, held[spec.name]) for spec in graph.inputs])
        for stage in stages:
            loaded = backend.load(stage.data, 1)
            try:
                made = loaded.run([held[spec.name] for spec in stage.inputs])
            finally:
                loaded.close()
            held |= {spec.name: array for spec, array in zip(stage.outputs, made, strict=True)}
            held = {spec.name: held[spec.name] for spec in stage.boundary_out}
            yield Boundary(stage.stop, [(spec, held[spec.name]) for spec in stage.boundary_out])


class CodecTrials:
    """Adds up what codecs do at each place, and keeps samples of what they were tried on."""

    def __init__(self, codecs: Sequence[str]) -> None:
        self._codecs = [name for name in codecs if name != RAW]
        self._sums: dict[tuple[int, str], tuple[int, int, float]] = {}
        self._tensors: Tensors = []

    def add(self, boundary: Boundary) -> None:
        """Try all codecs on one boundary."""
        for name in self._codecs:
            raw, sent, worst = self._sums.get((boundary.at, name), (0, 0, 0.0))
            for spec, array in boundary.tensors:
                tensor = encode(spec, array, name)
                raw, sent = raw + spec.nbytes, sent + len(tensor.data)
                worst = max(worst, _error(array, tensor))
            self._sums[boundary.at, name] = raw, sent, worst
        self._tensors += [_leading(spec, array) for spec, array in boundary.tensors if spec.nbytes]
        # Half of them go when they are too many: what is left is of places all over the model.
        while sum(spec.nbytes for spec, _ in self._tensors) > 4 * SAMPLE_BYTES and len(self._tensors) > 1:
            del self._tensors[::2]

    @property
    def sample(self) -> Tensors:
        """Tensors of places all over the model, about `SAMPLE_BYTES` of them at most."""
        kept, room = [], SAMPLE_BYTES
        for spec, array in self._tensors[:: max(1, len(self._tensors) // MAX_SAMPLES)][:MAX_SAMPLES]:
            if spec.nbytes <= room:
                kept.append((spec, array))
                room -= spec.nbytes
        return kept

    def at(self, place: int) -> tuple[CodecAt, ...]:
        """What was found at a place; nothing of a codec without a bounded error there."""
        found = []
        for name in self._codecs:
            raw, sent, worst = self._sums.get((place, name), (0, 0, math.inf))
            if sent and math.isfinite(worst):
                found.append(CodecAt(codec=name, ratio=round(raw / sent, 4), error=float(f"{worst:.4g}")))
        return tuple(found)


def _error(array: Array, tensor: EncodedTensor) -> float:
    return 0.0 if parse_codec(tensor.codec).exact else relative_error(array, tensor)


def _leading(spec: TensorSpec, array: Array) -> tuple[TensorSpec, Array]:
    """The tensor, or as many of its first rows as are `SAMPLE_BYTES`; elements, where one row is more."""
    if spec.nbytes <= SAMPLE_BYTES:
        return spec, array
    item, width = ITEMSIZE[spec.dtype], spec.shape[-1]
    if width * item > SAMPLE_BYTES:
        part = np.ascontiguousarray(array.reshape(-1)[: SAMPLE_BYTES // item])
    else:
        part = np.ascontiguousarray(array.reshape(-1, width)[: SAMPLE_BYTES // (width * item)])
    return TensorSpec(spec.name, part.shape, spec.dtype), part
