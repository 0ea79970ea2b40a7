"""``collab stream``: a node's source and sinks, placed by a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import (
    AsJson,
    Insecure,
    InsecureNetwork,
    Peers,
    PlanFile,
    Trust,
    confirmed,
    reach,
    with_cluster,
)
from collab.cli.files import read_plan, write_plan
from collab.cli.output import emit, say
from collab.cli.streaming import bundle_reading
from collab.core.ids import NodeName, check_name
from collab.core.plan import NodeRef, Plan
from collab.core.streams import Reading, SinkRef, SourceRef, StreamSpec
from collab.core.validate import validate
from collab.errors import InputError, UsageError

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster

EXAMPLE = """
Examples:

    collab stream plan.yaml --source pi-1/front-door --sink log --fps 5

    collab stream plan.yaml --remove front-door
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("stream", epilog=EXAMPLE)(stream)


def stream(
    plan: PlanFile,
    source: Annotated[
        str | None, typer.Option(help="NODE/NAME: what the node's settings declare as [sources.NAME].")
    ] = None,
    sink: Annotated[
        list[str] | None, typer.Option(help="NAME: what the same settings declare as [sinks.NAME].")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--id", help="What the stream is called; else as its source.")
    ] = None,
    policy: Annotated[
        str, typer.Option(help="Of frames that come meanwhile: latest, queue:N or queue:N:drop-oldest.")
    ] = "latest",
    fps: Annotated[float | None, typer.Option(help="Most frames a second.")] = None,
    deadline_ms: Annotated[float, typer.Option(help="Time budget of each request.")] = 10_000.0,
    concurrency: Annotated[int, typer.Option(help="Frames under way at a time.")] = 1,
    top: Annotated[int, typer.Option(help="Labels of each answer; 0 gives the outputs themselves.")] = 3,
    bundle: Annotated[
        Path | None, typer.Option(help="Packaged model, for raw frames, where the plan does not name it.")
    ] = None,
    remove: Annotated[str | None, typer.Option(help="A stream to take out, by its id.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the plan; else over the one read.")] = None,
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Write a stream into a plan; deploying the plan starts it on the source's node."""
    from collab.cli.settings import peers as read_peers

    if (source is None) == (remove is None):
        raise UsageError("give --source NODE/NAME, or --remove ID")
    parsed = read_plan(plan)
    trust = confirmed(insecure, insecure_network)
    if remove is not None:
        made = _without(parsed, remove)
    else:
        node, label = _place(source or "")
        spec = StreamSpec(
            id=name or label,
            source=SourceRef(node=node, name=label),
            sinks=tuple(SinkRef(name=one) for one in sink or ()),
            policy=policy,
            fps=fps,
            deadline_ms=deadline_ms,
            concurrency=concurrency,
            top=top,
            reading=bundle_reading(parsed, plan.parent, bundle),
        )
        made = _with(_listing(parsed, node, read_peers(peers), trust), spec)
    write_plan(out or plan, made)
    if json_:
        emit({"plan": made.name, "streams": [_told(spec) for spec in made.streams]})
    else:
        count = len(made.streams)
        say(f"plan {made.name!r} has {count} streams; bring it up with: collab deploy {out or plan}")


def _place(text: str) -> tuple[NodeName, str]:
    node, _, label = text.partition("/")
    try:
        return NodeName(check_name(node, "node")), check_name(label, "source")
    except InputError as error:
        raise UsageError(f"--source {text[:80]!r}: {error}; give NODE/NAME") from error


def _with(plan: Plan, spec: StreamSpec) -> Plan:
    """The plan with a stream, in place of one of the same id."""
    streams = (*(known for known in plan.streams if known.id != spec.id), spec)
    return validate(_all(plan, streams))


def _without(plan: Plan, name: str) -> Plan:
    streams = tuple(known for known in plan.streams if known.id != name)
    if len(streams) == len(plan.streams):
        known = ", ".join(spec.id for spec in plan.streams) or "none"
        raise UsageError(f"--remove {name[:80]!r}: the plan has no such stream; it has {known}")
    return validate(_all(plan, streams))


def _all(plan: Plan, streams: tuple[StreamSpec, ...]) -> Plan:
    # Alternatives name them too: their nodes have to know who may ask.
    spare = tuple(one.replace(streams=streams) for one in plan.alternatives)
    return plan.replace(streams=streams, alternatives=spare)


def _listing(plan: Plan, node: NodeName, peers: list[str], trust: Trust) -> Plan:
    """The plan with the source's node among its nodes."""
    if any(ref.name == node for ref in plan.nodes):
        return plan

    async def look(cluster: Cluster) -> list[NodeRef]:
        return [view.ref for view in await reach(cluster, peers)]

    found = with_cluster(look, trust=trust) if peers else []
    ref = next((ref for ref in found if ref.name == node), None)
    if ref is None:
        raise UsageError(f"--source: the plan has no node {node!r}; say with --peers HOST:PORT where it is")
    return plan.replace(nodes=(*plan.nodes, ref))


def _told(spec: StreamSpec) -> dict[str, Any]:
    reading: Reading | None = spec.reading
    return {
        "id": spec.id,
        "source": f"{spec.source.node}/{spec.source.name}",
        "sinks": [sink.name for sink in spec.sinks],
        "policy": spec.policy,
        "fps": spec.fps,
        "deadline_ms": spec.deadline_ms,
        "concurrency": spec.concurrency,
        "preprocessing": reading is not None,
        "labels": 0 if reading is None else len(reading.labels),
    }
