"""One plan takes the place of another of its name: up beside it first, then the former admits nothing more.

Clients that follow the plan make what is refused again (`collab.client.follow`), so no request is
lost and none is answered by two models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs, Deployment, deploy
from collab.core.ids import Epoch, NodeName, PlanName
from collab.core.plan import Plan
from collab.errors import CollabError

log = logging.getLogger("collab.takeover")

Keep = Callable[[Plan], None]
"""Told of a plan before the former one admits nothing more, so that clients find it.  May block."""


async def take_over(cluster: Cluster, plan: Plan, blobs: Blobs, keep: Keep) -> Deployment:
    """Bring a plan up beside its former epochs, then let those admit nothing more.

    Raises what `deploy` raises; nothing has changed then.
    """
    deployment = await deploy(cluster, plan, blobs)
    try:
        await asyncio.to_thread(keep, plan)
    except CollabError as error:
        log.warning("plan %r runs, but clients may not find it: %s", plan.name, error)
    views = await cluster.describe(sorted({ref.name for one in plan.family for ref in one.nodes}))
    former = [
        (view.name, one.name, epoch)
        for view in views.values()
        for one in plan.family
        for epoch in view.holds(one.name)
        if epoch < (view.epoch_of(one.name) or (Epoch(0), ""))[0]
    ]
    await asyncio.gather(*(_retire(cluster, *entry) for entry in former))
    return deployment


async def _retire(cluster: Cluster, node: NodeName, plan: PlanName, epoch: Epoch) -> None:
    with suppress(CollabError):  # it is lost, or has unloaded it by itself
        await cluster.control(node).epoch("Retire", plan, epoch, "", "")
