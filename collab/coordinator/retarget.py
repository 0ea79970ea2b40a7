"""A plan for another model of the same operators: same cuts, same places, other weights.  Pure."""

from __future__ import annotations

from itertools import zip_longest

import msgspec
import numpy as np

from collab.core.ids import Digest
from collab.core.plan import ModelRef, Plan, StageSpec
from collab.core.tensor import TensorSpec
from collab.core.validate import validate
from collab.errors import ModelError, PlanError
from collab.graph import Graph, StageModel, split
from collab.graph.schema import DTYPES
from collab.graph.shapes import tensor_shape

Quantisation = tuple[tuple[float, ...], tuple[int, ...]]
"""Scales and zero points; both empty where a tensor has none."""


def retarget(plan: Plan, running: Graph, graph: Graph, path: str) -> tuple[Plan, dict[Digest, bytes]]:
    """The plan with a new model's stages in it and in its alternatives, and the stages' bytes.

    Who follows the plan may follow it to the new one: ``origin`` of its model says so.

    Args:
        plan: the plan that runs.
        running: its model.
        graph: the new model.
        path: where that is, as the new plan says.

    Raises:
        PlanError: the plan is of several models, or not of `running`.
        ModelError: the models differ in more than weights; names the first operator or tensor.
    """
    if len(plan.models) != 1:
        raise PlanError(f"plan {plan.name!r} is of {len(plan.models)} models; one can be replaced")
    if any(stage.transform is not None or stage.each for stage in plan.stages):
        raise PlanError(
            f"plan {plan.name!r} is a pipeline, whose models cannot be replaced where they run; make it anew "
            "with `collab pipeline` and deploy that"
        )
    (old,) = plan.models
    if old.sha256 != running.sha256:
        raise PlanError(f"plan {plan.name!r} is of another model than {running.sha256[:12]}")
    check_same_operators(running, graph)
    reference = ModelRef(
        id=old.id,
        sha256=Digest(graph.sha256),
        ops=graph.op_count,
        path=path,
        signature=old.signature,
        origin=old.origin or old.sha256,
    )
    blobs: dict[Digest, bytes] = {}
    alternatives = tuple(_with(one, reference, graph, blobs) for one in plan.alternatives)
    made = _with(plan, reference, graph, blobs).replace(alternatives=alternatives)
    return validate(made), blobs


def check_same_operators(running: Graph, graph: Graph) -> None:
    """Raise `ModelError` where two models differ in more than weights."""
    pairs = zip_longest(running.operators, graph.operators)
    for number, (old, new) in enumerate(pairs):
        if old is None or new is None or old.name != new.name:
            there, here = (op.name if op is not None else "nothing" for op in (old, new))
            raise ModelError(
                f"operator {number} is {here}, and {there} in the model that runs: the plan's cuts do not "
                "fit; plan the new model with `collab plan` and deploy that once"
            )
    for number, (before, after) in enumerate(zip(_operands(running), _operands(graph), strict=True)):
        if before != after:
            raise ModelError(
                f"operator {number} ({graph.operators[number].name}) has tensors {after}, and {before} in "
                "the model that runs; plan the new model with `collab plan` and deploy that once"
            )
    for what, olds, news in (
        ("input", running.inputs, graph.inputs),
        ("output", running.outputs, graph.outputs),
    ):
        if tuple(olds) != tuple(news):
            raise ModelError(f"the {what}s are {_said(news)}, and {_said(olds)} in the model that runs")
    for number, spec in enumerate(graph.inputs):
        if input_quantisation(running, number) != input_quantisation(graph, number):
            raise ModelError(
                f"input {spec.name!r} has another scale than in the model that runs, so requests would mean "
                "something else; quantise both with the same calibration"
            )


def _operands(graph: Graph) -> list[str]:
    """Dtypes and shapes of what each counted operator reads and makes."""
    subgraph = graph.flat.subgraphs[graph.main]
    found = []
    for place in graph.flow.counted:
        operator = subgraph.operators[place]
        tensors = [subgraph.tensors[t] for t in (*operator.inputs, *operator.outputs) if t >= 0]
        found.append(", ".join(f"{DTYPES.get(t.type, '?')}{list(tensor_shape(t))}" for t in tensors))
    return found


def _with(plan: Plan, reference: ModelRef, graph: Graph, blobs: dict[Digest, bytes]) -> Plan:
    """One plan with the new stages."""
    starts = sorted(stage.ops[0] for stage in plan.stages if stage.ops is not None)
    models = {(model.start, model.stop): model for model in split(graph, sorted(set(starts))[1:])}
    stages = []
    for index, stage in enumerate(plan.stages):
        if stage.ops is None:
            stages.append(stage)
            continue
        model = models.get(stage.ops)
        if model is None:
            raise PlanError(f"stages[{index}].ops: {list(stage.ops)} is no range between the plan's cuts")
        _check_tensors(index, stage, model)
        digest = Digest(model.sha256)
        blobs[digest] = model.data
        stages.append(msgspec.structs.replace(stage, sha256=digest, bytes=len(model.data)))
    return plan.replace(models=(reference,), stages=tuple(stages))


def _check_tensors(index: int, stage: StageSpec, model: StageModel) -> None:
    for what, planned, made in (
        ("inputs", stage.inputs, model.inputs),
        ("outputs", stage.outputs, model.outputs),
    ):
        if stage.in_file(planned) != tuple(made):
            raise ModelError(
                f"stages[{index}].{what}: {_said(made)}, and {_said(planned)} in the plan that runs; "
                "plan the new model with `collab plan` and deploy that once"
            )


def _said(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name!r} {spec.dtype}{list(spec.shape)}" for spec in specs) or "none"


def input_quantisation(graph: Graph, number: int = 0) -> Quantisation:
    """How a model's input stands for real numbers."""
    subgraph = graph.flat.subgraphs[graph.main]
    return _quantisation(subgraph.tensors[subgraph.inputs[number]])


def output_quantisation(graph: Graph, number: int = 0) -> Quantisation:
    """The same of an output."""
    subgraph = graph.flat.subgraphs[graph.main]
    return _quantisation(subgraph.tensors[subgraph.outputs[number]])


def _quantisation(tensor: object) -> Quantisation:
    table = getattr(tensor, "quantization", None)
    if table is None or table.scale is None or not len(table.scale):
        return (), ()
    scales = tuple(float(scale) for scale in np.asarray(table.scale))
    zeros = () if table.zeroPoint is None else tuple(int(zero) for zero in np.asarray(table.zeroPoint))
    return scales, zeros or (0,) * len(scales)
