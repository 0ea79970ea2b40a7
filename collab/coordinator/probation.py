"""Do the nodes of a plan stand what was committed?  Pure, but for the question."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster
from collab.core.ids import NodeName
from collab.core.plan import Plan
from collab.errors import CollabError
from collab.transport.aio import timeout

MOST_STARTS: Final = 2
"""A node that was started anew so often since the commit is brought down by what was committed."""
_MAX_FAULT: Final = 300
_CALL_S: Final = 3.0


class Standing:
    """What nodes say of themselves since a plan was committed."""

    def __init__(self, plan: Plan, epoch: int) -> None:
        self._name, self._epoch = plan.name, epoch
        self._up_ms: dict[NodeName, int] = {}
        self._starts: Counter[NodeName] = Counter()

    def told(self, node: NodeName, status: pb.StatusReply) -> str:
        """Why the plan has to go back, from what a node says; empty where it has not."""
        if status.uptime_ms < self._up_ms.get(node, 0):
            self._starts[node] += 1
        self._up_ms[node] = status.uptime_ms
        for loaded in status.plans:
            if (loaded.plan, loaded.epoch) == (self._name, self._epoch) and loaded.fault:
                return f"node {node!r}: {loaded.fault[:_MAX_FAULT]}"
        if self._starts[node] >= MOST_STARTS:
            return f"node {node!r} was started anew {self._starts[node]} times since epoch {self._epoch} came"
        return ""


async def ask(cluster: Cluster, plan: Plan, standing: Standing) -> str:
    """Ask the plan's nodes that can be reached; the first reason to go back, or nothing."""

    async def one(name: NodeName) -> str:
        try:
            async with timeout(_CALL_S):
                return standing.told(name, await cluster.control(name).status())
        except (CollabError, TimeoutError, asyncio.TimeoutError):
            return ""  # a node that is away is not yet a node that was brought down

    said = await asyncio.gather(*map(one, plan.placed))
    return next(filter(None, said), "")
