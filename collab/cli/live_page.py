"""What the live page is made of, for ``collab dashboard`` and ``collab serve --dashboard``."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from collab.errors import CollabError, UsageError

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.core.ids import PlanName
    from collab.core.plan import Plan
    from collab.dashboard.access import Sessions, Who
    from collab.dashboard.cluster_source import ClusterSource
    from collab.security.api_keys import ApiKey
    from collab.serving.access import Access
    from collab.serving.gate import App

log = logging.getLogger("collab.dashboard")

PageProfile = Annotated[
    Path | None,
    typer.Option("--profile", help="The profile that the one plan rests on, so that it can be made anew."),
]
PageRuns = Annotated[
    list[Path] | None, typer.Option("--runs", help="Folder of a federated run, or of several.")
]
PageRollouts = Annotated[
    list[Path] | None, typer.Option("--rollouts", help="Folder of a rollout, or of several.")
]


@dataclass(frozen=True)
class Shown:
    """Files and folders that a page shows."""

    plans: Sequence[Path]
    profile: Path | None = None
    """That the one plan rests on; without it none is made anew."""
    runs: Sequence[Path] = ()
    rollouts: Sequence[Path] = ()


def check_shown(shown: Shown) -> None:
    """Read the plans and the profile; raises what is wrong with them, `UsageError`."""
    from collab.cli.files import read_plan, read_profile

    for path in shown.plans:
        read_plan(path)
    if shown.profile is not None:
        if len(shown.plans) != 1:
            raise UsageError("--profile: give the one plan that it is of")
        read_profile(shown.profile)


def key_reader(keys: Sequence[ApiKey]) -> Who:
    """Whose key it is that somebody signs in with."""
    from collab.security.api_keys import whose

    def who(presented: str) -> tuple[str, str]:
        found = whose(keys, presented)
        return found.name, found.role

    return who


def served_sessions(access: Access) -> Sessions:
    """Who may look at a front door's own page: the same keys sign in.

    Without keys everybody on this machine has the front door's role, and others only look.
    """
    from collab.dashboard.access import Sessions

    role = access.role if access.loopback else "viewer"
    who = None if access.keys is None else key_reader(access.keys)
    return Sessions(who, secrets.token_urlsafe, role=role, loopback=access.loopback)


def page_source(cluster: Cluster, peers: Sequence[str], shown: Shown) -> ClusterSource:
    """What the page shows and does; the caller runs it."""
    from collab.dashboard.cluster_source import ClusterSource, Hands

    files = _Files(cluster, peers, shown)
    hands = Hands(
        replan=None if shown.profile is None else files.replan,
        undo=files.undo if shown.plans else None,
        steer=files.steer if shown.rollouts else None,
    )
    return ClusterSource(cluster, peers, files.read_plans, files.read_folders, hands, cluster.metrics)


class Mounted(NamedTuple):
    """A page for a front door."""

    app: App
    sessions: Sessions
    end: Callable[[], None]
    """Lets go who looks at it; a server waits for them otherwise."""


@asynccontextmanager
async def mounted(
    cluster: Cluster, peers: Sequence[str], shown: Shown, access: Access
) -> AsyncIterator[Mounted]:
    """The page as an application beside a front door's."""
    from collab.client.metrics import RequesterMetrics
    from collab.dashboard.app import dashboard_app

    if cluster.metrics is None:
        cluster.metrics = RequesterMetrics()
    source = page_source(cluster, peers, shown)
    sessions = served_sessions(access)
    app = await asyncio.to_thread(dashboard_app, source, sessions)
    watching = asyncio.ensure_future(source.run())
    watching.add_done_callback(_stopped)
    try:
        yield Mounted(app, sessions, source.end)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _stopped(watching: asyncio.Future[None]) -> None:
    if not watching.cancelled() and (error := watching.exception()) is not None:
        log.error("the page looks at nothing any more", exc_info=error)


class _Files:
    """Reads what is shown, and acts on it."""

    def __init__(self, cluster: Cluster, peers: Sequence[str], shown: Shown) -> None:
        self._cluster, self._peers, self._shown = cluster, peers, shown

    def read_plans(self) -> list[Plan]:
        """Plans of the files, and those that took their place; one that is just being written is left out."""
        from collab.cli.files import read_plan
        from collab.cli.replanning import successor_path

        found = []
        for path in self._shown.plans:
            for place in (path, successor_path(path)):
                try:
                    found.append(read_plan(place))
                except CollabError:
                    continue
        return found

    def read_folders(self) -> dict[str, list[dict[str, Any]]]:
        """Runs, rollouts and what the plans' files ran."""
        from collab.cli.replanning import plan_versions
        from collab.dashboard.folders import histories, rollouts, runs

        return {
            "run": runs(self._shown.runs),
            "rollout": rollouts(self._shown.rollouts),
            "history": histories(map(plan_versions, self._shown.plans)),
        }

    def steer(self, action: str, name: str, by: str) -> str:
        """Pause, resume or end a rollout."""
        from collab.dashboard.folders import rollout_at
        from collab.dashboard.steering import steer

        return steer(rollout_at(self._shown.rollouts, name), action, by)

    async def undo(self, name: PlanName) -> str:
        """Put the former model back into a plan."""
        from collab.cli.replanning import plan_versions
        from collab.coordinator.plan_update import undo

        path = await asyncio.to_thread(self._file_of, name)
        outcome = await undo(self._cluster, plan_versions(path))
        return f"plan {name}: {outcome.version} runs again, epoch {outcome.epoch}"

    def _file_of(self, name: PlanName) -> Path:
        from collab.cli.files import read_plan

        for path in self._shown.plans:
            if read_plan(path).name == name:
                return path
        raise UsageError(f"plan {name!r}: its file is not given to this page")

    async def replan(self, name: PlanName, reason: str) -> str:
        """From what runs by now; a file of it was kept at the last change."""
        from collab.cli.replanning import read_watched, successor_path

        (path,) = self._shown.plans
        current = successor_path(path)
        options: tuple[Any, ...] = (self._shown.profile, "20%", 1.0, "10%", 30.0, "latency", False)
        there = [peer for peer in self._peers if await _answers(self._cluster, peer)]
        for place in (current, path) if await asyncio.to_thread(current.exists) else (path,):
            watched = replace(await asyncio.to_thread(read_watched, place, *options), path=path)
            if watched.plan.name != name:
                raise UsageError(f"plan {name!r}: its file is not given to this page")
            try:
                replanner = await watched.start(self._cluster, there, lambda decision: None, some=True)
            except CollabError:
                if place == path:
                    raise
                continue
            return str(await replanner.decide_now(reason))
        raise AssertionError("the last place was tried")


async def _answers(cluster: Cluster, peer: str) -> bool:
    try:
        await cluster.reach([peer])
    except CollabError:
        return False
    return True
