"""``collab health``: the check of containers and other watchers, which ask often: it imports little."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from collab.errors import UsageError

USUAL: Final = "127.0.0.1:7070"
"""Where the node of a container listens."""

EXAMPLE = """
Examples:

    collab health

    collab health --config /etc/collab/node.toml --timeout-s 10
"""


class NodePlace(msgspec.Struct, frozen=True):
    """Of a node's settings (`collab.node.config.NodeConfig`) those that say how to ask it.

    Importing all of them takes longer than the question.
    """

    listen: tuple[str, ...] = ()
    no_listen: bool = False
    identity: Path | None = None
    insecure: bool = False


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("health", epilog=EXAMPLE)(health)


def health(
    address: Annotated[
        str | None,
        typer.Option(help=f"HOST:PORT of this device's node; else that of its settings, or {USUAL}."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the node's settings.")] = None,
    identity: Annotated[
        Path | None, typer.Option(help="Directory with the node's own key and certificate.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="The node uses unencrypted links.", show_default=False)
    ] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=60, help="How long it may take to answer.")] = 5.0,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Ask this device's node, with its own certificate, whether it takes requests: 0 yes, 1 no, 3 silence."""
    from collab.cli.output import emit, say
    from collab.cli.settings import gather, identity_directory
    from collab.security.identity import Credentials  # assembly's table would import all there is
    from collab.transport.health import serves

    settings = gather(NodePlace, {}, config, "node")
    place = address or own_place(settings)
    plain = insecure or settings.insecure
    own = None if plain else identity_directory(identity or settings.identity, config)
    security = None if own is None else Credentials.load(own)
    well = asyncio.run(serves(f"grpc://{place}", security, timeout_s))
    state = "serving" if well else "not serving"
    if json_:
        emit({"address": place, "state": state})
    else:
        say(f"{place}: {state}")
    raise typer.Exit(0 if well else 1)


def own_place(settings: NodePlace) -> str:
    """Where to dial a node on this device, by its settings; `UsageError` if nothing can."""
    from collab.transport.base import split_host_port

    if settings.no_listen:
        raise UsageError("no_listen: this node accepts no links, so nothing can ask it; let systemd watch it")
    places = [place.removeprefix("grpc://") for place in settings.listen or (USUAL,)]
    first = next((place for place in places if "://" not in place), None)
    if first is None:
        raise UsageError(
            f"listen: {', '.join(places)}: health is asked over gRPC; add a HOST:PORT of loopback"
        )
    host, port = split_host_port(first)
    if port == 0:
        raise UsageError(f"listen: {first!r} takes any free port; give --address HOST:PORT")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
