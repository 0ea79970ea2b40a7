"""From a running plan to others of its kind: the rules that it keeps, and how one is built from a chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from collab.coordinator.deploy import Blobs
from collab.coordinator.planning import build_solved, open_model
from collab.core.ids import REQUESTER
from collab.core.plan import NodeRef, Plan, Tolerance
from collab.core.profile import Profile
from collab.core.validate import validate
from collab.errors import ModelError, PlanError
from collab.planner.chains import Chain, Objective, Wants
from collab.planner.prediction import chain_of

Build = Callable[[Chain, Sequence[NodeRef]], tuple[Plan, Blobs]]
"""From a chain and the nodes that a plan lists to the plan and the bytes of its stages."""


def wants_of(plan: Plan, objective: Objective) -> Wants:
    """The rules that a plan keeps by itself: its codecs, transports, replicas and repeated nodes."""
    chain = chain_of(plan)
    nodes = [name for stage in chain.stages for name in stage.nodes]
    return Wants(
        objective=objective,
        codecs=tuple(dict.fromkeys(["raw", *(move.codec for move in chain.moves)])),
        codec_error=plan.codec_error,
        transports=tuple(dict.fromkeys(move.transport for move in chain.moves)),
        max_replicas=max(len(stage.nodes) for stage in chain.stages),
        revisit=len(set(nodes)) < len(nodes),
    )


def rebuilder(plan: Plan, profile: Profile, folder: Path) -> Build:
    """How plans like a running one are made; reads its model once.

    Raises `PlanError` for a profile of another model, `ModelError` for a model file that
    is not there or not the plan's.
    """
    model = plan.models[0]
    if model.sha256 != profile.model_sha256:
        raise PlanError(
            f"models[0].sha256: the profile is of model {profile.model_sha256[:12]}, the plan of "
            f"{model.sha256[:12]}; profile the plan's model"
        )
    if model.path is None:
        raise ModelError("models[0].path: the plan does not say where the model is; add the path")
    path = folder / model.path
    graph = open_model(path, model.signature)
    if graph.sha256 != model.sha256:
        raise ModelError(f"models[0]: {path} has another digest than the plan; make the plan anew")
    by_chain = any(edge.via for edge in plan.edges if edge.target == REQUESTER)
    threads = {device.name: device.threads for device in profile.devices}

    def build(chain: Chain, refs: Sequence[NodeRef]) -> tuple[Plan, Blobs]:
        made, blobs = build_solved(
            plan.name,
            path,
            graph,
            chain,
            refs,
            threads,
            signature=model.signature,
            credits=plan.credits,
            return_by_chain=by_chain,
            codec_error=plan.codec_error,
        )
        tolerance = Tolerance(
            atol=max(made.tolerance.atol, plan.tolerance.atol),
            rtol=max(made.tolerance.rtol, plan.tolerance.rtol),
        )
        # Nodes that the plan leaves are listed still: they go on with what they have admitted.
        listed = {ref.name for ref in refs}
        streams = tuple(stream for stream in plan.streams if stream.source.node in listed)
        changed = made.replace(models=plan.models, nodes=tuple(refs), tolerance=tolerance, streams=streams)
        return validate(changed), blobs

    return build
