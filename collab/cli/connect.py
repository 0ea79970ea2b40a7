"""How commands reach the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from collab.coordinator.cluster import Cluster, NodeView
from collab.core.plan import NodeRef, Plan

T = TypeVar("T")

Peers = Annotated[str | None, typer.Option(help="HOST:PORT,… of nodes [env: COLLAB_PEERS].")]
PlanFile = Annotated[Path, typer.Argument(help="A plan file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
InsecureNetwork = Annotated[
    bool, typer.Option("--insecure-network", help="Confirm --insecure off loopback.", show_default=False)
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Use unencrypted links.", show_default=False)]


def with_cluster(
    action: Callable[[Cluster], Coroutine[Any, Any, T]], *, role: str = "operator", insecure: bool = False
) -> T:
    """Run an action on a cluster that nothing is dialled in yet."""
    from collab.assembly import build_cluster

    async def run() -> T:
        async with build_cluster(role=role, insecure_networks=insecure) as cluster:
            return await action(cluster)

    return asyncio.run(run())


async def reach(cluster: Cluster, peers: list[str]) -> list[NodeView]:
    """Views of the peers, in the order given."""
    names = await cluster.reach(peers)
    views = await cluster.describe(names)
    return [views[name] for name in names]


async def refresh(cluster: Cluster, plan: Plan, peers: list[str]) -> Plan:
    """The plan with the endpoints of the peers given, where they name its nodes."""
    if not peers:
        return plan
    views = {view.name: view for view in await reach(cluster, peers)}
    refs = [
        NodeRef(name=r.name, endpoints=views[r.name].endpoints) if r.name in views else r for r in plan.nodes
    ]
    return plan.replace(nodes=tuple(refs))
