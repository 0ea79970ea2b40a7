"""``collab controller``: what lives long in a cluster."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.cluster import (
    DEFAULT_LISTEN,
    AuthorityDirectory,
    PassphraseFile,
    contact,
    open_authority,
)
from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, Trust, confirmed
from collab.cli.logs import LogForm, LogFormat, log_to_stderr
from collab.cli.output import emit, say
from collab.cli.release_serving import open_agent, read_releases
from collab.cli.replanning import Watched, read_watched
from collab.cli.scraping import Metrics, release_journals, scraped
from collab.cli.supervised import supervised
from collab.errors import UsageError
from collab.transport.base import split_host_port

if TYPE_CHECKING:
    from collab.coordinator.replan import Decision
    from collab.core.identity import Principal
    from collab.security.authority import Authority
    from collab.updates.rollout.state import RolloutState
    from collab.updates.settings import ReleaseSettings

_REPORTS_S: Final = 2.0
"""Between two times that peers are asked for reports."""

EXAMPLE = """
Examples:

    collab controller --listen 10.0.0.5:7443 --peers 10.0.0.7:7070,10.0.0.8:7070

    collab controller --plan plan.yaml --profile P.json --replan-when 20%

    collab controller --releases digits.toml --insecure --json
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
        Path | None,
        typer.Option(help="Of a controller, or of an operator for --plan [env: COLLAB_IDENTITY]."),
    ] = None,
    directory: Annotated[
        str | None, typer.Option(help="HOST:PORT to serve a CoAP resource directory at, for discovery.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="A deployed plan to watch, and to deploy anew when that pays.")
    ] = None,
    profile: Annotated[Path | None, typer.Option(help="The profile that the plan was made from.")] = None,
    replan_when: Annotated[
        str, typer.Option(help="How far measured times must be from the profile's, such as 20%.")
    ] = "20%",
    replan_every: Annotated[float, typer.Option(help="Seconds between two looks at the plan.")] = 1.0,
    replan_margin: Annotated[
        str, typer.Option(help="How much better a new plan must be predicted, such as 10%.")
    ] = "10%",
    replan_pause: Annotated[
        float, typer.Option(help="Seconds after a switch before the next; more while links flap.")
    ] = 30.0,
    objective: Annotated[
        str, typer.Option(help="What plans are made for: latency, throughput, memory, energy or bytes.")
    ] = "latency",
    requester_here: Annotated[
        bool,
        typer.Option(
            "--requester-here", help="The plan's requester is on this machine: probe its links from here."
        ),
    ] = False,
    reports: Annotated[
        Path | None,
        typer.Option(help="File to add reports of the peers to that answered alone, when they are back."),
    ] = None,
    releases: Annotated[
        list[Path] | None,
        typer.Option(help="TOML file with a table [releases]: plans to keep at a family's releases."),
    ] = None,
    rollout: Annotated[
        list[Path] | None, typer.Option(help="Folder of a rollout to go on with; give it for each.")
    ] = None,
    metrics: Metrics = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log who enrols and who is told.")] = False,
    log_format: LogFormat = LogForm.TEXT,
) -> None:
    """Serve enrolment and renewal, tell nodes what was revoked, keep plans at their best, until SIGTERM.

    With --insecure there is no authority: plans are looked after and nothing is served.
    """
    from collab.cli.settings import identity_directory
    from collab.cli.settings import peers as read_peers

    trust = confirmed(insecure, insecure_network)
    watched = None
    if plan is not None:
        watched = read_watched(
            *(plan, profile, replan_when, replan_every, replan_margin, replan_pause),
            *(objective, requester_here),
        )
    elif profile is not None or (trust.insecure and reports is None and not releases and not rollout):
        raise UsageError("--plan: missing; --profile and --insecure are for watching one")
    if reports is not None and not read_peers(peers):
        raise UsageError("--reports: give --peers HOST:PORT,… to fetch them from")
    log_to_stderr(verbose, log_format)
    opened = None
    if not trust.insecure:
        opened = open_authority(authority, passphrase_file)
        opened.unlock()
    serving = _Serving(
        opened,
        listen,
        read_peers(peers),
        None if trust.insecure else identity_directory(identity),
        directory,
        json_,
        watched,
        trust,
        reports,
        [read_releases(path) for path in releases or ()],
        rollout or (),
        metrics,
    )
    asyncio.run(serving.run())


