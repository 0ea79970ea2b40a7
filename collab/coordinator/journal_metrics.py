"""Metrics of releases and federated runs, from the journals that outlive the processes at them.

A journal counts since it began, so its counters go on where they were when a process starts anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from collab.coordinator.federated_folder import RunFolder
from collab.coordinator.plan_versions import PlanVersions
from collab.coordinator.rollout_folder import RolloutFolder
from collab.errors import CollabError
from collab.federated.records import RoundRecord
from collab.telemetry import catalogue as metrics
from collab.telemetry.catalogue import ROLLBACK_CAUSES, Value

log = logging.getLogger("collab.metrics")

_LOOK_S: Final = 2.0
_RESULTS: Final = ("healthy", "committed", "dropped", "rolled back")
_LEFT_OUT: Final = ("declined", "failed", "refused", "late", "skipped", "quarantined")

Read = Callable[[], Iterable[Value]]


def release_values(kept: Iterable[PlanVersions]) -> Iterator[Value]:
    """How the models of plans stand; nothing of a plan that was never updated.  Blocks."""
    for versions in kept:
        try:
            state = versions.state()
            if not state.versions:
                continue
            name = versions.plan(state.running).name
        except CollabError as error:
            log.info("%s is left out: %s", versions.path, error)
            continue
        stands = "to go back" if state.back else "proven" if state.running.proven else "probation"
        for known in ("proven", "probation", "to go back"):
            yield metrics.RELEASE_STATE.at(name, known, value=int(known == stands))
        for result in _RESULTS:
            yield metrics.RELEASE_UPDATES.at(name, result, value=state.ended.get(result, 0))
        for cause in ROLLBACK_CAUSES:
            yield metrics.ROLLBACKS.at(name, cause, value=state.went_back.get(cause, 0))


def rollout_values(folders: Iterable[RolloutFolder]) -> Iterator[Value]:
    """Where rollouts stand.  Blocks."""
    for folder in folders:
        try:
            state = folder.read()
            name = folder.about().rollout.name
        except CollabError as error:
            log.info("%s is left out: %s", folder.path, error)
            continue
        yield metrics.ROLLOUT_PHASE.at(name, "paused" if state.paused_by else state.phase)
        for status, count in Counter(target.status for target in state.targets).items():
            yield metrics.ROLLOUT_TARGETS.at(name, status, value=count)


class RunReader:
    """A federated run's metrics; its records are read again when they have changed."""

    def __init__(self, path: Path) -> None:
        self._folder = RunFolder(path)
        self._name = path.absolute().name
        self._file = self._folder.path / "rounds.jsonl"
        self._seen: tuple[int, int] | None = None
        self._values: list[Value] = []

    def values(self) -> list[Value]:
        """As they are now.  Blocks."""
        try:
            about = self._file.stat()
            seen = (about.st_mtime_ns, about.st_size)
            if seen != self._seen:
                self._values = list(_run_values(self._name, self._folder.records()))
                self._seen = seen
        except (OSError, CollabError) as error:
            log.debug("%s is left out: %s", self._file, error)
        return self._values


def _run_values(run: str, records: Sequence[RoundRecord]) -> Iterator[Value]:
    outcomes = Counter(record.outcome for record in records)
    causes: Counter[str] = Counter(entry.kind for record in records for entry in record.left_out)
    for outcome, count in outcomes.items():
        yield metrics.FED_ROUNDS.at(run, outcome, value=count)
    for kind in _LEFT_OUT:
        count = causes.get(kind, 0)
        if kind == "quarantined":
            count = len({name for record in records for name in record.quarantined})
        yield metrics.FED_LEFT_OUT.at(run, kind, value=count)
    if records:
        yield metrics.FED_ROUND.at(run, value=records[-1].round)
        scored = next((record for record in reversed(records) if record.evaluation), None)
        for name, score in (scored.evaluation if scored is not None else {}).items():
            yield metrics.FED_SCORE.at(run, name, value=float(score))


class Told:
    """What journals say, read beside the event loop so that a scrape waits for no disk."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._values: list[Value] = []

    def values(self) -> list[Value]:
        """As they were at the last look."""
        return self._values

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._values = await asyncio.to_thread(lambda: list(self._read()))
            await asyncio.sleep(_LOOK_S)
