"""``collab release update|undo``: a new model in a running plan, tried on its requests first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, PlanFile, confirmed
from collab.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.plan_update import Outcome, Progress
    from collab.coordinator.update_source import Offer
    from collab.updates.health.gate import Bounds
    from collab.updates.health.trial import Counts

UPDATE_EXAMPLE: Final = """
Examples:

    collab release update plan.yaml digits.collab

    collab release update plan.yaml device/digits --touched 0.05 --patience 60 --json
"""
UNDO_EXAMPLE: Final = "Example:\n\n    collab release undo plan.yaml"

_SAID: Final = {
    "golden": "the candidate answers its golden inputs",
    "shadow": "requesters send copies to the candidate",
    "canary": "the candidate answers few requests first",
    "commit": "the plan's next epoch is deployed",
    "probation": "the new model answers alone",
    "going back": "the former model is deployed again",
}


def register(to: typer.Typer) -> None:
    """Add the commands."""
    to.command(epilog=UPDATE_EXAMPLE)(update)
    to.command(epilog=UNDO_EXAMPLE)(undo)


def update(
    plan: PlanFile,
    model: Annotated[
        Path,
        typer.Argument(
            help="What `collab model package` wrote, a .tflite, or a device's store of releases.",
            show_default=False,
        ),
    ],
    bounds: Annotated[Path | None, typer.Option(help="How good it has to be, as TOML.")] = None,
    touched: Annotated[
        float | None, typer.Option(help="Share of requests that it may answer before it is judged.")
    ] = None,
    copies: Annotated[float | None, typer.Option(help="Share of requests that it gets copies of.")] = None,
    probation: Annotated[
        int | None, typer.Option(help="Answers without a failure until it is healthy.")
    ] = None,
    trial: Annotated[
        bool, typer.Option("--trial/--no-trial", help="Whether requesters try it first.")
    ] = True,
    patience: Annotated[
        float | None, typer.Option(help="Seconds without any request after which nothing is waited for.")
    ] = None,
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Give a running plan a new model, if it proves as good on the plan's own requests."""
    from collab.cli.connect import with_cluster
    from collab.cli.replanning import plan_versions
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.plan_update import Rules, update_plan

    if patience is not None and not 0 <= patience <= 1e9:
        raise UsageError(f"--patience {patience:g}: give seconds from 0 on")
    rules = Rules(_bounds(bounds, touched=touched, copies=copies, probation=probation), trial, patience)
    offer, addresses = _offer(model), read_peers(peers)

    async def go(cluster: Cluster) -> Outcome:
        if addresses:
            await cluster.reach(addresses)
        with _shown() as tell:
            return await update_plan(cluster, plan_versions(plan), offer, rules, tell)

    _end(with_cluster(go, trust=confirmed(insecure, insecure_network)), json_)


def undo(
    plan: PlanFile,
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Put the model before the one that runs back into a plan, as a new epoch."""
    from collab.cli.connect import with_cluster
    from collab.cli.output import emit, say
    from collab.cli.replanning import plan_versions
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.plan_update import undo as go_back

    addresses = read_peers(peers)

    async def go(cluster: Cluster) -> Outcome:
        if addresses:
            await cluster.reach(addresses)
        return await go_back(cluster, plan_versions(plan))

    outcome = with_cluster(go, trust=confirmed(insecure, insecure_network))
    if json_:
        emit(document(outcome))
    say(f"{outcome.version} runs again, epoch {outcome.epoch}")


def document(outcome: Outcome) -> dict[str, Any]:
    """An outcome as scripts read it."""
    import msgspec

    return {
        "result": outcome.result,
        "reason": outcome.reason,
        "epoch": outcome.epoch,
        "version": outcome.version,
        "release": None if outcome.release is None else msgspec.to_builtins(outcome.release),
        "counts": {phase: msgspec.to_builtins(counts) for phase, counts in outcome.counts.items()},
        "seconds": outcome.seconds,
    }


def _end(outcome: Outcome, json_: bool) -> None:
    from collab.cli.output import emit, say

    if json_:
        emit(document(outcome))
    why = f": {outcome.reason}" if outcome.reason else ""
    say(f"{outcome.result}{why}; {outcome.version} runs, epoch {outcome.epoch}")
    if outcome.result in ("dropped", "rolled back"):
        raise typer.Exit(1)


def _bounds(path: Path | None, **flags: float | None) -> Bounds:
    """From a file, with flags over it."""
    from collab.cli.settings import read_toml
    from collab.updates.health.bounds import read_bounds

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        fields = read_toml(path, "--bounds") if path is not None else {}
        return read_bounds({**fields, **given}, "bounds")
    except ConfigError as error:
        raise UsageError(str(error)) from error


def _offer(path: Path) -> Offer:
    """A file, or what a store of releases holds: its candidate, else what it runs."""
    from collab.coordinator.update_source import Offer

    if not path.is_dir():
        return Offer(path)
    from collab.cli.release_store import open_store

    store = open_store(path)
    state = store.state()
    release = state.candidate or state.active
    if release is None:
        raise UsageError(f"{path}: the store holds no release; fetch one with `collab release fetch --into`")
    return Offer(path / store.path(release), release)


@contextmanager
def _shown() -> Iterator[Callable[[Progress], None]]:
    """A line for each phase, and on a terminal one that stays live with what is counted."""
    from collab.cli.output import console, say

    begun = ""

    def line(progress: Progress) -> None:
        nonlocal begun
        if progress.phase != begun:
            begun = progress.phase
            say(f"{begun}: {_SAID.get(begun, '')}")

    if not sys.stderr.isatty():
        yield line
        return
    with console().status("") as live:

        def both(progress: Progress) -> None:
            line(progress)
            live.update(_counted(progress.counts) if progress.counts is not None else progress.phase)

        yield both


def _counted(counts: Counts) -> str:
    """Counts in a line."""
    if not counts.requests:
        return f"{counts.phase}: waits for requests"
    told = [f"{counts.requests} requests"]
    if counts.phase == "probation":
        told.append(f"{counts.served} answered")
    else:
        told += [
            f"{counts.compared} compared",
            f"{counts.disagreed} differ",
            f"{counts.slow} slow",
            f"{counts.touched} answered first",
        ]
    return f"{counts.phase}: {', '.join(told)}"
