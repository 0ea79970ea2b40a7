"""``collab controller``: what lives long in a cluster."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collab.cli.cluster import (
    DEFAULT_LISTEN,
    AuthorityDirectory,
    PassphraseFile,
    contact,
    open_authority,
)
from collab.cli.connect import AsJson, Peers
from collab.cli.output import emit, say

if TYPE_CHECKING:
    from collab.core.identity import Principal
    from collab.security.authority import Authority

EXAMPLE = """
Example:

    collab controller --listen 10.0.0.5:7443 --peers 10.0.0.7:7070,10.0.0.8:7070
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("controller", epilog=EXAMPLE)(controller)


def controller(
    listen: Annotated[
        str, typer.Option(help="HOST:PORT to serve enrolment and renewal at.")
    ] = DEFAULT_LISTEN,
    peers: Peers = None,
    authority: AuthorityDirectory = None,
    passphrase_file: PassphraseFile = None,
    identity: Annotated[
        Path | None, typer.Option(help="Of a controller or an operator [env: COLLAB_IDENTITY].")
    ] = None,
    directory: Annotated[
        str | None, typer.Option(help="HOST:PORT to serve a CoAP resource directory at, for discovery.")
    ] = None,
    json_: AsJson = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log who enrols and who is told.")] = False,
) -> None:
    """Serve enrolment and renewal, and tell nodes what was revoked, until SIGTERM or SIGINT."""
    from collab.cli.logs import log_to_stderr
    from collab.cli.settings import identity_directory
    from collab.cli.settings import peers as read_peers

    log_to_stderr(verbose)
    opened = open_authority(authority, passphrase_file)
    opened.unlock()
    asyncio.run(_run(opened, listen, read_peers(peers), identity_directory(identity), directory, json_))


async def _run(
    authority: Authority,
    listen: str,
    peers: list[str],
    identity: Path | None,
    directory: str | None,
    as_json: bool,
) -> None:
    from collab.assembly import build_cluster, load_identity
    from collab.coordinator.controller import Controller
    from collab.security.enrol_server import EnrolServer
    from collab.transport.base import split_host_port

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def enrolled(principal: Principal) -> None:
        if as_json:
            emit({"event": "enrolled", "principal": str(principal)})
        else:
            say(f"enrolled {principal}")

    host, port = split_host_port(listen)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EnrolServer(authority, host, port, enrolled=enrolled))
        watching = None
        if peers:
            security = await asyncio.to_thread(load_identity, identity)
            cluster = await stack.enter_async_context(build_cluster(role="controller", security=security))
            watching = loop.create_task(Controller(cluster, peers, authority.crl).run())
        if directory is not None:
            await _serve_directory(stack, *split_host_port(directory))
        address = contact(host, server.port)
        if as_json:
            emit({"event": "ready", "cluster": authority.cluster, "address": address})
        else:
            say(f"controller of cluster {authority.cluster} is ready at {address}")
        try:
            await _first(stop, watching)
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
    if as_json:
        emit({"event": "stopped"})


async def _serve_directory(stack: AsyncExitStack, host: str, port: int) -> None:
    """Serve until the stack is left."""
    from collab.discovery.directory_server import DirectoryServer

    server = DirectoryServer(host, port)
    stack.push_async_callback(server.stop)
    await server.start()


async def _first(stop: asyncio.Event, watching: asyncio.Task[None] | None) -> None:
    """Wait to be stopped, or for the watching to fail."""
    waiting = asyncio.get_running_loop().create_task(stop.wait())
    try:
        done, _ = await asyncio.wait(
            [waiting, *([watching] if watching else [])], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
    finally:
        waiting.cancel()
