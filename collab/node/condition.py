"""What this node reports of its device and the models it runs."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from collab.core.ids import NodeName
from collab.link.link import Link
from collab.link.suspicion import Health
from collab.node.condition_config import ConditionConfig
from collab.runtime.surroundings import Surroundings
from collab.updates.policies.condition import MAX_LINKS, Condition, LinkSpeed, ModelFeedback

OffLoop = Callable[..., Awaitable[Any]]
"""Runs a blocking function in the thread that uses the disk."""


class NodeCondition:
    """Looks at the device when it is asked to."""

    def __init__(
        self,
        node: NodeName,
        config: ConditionConfig,
        metered_devices: tuple[str, ...],
        store: Path,
        off_loop: OffLoop,
    ) -> None:
        self._node = node
        self._config = config
        self._off_loop = off_loop
        self._device = Surroundings(store, metered_devices=metered_devices)

    async def look(self, links: Sequence[Link], models: Sequence[ModelFeedback]) -> Condition:
        """The device now, with what links measured and models made known."""
        now = await self._off_loop(self._device.read)
        settings = self._config
        return Condition(
            time_s=time.time(),
            device=self._node,
            time_zone=settings.time_zone or now.time_zone,
            uptime_s=now.uptime_s,
            battery=now.battery,
            charging=now.charging,
            metered=now.metered if settings.metered == "auto" else settings.metered == "yes",
            idle=now.idle,
            free_memory_bytes=now.free_memory_bytes,
            free_disk_bytes=now.free_disk_bytes,
            temperature_c=now.temperature_c,
            links=speeds(links),
            models=tuple(models),
        )


def speeds(links: Sequence[Link]) -> tuple[LinkSpeed, ...]:
    """What links to nodes measured of themselves; those that are silent are left out."""
    return tuple(
        LinkSpeed(
            peer=link.peer.name, kind=link.kind, rtt_ms=link.rtt_us / 1000, rate_mbit_s=link.rate_mbit_s
        )
        for link in links
        if link.peer.role == "node" and link.health in (Health.ALIVE, Health.SLOW)
    )[:MAX_LINKS]
