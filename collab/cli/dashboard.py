"""``collab dashboard``: a live page of the cluster."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, Trust, confirmed
from collab.cli.live_page import (
    PageProfile,
    PageRollouts,
    PageRuns,
    Shown,
    check_shown,
    key_reader,
    page_source,
)
from collab.cli.output import emit, say
from collab.errors import ConfigError, Refused, UsageError
from collab.transport.base import is_loopback, split_host_port

if TYPE_CHECKING:
    from collab.dashboard.access import Sessions
    from collab.dashboard.cluster_source import ClusterSource
    from collab.serving.tls import TlsFiles

DEFAULT_LISTEN: Final = "127.0.0.1:8080"

EXAMPLE = """
Examples:

    collab dashboard plan.yaml --peers 10.0.0.7:7070,10.0.0.8:7070

    collab dashboard plan.yaml --listen 0.0.0.0:8443 --api-keys keys.txt --tls-cert cert.pem --tls-key key.pem

    collab dashboard plan.yaml --profile P.json --runs runs/ --rollouts rollouts/
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dashboard", epilog=EXAMPLE)(dashboard)


def dashboard(
    plans: Annotated[
        list[Path] | None, typer.Argument(help="Plan files, for their nodes and predictions.")
    ] = None,
    peers: Peers = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT to serve the page at.")] = DEFAULT_LISTEN,
    api_keys: Annotated[
        Path | None, typer.Option(help="File of keys; without it everybody on this machine may act.")
    ] = None,
    profile: PageProfile = None,
    runs: PageRuns = None,
    rollouts: PageRollouts = None,
    tls_cert: Annotated[Path | None, typer.Option(help="The page's certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log what is asked for.")] = False,
) -> None:
    """Serve a live page of nodes, plans, traffic, learning and releases, until SIGTERM."""
    from collab.cli.logs import log_to_stderr
    from collab.cli.settings import peers as read_peers

    trust, given = confirmed(insecure, insecure_network), read_peers(peers)
    paths = plans or []
    if not given and not paths:
        raise UsageError("no peers: give --peers HOST:PORT,… or a plan file, or set COLLAB_PEERS")
    check_shown(Shown(paths, profile))
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise ConfigError("the page needs Starlette and Uvicorn; run: pip install 'collab[serve]'")
    from collab.serving.tls import tls_files

    log_to_stderr(verbose)
    tls = tls_files(tls_cert, tls_key, None)
    sessions = _sessions(split_host_port(listen)[0], api_keys, tls is not None)
    shown = Shown(paths, profile, runs or (), rollouts or ())
    serving = _Dashboard(listen, given, shown, tls, api_keys, trust, json_)
    asyncio.run(serving.run(sessions))


def _sessions(host: str, api_keys: Path | None, encrypted: bool) -> Sessions:
    """Who may look; raises `Refused` for a page that the network could read or use without a key."""
    from collab.dashboard.access import Sessions
    from collab.security.api_keys import read_api_keys

    local = is_loopback(host)
    if not local and api_keys is None:
        raise Refused("--listen: beyond this machine the page needs keys; give --api-keys FILE")
    if not local and not encrypted:
        raise Refused("--listen: beyond this machine keys need HTTPS; give --tls-cert and --tls-key")
    if api_keys is None:
        return Sessions(None, secrets.token_urlsafe)
    return Sessions(key_reader(read_api_keys(api_keys)), secrets.token_urlsafe, loopback=local)


class _Dashboard:
    """One page and what it watches."""

    def __init__(
        self,
        listen: str,
        peers: Sequence[str],
        shown: Shown,
        tls: TlsFiles | None,
        api_keys: Path | None,
        trust: Trust,
        as_json: bool,
    ) -> None:
        self._listen = listen
        self._peers = peers
        self._shown = shown
        self._tls = tls
        self._api_keys = api_keys
        self._trust = trust
        self._as_json = as_json

    async def run(self, sessions: Sessions) -> None:
        """Serve until SIGTERM or SIGINT."""
        from collab.assembly import build_cluster, load_identity
        from collab.cli.settings import identity_directory

        security = await asyncio.to_thread(
            load_identity, None if self._trust.insecure else identity_directory()
        )
        made = build_cluster(role="operator", insecure_networks=self._trust.networks, security=security)
        async with made as cluster:
            source = page_source(cluster, self._peers, self._shown)
            loop = asyncio.get_running_loop()
            tasks = {loop.create_task(source.run()), loop.create_task(self._serve(source, sessions))}
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, source: ClusterSource, sessions: Sessions) -> None:
        from collab.cli.supervised import notify, supervised
        from collab.dashboard.app import dashboard_app
        from collab.security.api_keys import read_api_keys
        from collab.serving.http_server import HttpServer
        from collab.serving.limits import ServeLimits
        from collab.serving.reload import Kept, Reloads
        from collab.serving.tls import Certificates

        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        app = await asyncio.to_thread(dashboard_app, source, sessions)
        kept: list[Kept[Any]] = []
        if (keys := self._api_keys) is not None:
            read = partial(read_api_keys, keys)
            kept.append(Kept("API keys", [keys], read, lambda found: sessions.take_keys(key_reader(found))))
        shown: Certificates | None = None
        if self._tls is not None:
            shown = Certificates(await asyncio.to_thread(self._tls.load))
            kept.append(Kept("certificates", self._tls.paths, self._tls.load, shown.renew))
        async with (
            HttpServer(app, self._listen, ServeLimits(), shown) as server,
            Reloads(kept, say) as reloads,
            supervised(),
        ):
            loop.add_signal_handler(signal.SIGHUP, reloads.now)
            if self._as_json:
                emit({"event": "ready", "url": f"{server.address}/"})
            else:
                say(f"the page is at {server.address}/")
            await stop.wait()
            notify("STOPPING=1")
            source.end()
