"""``collab nodes``: who is there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import (
    AsJson,
    Insecure,
    InsecureNetwork,
    Peers,
    Trust,
    confirmed,
    reach,
    with_cluster,
)
from collab.cli.output import emit, say, show, table
from collab.planner.wording import size

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster, NodeView
    from collab.coordinator.looking import Looked, Met
    from collab.discovery.base import Discovery

EXAMPLE = """
Examples:

    collab nodes

    collab nodes --broker mqtt://127.0.0.1:1883 --wait 3

    collab nodes --peers 10.0.0.7:7070,10.0.0.8:7070
"""

Ways = Annotated[
    str | None, typer.Option("--discovery", help="How to find nodes: mdns,mqtt,coap,directory; or none.")
]
Broker = Annotated[str | None, typer.Option(help="Broker at which nodes announce themselves: mqtt[s]://…")]
Directory = Annotated[str | None, typer.Option(help="CoAP resource directory: coap://HOST:PORT.")]
Wait = Annotated[float, typer.Option(min=0.0, max=60.0, help="Seconds to look around.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("nodes", epilog=EXAMPLE)(nodes)


def nodes(
    peers: Peers = None,
    discovery: Ways = None,
    broker: Broker = None,
    directory: Directory = None,
    wait: Wait = 2.0,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """The nodes of the cluster: those given, or all that can be found."""
    from collab.cli.settings import peers as read_peers

    trust = confirmed(insecure, insecure_network)
    given = read_peers(peers)
    if given:
        _show_given(given, trust, json_)
    else:
        _show_found(discovery, broker, directory, wait, trust, json_)


def _show_given(given: list[str], trust: Trust, json_: bool) -> None:
    async def look(cluster: Cluster) -> list[NodeView]:
        return await reach(cluster, given)

    views = with_cluster(look, trust=trust)
    if json_:
        emit([described(view, ("static",)) for view in views])
        return
    show(table("", _COLUMNS, [_row(view, ("static",)) for view in views]))
    _say_runtimes(views)


def _show_found(
    names: str | None, broker: str | None, directory: str | None, wait_s: float, trust: Trust, json_: bool
) -> None:
    from collab.coordinator.looking import look, meet

    async def find(cluster: Cluster) -> tuple[Looked, list[Met]]:
        looked = await look(await asyncio.to_thread(ways, names, broker, directory, trust), wait_s)
        return looked, await meet(cluster, looked.peers)

    looked, met = with_cluster(find, trust=trust)
    for trouble in looked.troubles.values():
        say(f"warning: {trouble}")
    if json_:
        emit([described(m.view, m.peer.found) if m.view is not None else _unreachable(m) for m in met])
        return
    if not met:
        say("no node was found; give --peers HOST:PORT,…, or see why: collab doctor")
        return
    rows = [_row(m.view, m.peer.found) if m.view is not None else _missing_row(m) for m in met]
    show(table("", _COLUMNS, rows))
    for m in met:
        if m.peer.conflict:
            say(f"warning: two nodes are named {m.peer.name!r}: {', '.join(m.peer.endpoints)}")
        if m.view is None:
            say(f"{m.peer.name or m.peer.endpoints[0]}: {m.reason}")
    _say_runtimes([m.view for m in met if m.view is not None])


def ways(names: str | None, broker: str | None, directory: str | None, trust: Trust) -> list[Discovery]:
    """The discoveries that the flags ask for; it reads the identity, so not in the event loop."""
    from collab.assembly import DiscoverySettings, discoveries, load_identity
    from collab.cli.settings import identity_directory

    chosen = [name.strip() for name in (names or "mdns").split(",") if name.strip() not in ("", "none")]
    if names is None:
        chosen += ["mqtt"] * bool(broker) + ["directory"] * bool(directory)
    security = load_identity(None if trust.insecure else identity_directory())
    return discoveries(chosen, DiscoverySettings(broker, directory, security=security))


# --- what is shown -------------------------------------------------------------------

_COLUMNS = ("node", "address", "device", "memory", "state", "found by", "rtt ms")


def _row(view: NodeView, found: tuple[str, ...]) -> tuple[object, ...]:
    said = view.description
    memory, state = size(said.memory_bytes), said.state
    if said.reports.waiting or said.reports.dropped:
        state += f", {said.reports.waiting} reports wait, {said.reports.dropped} dropped"
    return view.name, view.address, said.device, memory, state, ", ".join(found), view.rtt_ms


def _missing_row(met: Met) -> tuple[object, ...]:
    peer = met.peer
    place = ", ".join(peer.endpoints) or "-"
    return peer.name or "?", place, "-", "-", "unreachable", ", ".join(peer.found), "-"


def _say_runtimes(views: list[NodeView]) -> None:
    for runtime in sorted({view.runtime_class for view in views}):
        show(f"{runtime}: {', '.join(v.name for v in views if v.runtime_class == runtime)}")
    for view in views:
        for remark in view.description.remarks[:8]:
            show(f"{view.name}: {remark[:500]}")
        for what in ("sources", "sinks"):
            if declared := getattr(view.description, what)[:64]:
                names = ", ".join(f"{d.name} ({d.lacking[:200] or d.kind})" for d in declared)
                show(f"{view.name}: {what} {names}")


def described(view: NodeView, found: tuple[str, ...]) -> dict[str, Any]:
    """A node that answers, as scripts read it."""
    said = view.description
    runtime = said.runtime_class
    return {
        "name": view.name,
        "endpoints": list(view.endpoints),
        "device": said.device,
        "memory_bytes": said.memory_bytes,
        "models": list(said.models),
        "state": said.state,
        "reports": {"waiting": said.reports.waiting, "dropped": said.reports.dropped},
        "cores": said.cores,
        "software": said.software,
        "runtime_class": {
            "backend": runtime.backend,
            "version": runtime.version,
            "machine": runtime.machine,
            "cpu_features": list(runtime.cpu_features),
            "delegate": runtime.delegate,
        },
        "remarks": list(said.remarks),
        "sources": _declared(said.sources),
        "sinks": _declared(said.sinks),
        "rtt_ms": round(view.rtt_ms, 3),
        "address": view.address,
        "found": list(found),
    }


def _declared(entries: Any) -> list[dict[str, Any]]:
    return [{"name": d.name, "kind": d.kind, "lacking": d.lacking or None} for d in entries]


def _unreachable(met: Met) -> dict[str, Any]:
    return {
        "name": met.peer.name,
        "endpoints": list(met.peer.endpoints),
        "device": "",
        "memory_bytes": 0,
        "models": [],
        "state": "unreachable",
        "software": met.peer.software,
        "reason": met.reason,
        "rtt_ms": None,
        "address": None,
        "found": list(met.peer.found),
    }
