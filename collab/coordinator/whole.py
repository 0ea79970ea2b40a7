"""The whole model in this process, as what a plan's requests fall back on."""

from __future__ import annotations

from pathlib import Path

from collab.client.local import LocalModel
from collab.coordinator.one_process import in_one_process, is_pipeline, open_models
from collab.coordinator.planning import open_model, whole_model
from collab.core.plan import Plan
from collab.errors import ModelError, PlanError, Refused


def local_model(plan: Plan, path: Path) -> LocalModel:
    """The model of a file, compared with the plan's; blocks while it is read.

    Of a pipeline ``path`` is a folder with its models, and all of it is computed here.

    Raises `Refused` where the plan forbids it, `PlanError` for a plan whose models answer
    together, `ModelError` for another file than the plan was made from.
    """
    if not plan.local:
        raise Refused(f"plan {plan.name!r} says local: false; its model is computed on its nodes alone")
    if is_pipeline(plan):
        return LocalModel(in_one_process(plan, open_models(plan, path)), plan.inputs, plan.outputs)
    if len(plan.models) != 1:
        raise PlanError(f"plan {plan.name!r} is of {len(plan.models)} models; only one can be computed here")
    known = plan.models[0]
    graph = open_model(path, known.signature)
    if graph.sha256 != known.sha256:
        raise ModelError(
            f"{path}: has digest {graph.sha256[:12]}, the plan is of {known.sha256[:12]}; "
            "give the file that the plan was made from"
        )
    for what, planned, real in (
        ("inputs", plan.inputs, graph.inputs),
        ("outputs", plan.outputs, graph.outputs),
    ):
        if tuple(planned) != tuple(real):
            raise ModelError(f"{path}: its {what} are not the plan's; make the plan anew")
    return LocalModel(whole_model(graph), graph.inputs, graph.outputs)
