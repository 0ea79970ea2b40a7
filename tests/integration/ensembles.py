"""Plans with several models, written by hand as a person would, and a small model for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from collab.codec.tensors import Array
from collab.coordinator.deploy import Blobs
from collab.core.ids import REQUESTER, Digest, PlanName
from collab.core.plan import Edge, Guard, ModelRef, NodeRef, Plan, StageSpec
from collab.core.validate import validate
from collab.graph import split
from collab.runtime.litert import LiteRT
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess
from tests.tflite_builder import ModelBuilder

Member = tuple[StageSpec, ModelRef, Blobs]


def whole(reference: Reference, stage: str, model: str, nodes: Sequence[str]) -> Member:
    """A whole model as one stage."""
    (only,) = split(reference.graph, ())
    digest = Digest(only.sha256)
    spec = StageSpec(
        id=stage,
        nodes=tuple(nodes),
        inputs=only.inputs,
        outputs=only.outputs,
        model=model,
        ops=(0, reference.graph.op_count),
        sha256=digest,
        bytes=len(only.data),
    )
    ref = ModelRef(
        id=model,
        sha256=Digest(reference.graph.sha256),
        ops=reference.graph.op_count,
        path=str(reference.path),
    )
    return spec, ref, {digest: only.data}


def combiner(reference: Reference, node: str, **options: Any) -> StageSpec:
    outputs = reference.graph.outputs
    return StageSpec(id="answer", nodes=(node,), inputs=outputs, outputs=outputs, **options)


def written(
    reference: Reference,
    name: str,
    members: Sequence[Member],
    last: StageSpec,
    edges: Sequence[Edge],
    nodes: Sequence[NodeProcess],
) -> tuple[Plan, Blobs]:
    plan = Plan(
        name=PlanName(name),
        models=tuple(ref for _, ref, _ in members),
        inputs=reference.graph.inputs,
        outputs=reference.graph.outputs,
        stages=(*(spec for spec, _, _ in members), last),
        edges=tuple(edges),
        nodes=tuple(NodeRef(name=node.name, endpoints=(node.endpoint,)) for node in nodes),
    )
    # As a person's file would arrive.
    plan = validate(msgspec.json.decode(msgspec.json.encode(plan), type=Plan))
    return plan, {digest: data for _, _, blobs in members for digest, data in blobs.items()}


def edge(source: str, target: str, tensor: str, guard: Guard | None = None) -> Edge:
    return Edge(source=source, target=target, tensors=(tensor,), guard=guard)


def twins(reference: Reference, members: str, last: str, nodes: Sequence[NodeProcess]) -> tuple[Plan, Blobs]:
    """The mean of one model on two nodes, taken on a third."""
    one, two = (
        whole(reference, stage, f"m-{stage}", [node])
        for stage, node in zip(("one", "two"), members, strict=True)
    )
    edges = [
        *(edge(REQUESTER, stage, "image") for stage in ("one", "two")),
        *(edge(stage, "answer", "probabilities") for stage in ("one", "two")),
        edge("answer", REQUESTER, "probabilities"),
    ]
    return written(reference, "twins", [one, two], combiner(reference, last, combine="mean"), edges, nodes)


def linear(weights: Array) -> bytes:
    """A linear classifier of digits that calls its tensors otherwise than the shipped model does."""
    model = ModelBuilder()
    main = model.main
    shape = main.const("shape", [1, 784], "int32")
    x = main.input("serving_default_x", [1, 28, 28, 1])
    flat = main.op("RESHAPE", [x, shape], shape=[1, 784], options="ReshapeOptions")
    logits = main.dense(flat, weights.astype(np.float32))
    fields = {"beta": 1.0}
    main.output(
        main.op("SOFTMAX", [logits], name="Identity", shape=[1, 10], options="SoftmaxOptions", fields=fields)
    )
    return model.build()


def alone(path: Path, images: Array) -> list[Array]:
    """A model's answers in this process."""
    stage = LiteRT().load(path)
    answers = [stage.run([image])[0] for image in images]
    stage.close()
    return answers
