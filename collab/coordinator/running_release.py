"""What a plan's nodes say they run: release, epoch and digests, node by node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from collab.coordinator.cluster import Cluster
from collab.core.ids import Digest, NodeName, PlanName, StageId
from collab.core.plan import Plan
from collab.errors import CollabError, NotLoaded
from collab.transport.aio import timeout

_ASK_S: Final = 10.0
"""How long one node may take, being dialled included."""

Agreement = Literal["same", "partly", "mixed", "not deployed", "unreachable"]
"""All say the same; those that can be reached do; they do not; none runs it; none can be reached."""


@dataclass(frozen=True)
class NodeRuns:
    """What one node says of one plan.

    Attributes:
        epoch: 0 where it does not run the plan.
        plan: digest of the plan as it runs there.
        release: as ``FAMILY:VERSION``; empty where its model came in none.
        stages: digests of the stages that are placed on it.
        trouble: why it could not be asked; empty where it was.
    """

    node: NodeName
    epoch: int = 0
    plan: str = ""
    model: str = ""
    release: str = ""
    stages: Mapping[StageId, Digest] = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True)
class PlanRuns:
    """What all nodes say of one plan."""

    plan: PlanName
    nodes: tuple[NodeRuns, ...]

    @property
    def agreement(self) -> Agreement:
        """Whether they run one version of it."""
        asked = [node for node in self.nodes if not node.trouble]
        if not asked:
            return "unreachable"
        if not any(node.epoch for node in asked):
            return "not deployed"
        if len({(node.epoch, node.plan) for node in asked}) > 1:
            return "mixed"
        return "same" if len(asked) == len(self.nodes) else "partly"

    @property
    def versions(self) -> tuple[str, ...]:
        """The releases that run, or the models' digests where there are none; each once, sorted."""
        running = [node for node in self.nodes if node.epoch]
        return tuple(sorted({node.release or f"model {node.model[:12]}" for node in running}))


async def ask_plan(cluster: Cluster, plan: Plan) -> PlanRuns:
    """Ask each node of a plan; one that cannot be asked says why in its place."""
    nodes = await asyncio.gather(*(_ask(cluster, plan, name) for name in plan.placed))
    return PlanRuns(plan.name, tuple(nodes))


async def _ask(cluster: Cluster, plan: Plan, name: NodeName) -> NodeRuns:
    try:
        async with timeout(_ASK_S):
            await cluster.reach_plan(plan, [name])
            try:
                epoch, runs = await cluster.control(name).current_plan(plan.name)
            except NotLoaded:
                return NodeRuns(name)
    except CollabError as error:
        return NodeRuns(name, trouble=" ".join(str(error).split()))
    except (TimeoutError, asyncio.TimeoutError):
        return NodeRuns(name, trouble=f"no answer within {_ASK_S:g} s")
    stages = {stage.id: stage.sha256 for stage in runs.stages_on(name) if stage.sha256 is not None}
    model = runs.models[0].sha256 if runs.models else ""
    return NodeRuns(name, epoch, runs.digest, model, runs.release, stages)
