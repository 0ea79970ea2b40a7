"""``collab release fetch``: the newest release, from a server, a folder, an archive or a node."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.connect import Insecure, InsecureNetwork, Trust, confirmed, with_cluster
from collab.cli.data import AsJson
from collab.cli.output import emit, say
from collab.errors import UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.updates.fetch.base import Source
    from collab.updates.fetch.client import Device, Fetched
    from collab.updates.fetch.pace import Limits
    from collab.updates.release import Release

EXAMPLE: Final = """
Examples:

    collab release fetch https://HOST/releases digits --store dev/ --trust root.json

    collab release fetch grpc://10.0.0.7:7070#main digits --store dev/ --nearby 10.0.0.8:7070
"""


def register(to: typer.Typer) -> None:
    """Add the command."""
    to.command(epilog=EXAMPLE)(fetch)


@dataclass(frozen=True)
class _Wanted:
    """What a device looks for, and where it keeps it."""

    folder: Path
    family: str
    channel: str
    version: int | None
    device: Device
    limits: Limits
    bases: Sequence[Path]
    check: bool


def fetch(
    source: Annotated[
        str,
        typer.Argument(
            help="An address, a folder, an exported archive, or a node's repository: ADDRESS#NAME.",
            show_default=False,
        ),
    ],
    family: Annotated[str, typer.Argument(help="Family of models.", show_default=False)],
    store: Annotated[Path, typer.Option(help="Folder of this device: what it trusts, has seen and fetched.")],
    channel: Annotated[str, typer.Option(help="Channel.")] = "stable",
    version: Annotated[int, typer.Option(help="Version; the newest otherwise.")] = 0,
    trust: Annotated[Path | None, typer.Option(help="The repository's first root, at the first use.")] = None,
    kind: Annotated[str, typer.Option(help="What kinds of device this is, such as pi-4.")] = "",
    runtime: Annotated[str, typer.Option(help="Runtime class of this device.")] = "",
    base: Annotated[list[Path] | None, typer.Option(help="A release that is here, for deltas.")] = None,
    rate: Annotated[float, typer.Option(help="Most kB a second; 0 does not limit.")] = 0.0,
    check: Annotated[bool, typer.Option("--check", help="Only say what is new.")] = False,
    nearby: Annotated[
        str | None, typer.Option(help="HOST:PORT,… of nodes that are asked for the file first.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Store of releases to make it the candidate of, such as dev/digits.")
    ] = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Fetch a release as a device does: verified, resumed, by a delta where one pays."""
    from collab.updates.fetch.client import Device
    from collab.updates.fetch.client import trust as take
    from collab.updates.fetch.pace import Limits

    links = confirmed(insecure, insecure_network)
    if trust is not None:
        take(store, _bytes(trust))
    device = Device(tuple(filter(None, kind.split(","))), runtime)
    limits = Limits(most_bytes_s=rate * 1000)
    wanted = _Wanted(store, family, channel, version or None, device, limits, base or (), check)
    release, got = _look(source, [peer for peer in (nearby or "").split(",") if peer], wanted, links)
    if got is not None and into is not None:
        from collab.cli.release_store import open_store
        from collab.updates.store.disk import file_parts

        open_store(into, make=True).add(got.release, file_parts(got.path))
    if json_:
        emit(_document(release, got))
    if release is None:
        say(f"{family}: {channel} has nothing for this device")
    elif got is None:
        say(f"{release.name}: version {release.version}, {size(release.size)}")
    else:
        say(f"{got.path}: version {release.version}, {got.way}, {size(got.received)} fetched")


def _look(
    place: str, peers: list[str], wanted: _Wanted, trust: Trust
) -> tuple[Release | None, Fetched | None]:
    """What is offered, and what was fetched of it; links only where something is asked over them."""
    from collab.client.releases import LinkReads, by_address, is_link, nearby, open_source

    if not peers and not is_link(place):
        return _take(open_source(place, wanted.limits), (), wanted)

    async def over_links(cluster: Cluster) -> tuple[Release | None, Fetched | None]:
        async with LinkReads(cluster.links) as reads:
            source = open_source(place, wanted.limits, reads)
            beside = [nearby(reads, by_address(cluster.links, peer), wanted.limits) for peer in peers]
            return await asyncio.to_thread(_take, source, beside, wanted)

    return with_cluster(over_links, role="client", trust=trust)


def _take(source: Source, nearby: Sequence[Source], wanted: _Wanted) -> tuple[Release | None, Fetched | None]:
    from collab.updates.fetch.client import Releases

    releases = Releases(wanted.folder, source, wanted.device, wanted.limits, nearby)
    release = releases.newest(wanted.family, wanted.channel, wanted.version)
    if release is None or wanted.check:
        return release, None
    return release, releases.fetch(release, releases.bases(wanted.bases))


def _document(release: Release | None, got: Fetched | None) -> dict[str, Any]:
    import msgspec

    from collab.updates.release import to_custom

    if release is None:
        return {"release": None}
    found = {**msgspec.to_builtins(release), "custom": to_custom(release.custom)}
    if got is None:
        return {"release": found}
    return {"release": found, "file": str(got.path), "way": got.way, "received": got.received}


def _bytes(path: Path) -> bytes:
    from collab.updates.fetch.trusted import MAX_ROOT_BYTES

    try:
        with open(path, "rb") as file:
            return file.read(MAX_ROOT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--trust {path}: {error.strerror}") from error