class _Serving:
    """What one controller does until it is stopped."""

    def __init__(
        self,
        authority: Authority | None,
        listen: str,
        peers: list[str],
        identity: Path | None,
        directory: str | None,
        as_json: bool,
        watched: Watched | None,
        trust: Trust,
        reports: Path | None,
        releases: Sequence[ReleaseSettings],
        rollouts: Sequence[Path],
        metrics: str | None,
    ) -> None:
        self._authority = authority
        self._listen = listen
        self._peers = peers
        self._identity = identity
        self._directory = directory
        self._as_json = as_json
        self._watched = watched
        self._trust = trust
        self._reports = reports
        self._releases = releases
        self._rollouts = rollouts
        self._metrics = metrics
        self._tasks: list[asyncio.Task[Any]] = []

    def _tell(self, event: dict[str, Any], text: str) -> None:
        if self._as_json:
            emit(event)
        elif text:
            say(text)

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT, or a task that fails."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with AsyncExitStack() as stack:
            ready, text = await self._serve_enrolment(stack)
            if self._peers or self._watched is not None or self._releases:
                await self._serve_cluster(stack)
            for path in self._rollouts:
                await self._serve_rollout(stack, path)
            if self._metrics is not None:
                plans = [plan for settings in self._releases for plan in settings.plans]
                if self._watched is not None:
                    plans.append(self._watched.path)
                journals = release_journals(plans, self._rollouts)
                await stack.enter_async_context(scraped(self._metrics, journals))
            if self._directory is not None:
                await _serve_directory(stack, *split_host_port(self._directory))
            self._tell(ready, text)
            try:
                async with supervised():
                    await _first(stop, self._tasks)
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tell({"event": "stopped"}, "")

    async def _serve_enrolment(self, stack: AsyncExitStack) -> tuple[dict[str, Any], str]:
        """What to say when all is ready."""
        from collab.security.enrol_server import EnrolServer

        if self._authority is None:
            return {"event": "ready"}, "controller is ready; nothing is served without an authority"

        def enrolled(principal: Principal) -> None:
            self._tell({"event": "enrolled", "principal": str(principal)}, f"enrolled {principal}")

        host, port = split_host_port(self._listen)
        server = EnrolServer(self._authority, host, port, enrolled=enrolled)
        await stack.enter_async_context(server)
        cluster, address = self._authority.cluster, contact(host, server.port)
        ready = {"event": "ready", "cluster": cluster, "address": address}
        return ready, f"controller of cluster {cluster} is ready at {address}"

    async def _serve_cluster(self, stack: AsyncExitStack) -> None:
        from collab.assembly import build_cluster, load_identity
        from collab.coordinator.controller import Controller

        security = await asyncio.to_thread(load_identity, self._identity)
        # Without identities a role is what an end says it is; deploying is an operator's.
        deploys = self._watched is not None or bool(self._releases)
        role = "operator" if deploys else "controller"
        made = build_cluster(role=role, insecure_networks=self._trust.networks, security=security)
        cluster = await stack.enter_async_context(made)
        loop = asyncio.get_running_loop()
        if self._peers and self._authority is not None:
            pushing = Controller(cluster, self._peers, self._authority.crl)
            self._tasks.append(loop.create_task(pushing.run()))
        if self._reports is not None:
            from collab.coordinator.reports import ReportFile, ReportPull

            file = await asyncio.to_thread(ReportFile, self._reports)
            self._tasks.append(loop.create_task(ReportPull(cluster, self._peers, file, _REPORTS_S).run()))
        if self._watched is not None:
            replanner = await self._watched.start(cluster, self._peers, self._decided)
            self._tasks.append(loop.create_task(replanner.run()))
        for settings in self._releases:
            assert settings.store is not None, "the command gives it"
            name = f"{settings.family}@{settings.plans[0].stem}"
            opened = open_agent(settings, cluster, cluster.links, name, settings.store, self._tell)
            agent = await stack.enter_async_context(opened)
            self._tasks.append(loop.create_task(agent.run()))

    async def _serve_rollout(self, stack: AsyncExitStack, path: Path) -> None:
        from collab.assembly import load_identity
        from collab.cli.release_rollout import rolling
        from collab.cli.rollout_tables import as_told
        from collab.coordinator.rollout_folder import RolloutFolder

        folder = RolloutFolder(path)
        await asyncio.to_thread(stack.enter_context, folder.locked())
        security = await asyncio.to_thread(load_identity, self._identity)

        def tell(event: dict[str, Any], _: RolloutState) -> None:
            self._tell({**event, "rollout": str(path), "event": f"rollout {event['event']}"}, as_told(event))

        at_it = await asyncio.to_thread(rolling, folder, self._trust, security, tell)
        self._tasks.append(asyncio.get_running_loop().create_task(at_it.run(stay=True)))

    def _decided(self, decision: Decision) -> None:
        self._tell(decision.to_json(), str(decision))


async def _serve_directory(stack: AsyncExitStack, host: str, port: int) -> None:
    """Serve until the stack is left."""
    from collab.discovery.directory_server import DirectoryServer

    server = DirectoryServer(host, port)
    stack.push_async_callback(server.stop)
    await server.start()


async def _first(stop: asyncio.Event, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait to be stopped, or for a task to fail; one that has done its work is none the worse."""
    waiting = asyncio.get_running_loop().create_task(stop.wait())
    left = {waiting, *tasks}
    try:
        while waiting in left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        waiting.cancel()
