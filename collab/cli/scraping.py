"""``--metrics`` of commands that are no nodes: what they tell Prometheus of releases and runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collab.cli.output import say

if TYPE_CHECKING:
    from collab.telemetry.catalogue import Value

Metrics = Annotated[
    str | None, typer.Option("--metrics", help="[HOST:]PORT at which Prometheus may scrape this process.")
]


def release_journals(plans: Sequence[Path], rollouts: Sequence[Path] = ()) -> Callable[[], Iterator[Value]]:
    """Reads how the models of plans and the rollouts in folders stand; the rollouts' plans too."""
    from collab.cli.replanning import plan_versions
    from collab.coordinator.journal_metrics import release_values, rollout_values
    from collab.coordinator.rollout_folder import RolloutFolder
    from collab.errors import CollabError

    folders = [RolloutFolder(path) for path in rollouts]

    def read() -> Iterator[Value]:
        files = dict.fromkeys(path.absolute() for path in plans)
        for folder in folders:
            try:
                files |= dict.fromkeys(Path(target.file).absolute() for target in folder.read().targets)
            except CollabError:
                continue  # it is said where the rollout itself is read
        yield from release_values(plan_versions(path) for path in files)
        yield from rollout_values(folders)

    return read


@asynccontextmanager
async def scraped(place: str | None, read: Callable[[], Iterable[Value]]) -> AsyncIterator[None]:
    """Serve what journals say until it is left; nothing without a place."""
    from collab.assembly import journal_metrics

    if place is None:
        yield
        return
    async with journal_metrics(place, read) as url:
        say(f"metrics are at {url}")
        yield
