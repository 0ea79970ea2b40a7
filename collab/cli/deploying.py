"""``collab status``, ``deploy``, ``undeploy``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import (
    AsJson,
    Insecure,
    InsecureNetwork,
    Peers,
    PlanFile,
    confirmed,
    refresh,
    with_cluster,
)
from collab.cli.files import read_plan
from collab.cli.output import emit, progress, say, show, table
from collab.errors import NotLoaded
from collab.planner.wording import size

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.deploy import Deployment


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("status", epilog="Example:\n\n    collab status --peers 127.0.0.1:7070 --json")(status)
    app.command("deploy", epilog="Example:\n\n    collab deploy plan.yaml")(deploy)
    app.command("undeploy", epilog="Example:\n\n    collab undeploy plan.yaml")(undeploy)


def status(
    plans: Annotated[
        list[str] | None, typer.Argument(metavar="[PLAN]...", help="Names of plans; all without any.")
    ] = None,
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """What runs where: plans, epochs, requests under way, counters."""
    from collab.cli.settings import peers as read_peers

    async def look(cluster: Cluster) -> dict[str, Any]:
        names = await cluster.reach(read_peers(peers))
        return {name: await cluster.control(name).status() for name in names}

    replies = with_cluster(look, trust=confirmed(insecure, insecure_network))
    if plans:
        _keep(replies, plans)
    if json_:
        emit({"nodes": [_status(name, reply) for name, reply in replies.items()]})
        return
    rows = [
        (
            *(name, p.plan, p.epoch, p.state, ", ".join(p.stages), p.in_flight),
            *(p.primary or "-", p.release or "-"),
        )
        for name, reply in replies.items()
        for p in reply.plans
    ]
    columns = ("node", "plan", "epoch", "state", "stages", "in flight", "alternative of", "release")
    show(table("plans", columns, rows), *_streams(replies))
    for name, reply in replies.items():
        for p in reply.plans:
            if p.fault:
                say(f"node {name!r}, plan {p.plan!r} epoch {p.epoch}: {p.fault}")
        for s in reply.streams:
            if s.trouble:
                say(f"node {name!r}, stream {f'{s.plan}/{s.id}'!r}: {s.trouble}")
    states = [
        (n, r.state, size(r.resident_bytes), r.uptime_ms / 1000, _counted(r)) for n, r in replies.items()
    ]
    show(table("nodes", ("node", "state", "resident", "up s", "counted"), states))


def _keep(replies: dict[str, Any], plans: list[str]) -> None:
    """Leave out other plans; raises `NotLoaded` for one that no node has."""
    for plan in plans:
        if all(p.plan != plan for reply in replies.values() for p in reply.plans):
            raise NotLoaded(f"plan {plan!r}: none of these nodes has one of that name; see collab status")
    for reply in replies.values():
        for entries in (reply.plans, reply.stages, reply.answers, reply.streams):
            kept = [entry for entry in entries if entry.plan in plans]
            del entries[:]
            entries.extend(kept)


def _streams(replies: dict[str, Any]) -> list[Any]:
    """Streams of sources, for people; nothing where there are none."""
    rows = [
        (
            *(name, f"{s.plan}/{s.id}", s.state, s.answered, s.dropped, s.failed),
            ", ".join(f"{k.name} {k.delivered}" + (f", {k.lost} lost" if k.lost else "") for k in s.sinks),
        )
        for name, reply in replies.items()
        for s in reply.streams
    ]
    heads = ("node", "stream", "state", "answered", "dropped", "failed", "sinks")
    return [table("streams", heads, rows)] if rows else []


def _stream(state: Any) -> dict[str, Any]:
    numbers = ("captured", "answered", "dropped", "failed", "waiting")
    return {
        "plan": state.plan,
        "id": state.id,
        "source": state.source,
        "state": state.state,
        "trouble": state.trouble or None,
        **{name: getattr(state, name) for name in numbers},
        "sinks": [
            {
                "name": sink.name,
                "delivered": sink.delivered,
                "lost": sink.lost,
                "waiting": sink.waiting,
                "trouble": sink.trouble or None,
            }
            for sink in state.sinks
        ],
    }


def _counted(reply: Any) -> str:
    """Counters that are not those of one stage's time."""
    times = ("stage_us:", "stage_runs:")
    counted = [f"{c.name} {c.value}" for c in reply.counters if c.value and not c.name.startswith(times)]
    state = {"reports waiting": reply.reports.waiting, "reports dropped": reply.reports.dropped}
    counted += [f"{what} {count}" for what, count in state.items() if count]
    return ", ".join(counted) or "-"


