"""Cuts a graph into stages, each a .tflite file of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

from collab.core.tensor import TensorSpec
from collab.graph.assemble import assemble
from collab.graph.cuts import check_cuts
from collab.graph.graph import Graph
from collab.graph.stage import answers, stage_parts
from collab.graph.write import Weights, write


@dataclasses.dataclass(frozen=True)
class StageModel:
    """One stage: counted operators ``[start, stop)`` as a .tflite file.

    Attributes:
        start: first counted operator.
        stop: one past the last counted operator.
        data: the file.
        sha256: hex digest of the file.
        inputs: what it reads, in interpreter order.
        outputs: what it makes and is read later or is the model's answer, in interpreter order;
            an answer that is a model input or was made by an earlier stage is not among them.
        boundary_in: all that travels over the cut before it, what it only passes on included;
            for the first stage the model inputs that anything reads.
        boundary_out: all that travels over the cut after it; for the last stage the answers.
    """

    start: int
    stop: int
    data: bytes = dataclasses.field(repr=False)
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    boundary_in: tuple[TensorSpec, ...]
    boundary_out: tuple[TensorSpec, ...]


def split(graph: Graph, at: Sequence[int], *, weights: Weights = "auto") -> tuple[StageModel, ...]:
    """Cut a graph at ascending places; no place gives one stage, the whole model.

    Args:
        graph: the model.
        at: cuts, each 1 <= k < n.
        weights: where the stages keep their weights, see `collab.graph.write.write`.

    Raises:
        CutError: a cut is out of range, out of order, given twice or refused.
        ModelError: a stage cannot be written.
    """
    edges = [0, *check_cuts(graph, at), graph.op_count]
    return tuple(_stage(graph, start, stop, weights) for start, stop in itertools.pairwise(edges))


def manifest(graph: Graph, stages: Sequence[StageModel]) -> dict[str, Any]:
    """Describe a split as ``manifest.json`` does; names are in interpreter order."""
    return {
        "model_sha256": graph.sha256,
        "inputs": [spec.name for spec in graph.inputs],
        "outputs": [spec.name for spec in graph.outputs],
        "stages": [
            {
                "id": f"stage-{number}",
                "file": f"stage-{number}.tflite",
                "sha256": stage.sha256,
                "ops": [stage.start, stage.stop],
                "inputs": [spec.name for spec in stage.inputs],
                "outputs": [spec.name for spec in stage.outputs],
            }
            for number, stage in enumerate(stages)
        ],
    }


def _stage(graph: Graph, start: int, stop: int, weights: Weights) -> StageModel:
    parts = stage_parts(graph, start, stop)
    data = write(assemble(graph, parts), graph.data, weights)
    last = stop == graph.op_count
    specs = {t: v.spec for t, v in graph.flow.values.items()}
    by_name = {spec.name: spec for spec in graph.outputs}
    return StageModel(
        start=start,
        stop=stop,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        inputs=tuple(specs[t] for t in parts.inputs),
        outputs=tuple(specs.get(t) or by_name[graph.flow.names[t]] for t in parts.outputs),
        boundary_in=tuple(v.spec for v in graph.boundaries[start]),
        boundary_out=answers(graph) if last else tuple(v.spec for v in graph.boundaries[stop]),
    )
