"""A new plan beside the one that runs: the same stages' places, under a name of its own."""

from __future__ import annotations

import hashlib
from typing import Final

from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import undeploy
from collab.core.ids import PlanName
from collab.core.plan import Plan

_LONGEST_NAME: Final = 63
_DRAIN_S: Final = 2.0


def beside(plan: Plan, mark: str) -> Plan:
    """The plan under its name with a mark, without what stands in for it and without its streams."""
    return plan.replace(name=_marked(plan.name, mark), alternatives=(), local=False, streams=())


async def take_down(cluster: Cluster, plan: Plan) -> None:
    """Let requests of a plan that stood beside finish for a moment, and free it; safe to repeat.

    Raises `PeerError` where a node is away.
    """
    await undeploy(cluster, plan, _DRAIN_S)


def _marked(name: PlanName, mark: str) -> PlanName:
    whole = f"{name}-{mark}"
    if len(whole) <= _LONGEST_NAME:
        return PlanName(whole)
    short = hashlib.sha256(whole.encode()).hexdigest()[:8]
    room = _LONGEST_NAME - len(short) - len(mark) - 2
    return PlanName(f"{name[:room]}-{short}-{mark}")
