"""Where a plan stands by what its nodes say, and the way back to the version before."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from collab.coordinator.beside import beside, take_down
from collab.coordinator.cluster import Cluster
from collab.coordinator.plan_versions import PlanVersions
from collab.coordinator.planning import stage_blobs
from collab.coordinator.takeover import take_over
from collab.coordinator.trial_board import TrialBoard
from collab.core.ids import Epoch
from collab.core.plan import NodeRef, Plan
from collab.errors import Conflict, NotLoaded, PeerError

log = logging.getLogger("collab.plan_update")

_AGAIN_S: Final = 1.0
_BACK_S: Final = 60.0
"""How long a node that is away is waited for, to go back on all."""


async def running_plan(cluster: Cluster, versions: PlanVersions) -> tuple[Plan, Epoch]:
    """Which known version the nodes run; the journal says so afterwards.

    What was half committed when its process ended is taken back.  Raises `NotLoaded` where the
    nodes run none of them, `PeerUnreachable`.
    """
    plans = await asyncio.to_thread(versions.candidates)
    missing: NotLoaded | None = None
    for plan in plans:
        await cluster.reach_plan(plan)
        try:
            epoch = await cluster.deployed_epoch(plan)
        except NotLoaded as error:
            missing = error
            continue
        await asyncio.to_thread(versions.runs, plan, epoch)
        return plan, epoch
    state = await asyncio.to_thread(versions.state)
    if state.pending is not None and state.versions:
        log.warning("plan %r was left half committed; it goes back to %s", plans[0].name, state.running)
        plan = await asyncio.to_thread(versions.plan, state.running)
        epoch = await _deployed(cluster, versions, plan)
        await asyncio.to_thread(versions.runs, plan, epoch)
        return plan, epoch
    assert missing is not None
    raise missing


async def unfinished(
    cluster: Cluster, versions: PlanVersions, running: Plan, board: TrialBoard, mark: str
) -> int:
    """End what an earlier update has left that was killed; the last number of a trial of the plan.

    Raises `Conflict` where somebody else's trial is under way, `PeerUnreachable`.
    """
    state = await asyncio.to_thread(versions.state)
    found = await board.find()
    if found is not None and found.phase and found.number != state.trial:
        raise Conflict(
            f"plan {running.name!r}: a trial of it is under way elsewhere ({found.phase}); try again "
            "when it is over, or in a minute if its coordinator is gone"
        )
    if found is not None and found.phase:
        await board.end(found.number)
    await take_down(cluster, beside(running, mark))
    if state.trial:
        await asyncio.to_thread(versions.on_trial, 0)
    return 0 if found is None else found.number


async def back_to(cluster: Cluster, versions: PlanVersions, running: Plan) -> Epoch:
    """Deploy the version before the one that runs, as a new epoch; waits for nodes that are away.

    Raises `ConfigError` where none is kept, what `deploy` raises, `PeerUnreachable` after a minute.
    """
    former = await asyncio.to_thread(versions.former)
    plan = await asyncio.to_thread(versions.plan, former)
    places = running.endpoints()
    plan = plan.replace(
        nodes=tuple(NodeRef(name=r.name, endpoints=places.get(r.name, r.endpoints)) for r in plan.nodes)
    )
    epoch = await _deployed(cluster, versions, plan)
    await asyncio.to_thread(versions.went_back, epoch)
    return epoch


async def _deployed(cluster: Cluster, versions: PlanVersions, plan: Plan) -> Epoch:
    blobs = await asyncio.to_thread(stage_blobs, plan, Path())
    loop = asyncio.get_running_loop()
    until = loop.time() + _BACK_S
    while True:
        try:
            return (await take_over(cluster, plan, blobs, versions.keep)).epoch
        except PeerError:
            if loop.time() > until:
                raise
        await asyncio.sleep(_AGAIN_S)
