"""``collab node``: one node process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.logs import LogForm, LogFormat, log_to_stderr
from collab.errors import CollabError, UsageError

if TYPE_CHECKING:
    from collab.node.config import NodeConfig
    from collab.node.service import NodeService

EXAMPLE = """
Example:

    collab node --name pi-1 --listen 127.0.0.1:7070 --store ~/collab-store
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("node", epilog=EXAMPLE)(node)


def node(
    name: Annotated[str | None, typer.Option(help="Name of this node, unique in the cluster.")] = None,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT,… to accept links at; port 0 takes a free one.")
    ] = None,
    no_listen: Annotated[bool, typer.Option("--no-listen", help="Only dial out, as behind NAT.")] = False,
    join: Annotated[
        str | None,
        typer.Option(help="URI,… of nodes to dial and stay linked with; they relay links to this one."),
    ] = None,
    broker: Annotated[
        str | None, typer.Option(help="MQTT broker to be reached and found through: mqtt[s]://HOST:PORT.")
    ] = None,
    discovery: Annotated[
        str | None, typer.Option(help="How to find others: mdns,mqtt,coap,directory; or none.")
    ] = None,
    directory: Annotated[str | None, typer.Option(help="CoAP resource directory: coap://HOST:PORT.")] = None,
    coap: Annotated[
        str | None, typer.Option(help="HOST:PORT at which to serve foreign CoAP clients.")
    ] = None,
    coap_oscore: Annotated[
        Path | None, typer.Option(help="Directory with the OSCORE contexts of CoAP clients without TLS.")
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(help="Directory with this node's key and certificate [env: COLLAB_IDENTITY]."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="[HOST:]PORT at which Prometheus may scrape this node.")
    ] = None,
    otlp: Annotated[
        str | None, typer.Option(help="Collector for spans of traced requests: http://HOST:4318.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Directory for models; kept over restarts.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    max_tensor_bytes: Annotated[int | None, typer.Option(help="Largest tensor that is accepted.")] = None,
    stretch: Annotated[
        float | None, typer.Option(hidden=True, help="Slow every stage down so many times; for experiments.")
    ] = None,
    insecure: Annotated[bool, typer.Option(help="Use unencrypted links.")] = False,
    insecure_network: Annotated[bool, typer.Option(help="Confirm --insecure off loopback.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print events as JSON lines on stdout.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log links and deployments.")] = False,
    log_format: LogFormat = LogForm.TEXT,
) -> None:
    """Run a node until SIGTERM or SIGINT: it stores models, runs stages, and answers control verbs."""
    from collab.assembly import DISCOVERIES, metrics_place
    from collab.cli.connect import confirmed
    from collab.cli.settings import gather, identity_directory
    from collab.node.config import NodeConfig

    trust = confirmed(insecure, insecure_network)
    flags = {
        "name": name,
        "listen": listen.split(",") if listen else None,
        "no_listen": no_listen or None,
        "join": join.split(",") if join else None,
        "broker": broker,
        "discovery": discovery.split(",") if discovery else None,
        "directory": directory,
        "coap": coap,
        "coap_oscore": coap_oscore,
        "insecure": trust.insecure or None,
        "metrics": metrics,
        "otlp": otlp,
        "store": store,
        "max_tensor_bytes": max_tensor_bytes,
        "insecure_networks": trust.networks or None,
        "stretch": stretch,
    }
    settings = gather(NodeConfig, flags, config, "node")
    for way in settings.discovery:
        if way not in (*DISCOVERIES, "none"):
            raise UsageError(f"--discovery: {way!r} is not known; use {', '.join(DISCOVERIES)} or none")
    if settings.coap_oscore is not None and settings.coap is None:
        raise UsageError("--coap-oscore: give --coap HOST:PORT as well")
    if settings.metrics is not None:
        metrics_place(settings.metrics)  # said before anything starts
    chosen = None if settings.insecure else identity_directory(identity or settings.identity, config)
    _prepare_process(verbose, log_format, settings.name)
    asyncio.run(_run(settings, chosen, json_))


def _prepare_process(verbose: bool, form: LogForm, name: str) -> None:
    log_to_stderr(verbose, form, name)
    from collab.node.memory import keep_large_buffers

    keep_large_buffers()


async def _run(settings: NodeConfig, identity: Path | None, as_json: bool) -> None:
    from collab.assembly import build_node, coap_service, load_identity, make_tracer, metrics_server
    from collab.cli.supervised import notify, supervised

    security = await asyncio.to_thread(load_identity, identity)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.insecure_networks:
        print("warning: links are not encrypted; anybody on this network can read and forge", file=sys.stderr)
    async with AsyncExitStack() as stack:
        if settings.otlp:
            tracer = await asyncio.to_thread(
                make_tracer, settings.otlp, {"service.instance.id": settings.name}
            )
            stack.push_async_callback(asyncio.to_thread, tracer.close)
        service = await stack.enter_async_context(build_node(settings, security=security))
        service.tally.tracer = tracer if settings.otlp else None
        event: dict[str, Any] = {"event": "ready", "name": service.name, "endpoints": service.endpoints}
        if settings.coap:
            clients = await asyncio.to_thread(coap_service, service, security)
            event["coap"] = (await stack.enter_async_context(clients)).endpoints
        if settings.sources or settings.sinks:
            # Few nodes have any, and what they need takes memory.
            from collab.streaming import node_streams

            await stack.enter_async_context(node_streams(service, security))
        if settings.metrics:
            event["metrics"] = (await stack.enter_async_context(metrics_server(service))).url
        keep_releases = await _releases(stack, service, as_json)
        if as_json:
            print(json.dumps(event), flush=True)
        else:
            print(
                f"node {service.name} is ready at {', '.join(service.endpoints) or 'no address'}", flush=True
            )
        keeping = loop.create_task(keep_releases())
        async with supervised():
            await stop.wait()
            notify("STOPPING=1")
            # Nothing is put in that would not be there for long.
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            if service.streams is not None:
                await service.streams.stop()
            left = await service.drain_and_wait()
        if as_json:
            print(json.dumps({"event": "drained", "name": service.name, "unfinished": left}), flush=True)


async def _releases(
    stack: AsyncExitStack, service: NodeService, as_json: bool
) -> Callable[[], Coroutine[Any, Any, None]]:
    """What looks after the releases of plans of this node, as its settings say; it may have nothing to do."""
    agent = None
    if service.config.releases.source:
        from collab.cli.release_serving import node_agent

        def tell(document: dict[str, Any], text: str) -> None:
            print(json.dumps(document) if as_json else text, flush=True)

        agent = await stack.enter_async_context(node_agent(service, tell))

    async def keep() -> None:
        try:
            if agent is not None:
                await agent.run()
        except CollabError as error:
            # The node serves what it has all the same.
            print(f"releases are not looked after: {error}", file=sys.stderr)

    return keep
