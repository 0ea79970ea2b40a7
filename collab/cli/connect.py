"""How commands reach the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import typer

from collab.cli.output import say
from collab.coordinator.cluster import Cluster, NodeView
from collab.core.plan import NodeRef, Plan
from collab.errors import PeerUnreachable, UsageError

T = TypeVar("T")

Peers = Annotated[str | None, typer.Option(help="HOST:PORT,… of nodes [env: COLLAB_PEERS].")]
PlanFile = Annotated[Path, typer.Argument(help="A plan file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
InsecureNetwork = Annotated[
    bool, typer.Option("--insecure-network", help="Confirm --insecure off loopback.", show_default=False)
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Use unencrypted links.", show_default=False)]


class Trust(NamedTuple):
    """What the security flags of a command ask for."""

    insecure: bool = False
    """Unencrypted links, even where this device has an identity."""
    networks: bool = False
    """Those off loopback too."""


def with_cluster(
    action: Callable[[Cluster], Coroutine[Any, Any, T]], *, role: str = "operator", trust: Trust = Trust()
) -> T:
    """Run an action on a cluster that nothing is dialled in yet."""
    from collab.assembly import build_cluster, load_identity
    from collab.cli.settings import identity_directory

    security = load_identity(None if trust.insecure else identity_directory())

    async def run() -> T:
        async with build_cluster(role=role, insecure_networks=trust.networks, security=security) as cluster:
            return await action(cluster)

    return asyncio.run(run())


def confirmed(insecure: bool, insecure_network: bool) -> Trust:
    """What the two flags ask for together; `UsageError` for the second without the first."""
    if insecure_network and not insecure:
        raise UsageError("--insecure-network: confirms --insecure; give both or none")
    return Trust(insecure, insecure_network)


async def reach(cluster: Cluster, peers: list[str]) -> list[NodeView]:
    """Views of the peers, in the order given."""
    names = await cluster.reach(peers)
    views = await cluster.describe(names)
    return [views[name] for name in names]


async def refresh(cluster: Cluster, plan: Plan, peers: list[str]) -> Plan:
    """The plan with the endpoints of the peers given, where they name its nodes."""
    if not peers:
        return plan
    views: dict[str, NodeView] = {}
    for peer in peers:
        try:
            views.update((view.name, view) for view in await reach(cluster, [peer]))
        except PeerUnreachable as error:
            # It may be none of the plan's; if the plan needs it, that is said then.
            say(f"warning: {error}")

    def fresh(one: Plan) -> Plan:
        refs = (
            NodeRef(name=r.name, endpoints=views[r.name].endpoints) if r.name in views else r
            for r in one.nodes
        )
        return one.replace(nodes=tuple(refs), alternatives=tuple(map(fresh, one.alternatives)))

    return fresh(plan)
