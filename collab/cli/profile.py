"""``collab profile``: measure a model on the real devices and the links between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, confirmed, reach, with_cluster
from collab.cli.files import read_npz, read_profile, write_profile
from collab.cli.output import emit, progress, say, show, table
from collab.errors import PlanError, UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster, NodeView
    from collab.coordinator.profiling import Settings
    from collab.core.ids import NodeName
    from collab.core.profile import Profile
    from collab.graph import Graph

EXAMPLE = """
Examples:

    collab profile m.tflite --peers 127.0.0.1:7070,127.0.0.1:7071 --out profile.json

    collab profile m.tflite --peers … --threads 1,4 --codecs int8,lz4 --input x.npz --out profile.json

    collab profile m.tflite --peers … --transports grpc,mqtt --share 0.2 --merge old.json --out new.json
"""

MAX_ROUNDS: Final = 50
MAX_INPUTS: Final = 8
"""Of a file of inputs; more say little new of what codecs do."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("profile", epilog=EXAMPLE)(profile)


def profile(
    model: Annotated[Path, typer.Argument(help="A .tflite file.", show_default=False)],
    peers: Peers = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the profile.")] = None,
    threads: Annotated[
        str, typer.Option(help="Numbers of threads to time, such as 1,2; the first is what plans take.")
    ] = "1",
    codecs: Annotated[str, typer.Option(help="Codecs to try, such as int8,int8+zstd,lz4.")] = "",
    transports: Annotated[
        str, typer.Option(help="Transports of links to measure; all that nodes listen by otherwise.")
    ] = "",
    inputs: Annotated[
        Path | None,
        typer.Option("--input", help="Real inputs by name, for codecs; drawn at random otherwise."),
    ] = None,
    share: Annotated[float, typer.Option(help="Most of a device's or link's time to take.")] = 0.5,
    rounds: Annotated[int, typer.Option(help="How often everything is measured; more is surer.")] = 4,
    requester: Annotated[
        str | None,
        typer.Option(help="The peer that requests will come from; this machine, @requester, otherwise."),
    ] = None,
    watts: Annotated[
        str,
        typer.Option(
            help="Power of devices while they compute, such as a=4.5,b=12; measured where they can."
        ),
    ] = "",
    merge: Annotated[
        Path | None, typer.Option(help="A profile of the same model to bring up to date.", show_default=False)
    ] = None,
    signature: Annotated[str | None, typer.Option(help="Which signature, where a model has several.")] = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Measure what a model costs on each node, and what the links and codecs do."""
    import msgspec

    from collab.cli.settings import peers as read_peers
    from collab.coordinator.planning import open_model
    from collab.core import profiles
    from collab.core.profile import to_json

    if out is None and not json_:
        raise UsageError("give --out FILE to keep the profile, or --json")
    settings = _settings(threads, codecs, transports, share, rounds, requester, watts)
    graph = open_model(model, signature)
    old = None if merge is None else read_profile(merge)
    if old is not None:
        try:
            profiles.check_model(old, graph.sha256)
        except PlanError as error:
            raise PlanError(f"--merge {merge}: {error}") from None
    real = () if inputs is None else _requests(graph, inputs)

    path = model.resolve()

    async def measure(cluster: Cluster) -> Profile:
        views = await reach(cluster, read_peers(peers))
        for kind in settings.transports:
            if kind not in (known_kinds := cluster.links.schemes):
                raise UsageError(f"--transports {kind!r}: is not known; use {', '.join(known_kinds)}")
        for name in settings.watts.keys() - {view.name for view in views}:
            raise UsageError(f"--watts: no node {name!r} among the peers")
        if requester is not None and requester not in {view.name for view in views}:
            known = ", ".join(view.name for view in views)
            raise UsageError(f"--requester {requester!r}: is none of the peers; they are {known}")
        return await profiled(cluster, views, graph, settings, path, real)

    measured = with_cluster(measure, trust=confirmed(insecure, insecure_network))
    result = measured if old is None else profiles.merge(old, measured)
    if out is not None:
        write_profile(out, result)
        say(f"wrote {out}")
    if json_:
        emit(msgspec.json.decode(to_json(result)))
    else:
        _show(result)


async def profiled(
    cluster: Cluster,
    views: Sequence[NodeView],
    graph: Graph,
    settings: Settings,
    path: Path,
    inputs: Sequence[Mapping[str, Any]] = (),
    what: str = "profiling",
) -> Profile:
    """Measure, with a bar on a terminal and warnings in lines."""
    from datetime import datetime, timezone

    from collab.coordinator.profiling import Profiling
    from collab.runtime.litert import LiteRT

    with progress(what) as advance:
        work = Profiling(
            cluster,
            views,
            graph,
            settings,
            now=lambda: datetime.now(timezone.utc),
            backend=LiteRT(),
            progress=advance,
            warn=lambda text: say(f"warning: {text}"),
        )
        return await work.run(path, inputs)


def _settings(
    threads: str,
    codecs: str,
    transports: str,
    share: float,
    rounds: int,
    requester: str | None,
    watts: str,
) -> Settings:
    """What the options ask for; raises `UsageError`."""
    from collab.client.measuring import LEAST_SHARE
    from collab.coordinator.profiling import HERE, Settings
    from collab.core.codecs import parse_codec
    from collab.core.ids import NodeName

    try:
        counts = tuple(dict.fromkeys(int(entry) for entry in threads.split(",")))
    except ValueError:
        raise UsageError(f"--threads {threads!r}: give numbers such as 1,2") from None
    if not all(1 <= count <= 256 for count in counts):
        raise UsageError(f"--threads {threads!r}: give numbers from 1 to 256")
    if not LEAST_SHARE <= share <= 1:
        raise UsageError(f"--share {share:g}: give {LEAST_SHARE:g} to 1")
    if not 1 <= rounds <= MAX_ROUNDS:
        raise UsageError(f"--rounds {rounds}: give 1 to {MAX_ROUNDS}")
    try:
        names = tuple(dict.fromkeys(str(parse_codec(name)) for name in _listed(codecs)))
    except PlanError as error:
        raise UsageError(f"--codecs: {error}") from None
    return Settings(
        threads=counts,
        codecs=tuple(name for name in names if name != "raw"),
        transports=tuple(dict.fromkeys(_listed(transports))),
        rounds=rounds,
        share=share,
        requester=HERE if requester is None else NodeName(requester),
        watts=_declared(watts),
    )


def _declared(watts: str) -> dict[NodeName, float]:
    """Power by device from ``a=4.5,b=12``; raises `UsageError`."""
    from collab.core.ids import NodeName

    found = {}
    for entry in _listed(watts):
        name, _, value = entry.partition("=")
        try:
            found[NodeName(name)] = power = float(value)
        except ValueError:
            power = math.nan
        if not 0 < power < math.inf:
            raise UsageError(f"--watts {entry!r}: give NAME=WATTS, such as a=4.5")
    return found


def _listed(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def _requests(graph: Graph, path: Path) -> Sequence[Mapping[str, Any]]:
    """The first few inputs of a file."""
    from collab.coordinator.workload import requests_of

    return requests_of(graph.inputs, read_npz(path, "--input"), "--input")[:MAX_INPUTS]


def _show(profile: Profile) -> None:
    """Tables of what was measured, for people."""
    devices = [
        (
            device.name,
            device.threads,
            sum(device.op_ms) + device.stage_ms,
            device.stage_ms,
            size(sum(device.op_bytes) + device.stage_bytes),
            size(device.memory_bytes),
            "" if device.fit_error is None else f"{device.fit_error:.1%}",
        )
        for device in profile.devices
    ]
    links = [
        (f"{link.source} → {link.target}", link.transport, link.latency_ms, link.mbit_s, link.jitter_ms)
        for link in profile.links
    ]
    columns = ("device", "threads", "whole model ms", "of each stage ms", "takes", "memory", "off by")
    show(
        table("", columns, devices),
        table("", ("link", "transport", "latency ms", "Mbit/s", "jitter ms"), links),
    )
