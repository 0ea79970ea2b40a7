"""How rollouts look: bars for each wave on a terminal, tables, and one object for scripts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from collab.cli.connect import Trust, with_cluster
from collab.cli.output import console, emit, say, show, table
from collab.errors import CollabError

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.rollout import Tell
    from collab.coordinator.rollout_folder import About
    from collab.coordinator.running_release import PlanRuns
    from collab.updates.rollout.state import RolloutState, Target

_AT_ONCE: Final = 16
"""Plans whose nodes are asked at a time."""

Said = dict[str, "PlanRuns | str"]
"""What the nodes of a plan say, by its name, or why its file cannot be read."""


def document(about: About, state: RolloutState, said: Said | None = None) -> dict[str, Any]:
    """A rollout as scripts read it."""
    import msgspec

    from collab.updates.rollout.report import waves_of

    return {
        "name": about.rollout.name,
        "release": str(about.reference),
        "phase": state.phase,
        "reason": state.reason,
        "paused_by": state.paused_by,
        "wave": state.wave + 1,
        "waves": msgspec.to_builtins(waves_of(state)),
        "targets": [_target(about, one, (said or {}).get(one.name)) for one in state.targets],
    }


def _target(about: About, target: Target, said: PlanRuns | str | None) -> dict[str, Any]:
    told = {
        "name": target.name,
        "file": target.file,
        "labels": target.labels,
        "wave": target.wave + 1,
        "status": target.status,
        "reason": target.reason,
        "version": target.version,
        "epoch": target.epoch,
    }
    if said is None:
        return told
    told["difference"] = difference(str(about.reference), target, said)
    if not isinstance(said, str):
        told["says"] = {"agreement": said.agreement, "versions": list(said.versions)}
    return told


def difference(release: str, target: Target, said: PlanRuns | str) -> str:
    """What the nodes say otherwise than the journal; empty where nothing is."""
    if isinstance(said, str):
        return said
    if said.agreement in ("unreachable", "partly", "not deployed"):
        return f"its nodes: {said.agreement}"
    if said.agreement == "mixed":
        return f"its nodes run several versions: {', '.join(said.versions)}"
    runs = release in said.versions
    if target.status == "healthy" and not runs:
        return f"its nodes run {', '.join(said.versions)}"
    if runs and target.status not in ("healthy", "updating", "to go back", "going back"):
        return "its nodes run the release"
    return ""


def summary(about: About, state: RolloutState) -> str:
    """A rollout in a line."""
    from collections import Counter

    counts = Counter(one.status for one in state.targets)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    phase = f"paused by {state.paused_by}" if state.paused_by else state.phase
    why = f" ({state.reason})" if state.reason else ""
    return f"{about.rollout.name}, {about.reference}: {phase}{why}; {told}"


@contextmanager
def shown(state: RolloutState) -> Iterator[Tell]:
    """A line for each event, and on a terminal a bar for each wave that stays below them."""
    from collab.updates.rollout.report import waves_of

    if not sys.stderr.isatty():
        yield lambda event, _: say(as_told(event))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=console()) as bars:
        tasks = {
            one.wave: bars.add_task(f"wave {one.wave}", total=one.targets, now="") for one in waves_of(state)
        }

        def tell(event: dict[str, Any], state: RolloutState) -> None:
            bars.console.print(as_told(event))
            for one in waves_of(state):
                now = ", ".join(f"{count} {status}" for status, count in sorted(one.statuses.items()))
                bars.update(tasks[one.wave], completed=one.decided, now=now)

        yield tell


def show_rollout(path: Path, ask: bool, trust: Trust, json_: bool) -> None:
    """The journal of a rollout, beside what nodes say."""
    from collab.coordinator.rollout_folder import RolloutFolder

    folder = RolloutFolder(path)
    about, state = folder.about(), folder.read()
    said = _ask({one.name: Path(one.file) for one in state.targets}, trust) if ask else {}
    if json_:
        emit({**document(about, state, said), "at_it": folder.at_it})
    rows = [
        (
            one.wave + 1 if one.wave >= 0 else "-",
            one.name,
            one.status,
            one.version or "-",
            one.epoch or "-",
            one.reason or "-",
            difference(str(about.reference), one, said[one.name]) or "ok"
            if one.name in said
            else "not asked",
        )
        for one in state.targets
    ]
    show(table(about.rollout.name, ("wave", "plan", "status", "runs", "epoch", "why", "nodes say"), rows))
    say(summary(about, state) + ("" if folder.at_it else "; no process is at it"))


def _ask(files: dict[str, Path], trust: Trust) -> Said:
    """What the nodes of plans say, several plans at a time."""
    from collab.cli.files import read_plan
    from collab.coordinator.running_release import ask_plan

    async def go(cluster: Cluster) -> Said:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(path: Path) -> PlanRuns | str:
            async with turn:
                try:
                    return await ask_plan(cluster, await asyncio.to_thread(read_plan, path))
                except CollabError as error:
                    return " ".join(str(error).split())

        found = await asyncio.gather(*(one(path) for path in files.values()))
        return dict(zip(files, found, strict=True))

    return with_cluster(go, trust=trust)


def as_told(event: dict[str, Any]) -> str:
    """An event in a line."""
    kind = event["event"]
    if kind == "target":
        version = f", runs {event['version']}" if event["version"] else ""
        why = f": {event['reason']}" if event["reason"] else ""
        return f"wave {event['wave']}, {event['target']}: {event['status']}{version}{why}"
    if kind == "wave":
        return f"wave {event['wave']} begins"
    if kind == "rest":
        return f"wave {event['wave']} is over; a rest before the next one"
    if kind == "phase":
        return f"{event['phase']}" + (f": {event['reason']}" if event["reason"] else "")
    return f"{kind} by {event['by']}" if event["by"] else kind
