"""``collab serve``: running plans behind the Open Inference Protocol; ``collab api-key``: keys for it."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, confirmed, refresh, with_cluster
from collab.cli.files import read_plan
from collab.cli.live_page import (
    Mounted,
    PageProfile,
    PageRollouts,
    PageRuns,
    Shown,
    check_shown,
    key_reader,
    mounted,
)
from collab.cli.output import emit, say
from collab.cli.scraping import release_journals
from collab.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collab.client.local import LocalModel
    from collab.coordinator.cluster import Cluster
    from collab.core.plan import Plan
    from collab.security.api_keys import ApiKey
    from collab.serving.door import DoorSettings, FrontDoor
    from collab.serving.offers import Opened
    from collab.serving.reload import Kept

EXAMPLE: Final = """
Examples:

    collab serve plan.yaml

    collab serve plan.yaml --listen 0.0.0.0:8000 --tls-cert cert.pem --tls-key key.pem --api-keys keys.txt

    collab serve plan.yaml --dashboard --rollouts rollouts/
"""

KEY_EXAMPLE: Final = """
Example:

    collab api-key keys.txt camera-1 --role inference
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=EXAMPLE)(serve)
    app.command("api-key", epilog=KEY_EXAMPLE)(api_key)


def serve(
    plans: Annotated[list[Path], typer.Argument(help="Plan files; each is a model of its plan's name.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT of REST, or none.")] = "127.0.0.1:8000",
    grpc: Annotated[str, typer.Option(help="HOST:PORT of gRPC, or none.")] = "127.0.0.1:8001",
    api_keys: Annotated[
        Path | None, typer.Option(help="File of API keys, as collab api-key makes it; others are refused.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="The server's certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Authority that clients need a certificate of, PEM.")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Requests of each client, as 20/s.")] = None,
    max_body_bytes: Annotated[int, typer.Option(help="Largest request.")] = 64 << 20,
    deadline_ms: Annotated[float, typer.Option(help="Time budget of a request that names none.")] = 30_000.0,
    credits: Annotated[int, typer.Option(help="Requests under way on a plan at a time; others wait.")] = 64,
    local: Annotated[
        list[Path] | None, typer.Option(help="A plan's whole model, to compute here what no node can answer.")
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Packaged model for files, where the plan does not name it.")
    ] = None,
    open_network: Annotated[
        bool,
        typer.Option("--open-network", help="Listen off loopback without TLS or keys.", show_default=False),
    ] = False,
    metrics: Annotated[
        str | None, typer.Option(help="[HOST:]PORT at which Prometheus may scrape this server.")
    ] = None,
    otlp: Annotated[str | None, typer.Option(help="Collector for traces: http://HOST:4318.")] = None,
    trace_ratio: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of requests traced.")] = 1.0,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Serve the live page at / of REST.", show_default=False)
    ] = False,
    profile: PageProfile = None,
    runs: PageRuns = None,
    rollouts: PageRollouts = None,
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Serve running plans by the Open Inference Protocol, over REST and gRPC, until SIGTERM or SIGINT."""
    from collab.assembly import make_tracer, requester_metrics
    from collab.cli.settings import peers as read_peers

    for option, value in (
        ("--max-body-bytes", max_body_bytes),
        ("--deadline-ms", deadline_ms),
        ("--credits", credits),
    ):
        if not 0 < value < math.inf:
            raise UsageError(f"{option} {value:g}: give a number above 0")
    parsed = {file: read_plan(file) for file in plans}
    settings = _settings(
        parsed, listen, grpc, api_keys, (tls_cert, tls_key, client_ca), rate, max_body_bytes, deadline_ms,
        bundle or (), open_network,
    )  # fmt: skip
    given = read_peers(peers)
    shown = Shown(plans, profile, runs or (), rollouts or ())
    _check_page(dashboard, listen, shown)

    async def run(cluster: Cluster) -> None:
        from collab.cli.supervised import notify, supervised
        from collab.serving.door import FrontDoor
        from collab.serving.reload import Reloads

        async def read(file: Path) -> Plan:
            return await refresh(cluster, await asyncio.to_thread(read_plan, file), given)

        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with AsyncExitStack() as stack:
            if otlp is not None:
                tracer = await asyncio.to_thread(make_tracer, otlp, {}, trace_ratio)
                stack.push_async_callback(asyncio.to_thread, tracer.close)
                cluster.tracer = tracer
            if metrics is not None:
                # What reads journals takes 10 MB.
                from collab.coordinator.journal_metrics import Told

                journals = Told(release_journals(plans))
                page_of_all = await asyncio.to_thread(requester_metrics, cluster, metrics, journals.values)
                say(f"metrics are at {(await stack.enter_async_context(page_of_all)).url}")
                looking = loop.create_task(journals.run())
                stack.callback(looking.cancel)
            opener, page = _opener(cluster, credits, local or ()), None
            if dashboard:
                page = await stack.enter_async_context(mounted(cluster, given, shown, settings.access))
            app = None if page is None else page.app
            door = await stack.enter_async_context(FrontDoor(plans, read, opener, settings, app))
            reloads = await stack.enter_async_context(Reloads(_kept(settings, api_keys, door, page), say))
            loop.add_signal_handler(signal.SIGHUP, reloads.now)
            await stack.enter_async_context(supervised())
            _ready(door.listen, door.grpc, [one._asdict() for one in door.offers.index()], json_)
            if page is not None and not json_:
                say(f"the page is at {door.listen}/")
            await stop.wait()
            notify("STOPPING=1")
            if page is not None:
                page.end()

    # Who drains nodes from the page has to be an operator to them.
    role = "operator" if dashboard else "client"
    with_cluster(run, role=role, trust=confirmed(insecure, insecure_network))


def _check_page(wanted: bool, listen: str, shown: Shown) -> None:
    if not wanted and (shown.profile is not None or shown.runs or shown.rollouts):
        raise UsageError("--profile, --runs, --rollouts: are of the page; give --dashboard as well")
    if wanted and listen == "none":
        raise UsageError("--dashboard: the page is at the address of REST; give --listen HOST:PORT")
    check_shown(shown)


def _settings(
    plans: dict[Path, Plan],
    listen: str,
    grpc: str,
    api_keys: Path | None,
    tls: tuple[Path | None, Path | None, Path | None],
    rate: str | None,
    max_body_bytes: int,
    deadline_ms: float,
    bundles: Sequence[Path],
    open_network: bool,
) -> DoorSettings:
    from collab.security.api_keys import read_api_keys
    from collab.serving.access import Access
    from collab.serving.door import DoorSettings, check_places
    from collab.serving.limits import ServeLimits
    from collab.serving.rate import RateLimit, parse_rate
    from collab.serving.tls import tls_files
    from collab.serving.wishes import MAX_DEADLINE_S
    from collab.transport.base import is_loopback, split_host_port

    rest = None if listen == "none" else listen
    calls = None if grpc == "none" else grpc
    if rest is None and calls is None:
        raise UsageError("--listen none --grpc none: give an address to at least one")
    if deadline_ms > MAX_DEADLINE_S * 1000:
        raise UsageError(f"--deadline-ms {deadline_ms:g}: give {MAX_DEADLINE_S * 1000:g} at most")
    files = tls_files(*tls)
    access = Access(
        keys=None if api_keys is None else read_api_keys(api_keys),
        # Who has a certificate of this authority may ask; to change what is offered takes a key.
        role="operator" if files is None or files.client_ca is None else "inference",
        rate=None if rate is None else RateLimit(parse_rate(rate)),
        loopback=rest is None or is_loopback(split_host_port(rest)[0]),
    )
    settings = DoorSettings(
        rest,
        calls,
        access,
        ServeLimits(body_bytes=max_body_bytes, deadline_s=deadline_ms / 1000),
        files,
        {
            plan.name: (*bundles, *(file.parent / m.path for m in plan.models if m.path is not None))
            for file, plan in plans.items()
        },
        open_network,
    )
    check_places(settings)
    return settings


def _kept(
    settings: DoorSettings, api_keys: Path | None, door: FrontDoor, page: Mounted | None
) -> list[Kept[Any]]:
    """What is read again while it serves."""
    from collab.security.api_keys import read_api_keys
    from collab.serving.reload import Kept

    def take_keys(keys: Sequence[ApiKey]) -> None:
        settings.access.take_keys(keys)
        if page is not None:
            page.sessions.take_keys(key_reader(keys))

    kept: list[Kept[Any]] = []
    if api_keys is not None:
        kept.append(Kept("API keys", [api_keys], partial(read_api_keys, api_keys), take_keys))
    if settings.tls is not None:
        kept.append(Kept("certificates", settings.tls.paths, settings.tls.load, door.renew))
    return kept


def _opener(cluster: Cluster, credits: int, whole: Sequence[Path]) -> Callable[[Plan], Awaitable[Opened]]:
    async def open_plan(plan: Plan) -> Opened:
        from collab.serving.offers import Opened

        local = await asyncio.to_thread(_local, plan, whole) if whole else None
        try:
            follower = await cluster.follow(plan, credits=credits, local=local)
        except BaseException:
            if local is not None:
                await local.close()
            raise

        async def close() -> None:
            await cluster.unfollow(follower)
            if local is not None:
                await local.close()

        return Opened(follower, close)

    return open_plan


def _local(plan: Plan, files: Sequence[Path]) -> LocalModel | None:
    """The whole model of a plan, of the files that are given for all plans."""
    from collab.coordinator.whole import local_model

    failure: ModelError | None = None
    for file in files:
        try:
            return local_model(plan, file)
        except ModelError as error:
            failure = error
    if len(files) == 1 and failure is not None:
        raise failure
    return None


def _ready(listen: str, grpc: str, models: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        emit({"event": "ready", "rest": listen or None, "grpc": grpc or None, "models": models})
        return
    for address in filter(None, (listen, grpc and f"grpc {grpc}")):
        say(f"serving at {address}")
    for model in models:
        version = f" at epoch {model['version']}" if model["version"] else ""
        say(f"model {model['name']} is {model['state']}{version} {model['reason']}".rstrip())


def api_key(
    file: Annotated[Path, typer.Argument(help="The file of keys; made if it is not there.")],
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    role: Annotated[str, typer.Option(help="viewer, inference or operator.")] = "inference",
    json_: AsJson = False,
) -> None:
    """Make an API key for collab serve; it is told once, and the file keeps its hash."""
    from collab.security.api_keys import add_api_key

    key = add_api_key(file, name, role)
    if json_:
        emit({"name": name, "role": role, "key": key})
    else:
        say(f"{name} ({role}); keep the key, it is not told again:")
        print(key, flush=True)
