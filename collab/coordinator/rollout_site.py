"""What a rollout does with one target: its nodes are asked what they run, then it is updated or taken back.

Each target has links of its own: a node that hangs holds up nobody else's plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collab.coordinator.cluster import Cluster
from collab.coordinator.plan_update import Rules, undo, update_plan
from collab.coordinator.plan_versions import PlanVersions
from collab.coordinator.running_release import PlanRuns, ask_plan
from collab.coordinator.update_source import Offer
from collab.core.plan import Plan, ReleaseRef
from collab.errors import PeerUnreachable
from collab.updates.rollout.state import Event, LeftOut, Spoiled, Target, Updated, WentBack

_NOT_DEPLOYED: Final = "is not deployed on its nodes"


@dataclass(frozen=True)
class PlanSite:
    """Targets that are plans on nodes.

    Attributes:
        offer: the release's file.
        release: what nodes say that run it.
        cluster: makes links that nothing is dialled by yet.
        read: reads a plan's file.
        versions: the journal of a plan's file.
    """

    offer: Offer
    release: ReleaseRef
    rules: Rules
    cluster: Callable[[], Cluster]
    read: Callable[[Path], Plan]
    versions: Callable[[Path], PlanVersions]

    async def update(self, target: Target) -> Event:
        """Put the release into a plan, unless it runs there or is not for it."""
        async with self.cluster() as cluster:
            runs = await self._ask(cluster, target)
            if runs.agreement == "not deployed":
                return LeftOut(target.name, _NOT_DEPLOYED)
            newer = [text for text in runs.versions if self._is_newer(text)]
            if newer:
                return LeftOut(target.name, f"runs {newer[0]}, which is newer", newer[0])
            made = await update_plan(cluster, self.versions(Path(target.file)), self.offer, self.rules)
        if made.result in ("dropped", "rolled back"):
            return Spoiled(target.name, made.result, made.reason, made.version, made.epoch)
        return Updated(target.name, made.version, made.epoch, made.reason)

    async def take_back(self, target: Target) -> Event:
        """Put back what a plan ran before, unless it runs something else than the release by now."""
        async with self.cluster() as cluster:
            runs = await self._ask(cluster, target)
            if str(self.release) not in runs.versions:
                epochs = [node.epoch for node in runs.nodes]
                return WentBack(target.name, ", ".join(runs.versions), max(epochs, default=0))
            made = await undo(cluster, self.versions(Path(target.file)), "rollout")
        return WentBack(target.name, made.version, made.epoch)

    async def _ask(self, cluster: Cluster, target: Target) -> PlanRuns:
        """What runs; raises `PeerUnreachable` where a node cannot be asked."""
        plan = await asyncio.to_thread(self.read, Path(target.file))
        runs = await ask_plan(cluster, plan)
        for node in runs.nodes:
            if node.trouble:
                raise PeerUnreachable(f"node {node.node!r}: {node.trouble}")
        return runs

    def _is_newer(self, version: str) -> bool:
        family, _, number = version.rpartition(":")
        return family == self.release.family and number.isdecimal() and int(number) > self.release.version