def _status(name: str, reply: Any) -> dict[str, Any]:
    return {
        "name": name,
        "plans": [
            {
                "plan": p.plan,
                "epoch": p.epoch,
                "digest": p.digest,
                "state": p.state,
                "stages": list(p.stages),
                "in_flight": p.in_flight,
                "primary": p.primary or None,
                "fault": p.fault or None,
                "release": p.release or None,
            }
            for p in reply.plans
        ],
        "stages": [
            {"plan": s.plan, "stage": s.stage, "queued": s.queued, "runs": s.runs, "failed": s.failed}
            for s in reply.stages
        ],
        "answers": [
            {"plan": a.plan, "ok": a.ok, "absent": a.absent, "failed": a.failed} for a in reply.answers
        ],
        "streams": [_stream(s) for s in reply.streams],
        "state": reply.state,
        "reports": {"waiting": reply.reports.waiting, "dropped": reply.reports.dropped},
        "counters": {c.name: c.value for c in reply.counters},
        "found": [
            {
                "name": p.name,
                "endpoints": list(p.endpoints),
                "cluster": p.cluster,
                "found": list(p.by),
                "conflict": p.conflict,
            }
            for p in reply.found
        ],
        "peers": [
            {
                "name": p.name,
                "address": p.address,
                "rtt_ms": p.rtt_us / 1000,
                "transport": p.kind,
                "role": p.role,
                "relayed": p.relayed,
                "sent_bytes": p.sent_bytes,
                "received_bytes": p.received_bytes,
            }
            for p in reply.peers
        ],
        "resident_bytes": reply.resident_bytes,
        "uptime_ms": reply.uptime_ms,
    }


def deploy(
    plan: PlanFile,
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Bring a plan up on all of its nodes, or on none; doing it again changes nothing."""
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.deploy import deploy as deploy_plan
    from collab.coordinator.planning import stage_blobs

    parsed = read_plan(plan)
    blobs = stage_blobs(parsed, plan.parent)

    async def bring_up(cluster: Cluster) -> Deployment:
        current = await refresh(cluster, parsed, read_peers(peers))
        done: dict[str, tuple[int, int]] = {}

        def sent(node: str, count: int, total: int) -> None:
            done[node] = (done.get(node, (0, 0))[0] + count, total)
            advance(sum(d for d, _ in done.values()), sum(t for _, t in done.values()))

        with progress("sending stages", "bytes") as advance:
            return await deploy_plan(cluster, current, blobs, sent)

    result = with_cluster(bring_up, trust=confirmed(insecure, insecure_network))
    if json_:
        emit(
            {
                "plan": parsed.name,
                "epoch": result.epoch,
                "changed": result.changed,
                "sent_bytes": dict(result.sent_bytes),
            }
        )
    else:
        what = "deployed" if result.changed else "was deployed already"
        say(
            f"plan {parsed.name!r} {what}, epoch {result.epoch}, {size(sum(result.sent_bytes.values()))} sent"
        )


def undeploy(
    plan: PlanFile,
    peers: Peers = None,
    drain_s: Annotated[float, typer.Option(help="How long requests may finish.")] = 10.0,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Let requests finish, then free a plan on all of its nodes."""
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.deploy import undeploy as undeploy_plan

    parsed = read_plan(plan)

    async def take_down(cluster: Cluster) -> dict[Any, Any]:
        return await undeploy_plan(cluster, await refresh(cluster, parsed, read_peers(peers)), drain_s)

    held = with_cluster(take_down, trust=confirmed(insecure, insecure_network))
    if json_:
        emit({"plan": parsed.name, "unloaded": {name: list(epochs) for name, epochs in held.items()}})
    else:
        count = sum(map(len, held.values()))
        say(f"plan {parsed.name!r}: {count} epochs unloaded on {len(held)} nodes")
