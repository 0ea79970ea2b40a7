"""Federated runs, rollouts and the versions of plans as their folders tell of them.

Blocks; nothing is locked or written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from collab.coordinator.federated_folder import RunFolder
from collab.coordinator.plan_versions import PlanState, PlanVersions
from collab.dashboard.steering import possible
from collab.errors import CollabError, InputError
from collab.federated.records import RoundRecord

log = logging.getLogger("collab.dashboard")

MAX_FOLDERS: Final = 32
MAX_ROUNDS: Final = 200
"""The last rounds of a run that are shown."""
MAX_LEFT_OUT: Final = 100
_MAX_STATE_BYTES: Final = 8 << 20
_MAX_TARGETS: Final = 1_000


class Target(msgspec.Struct, frozen=True):
    """A node or plan of a rollout."""

    name: str
    wave: int = 0
    status: str = "waiting"
    version: str = ""
    reason: str = ""


class RolloutState(msgspec.Struct, frozen=True):
    """What is shown of a rollout's ``state.json``; whatever else is in it is ignored.

    What is not there has the journal's own default.
    """

    targets: tuple[Target, ...] = ()
    phase: str = "running"
    wave: int = 0
    reason: str = ""
    paused_by: str = ""


def runs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Every federated run in these folders, each a run's own or a parent of some."""
    return list(_each(paths, "rounds.jsonl", "task.json", _run))


def rollouts(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Every rollout in these folders, each a rollout's own or a parent of some."""
    return list(_each(paths, "state.json", "rollout.json", _rollout))


def rollout_at(paths: Sequence[Path], name: str) -> Path:
    """The folder of a rollout by its name here; raises `InputError`."""
    found = _places(paths, "state.json", "rollout.json").get(name)
    if found is None:
        raise InputError(f"rollout {name[:80]!r}: is in none of the folders of --rollouts")
    return found


def histories(kept: Iterable[PlanVersions]) -> list[dict[str, Any]]:
    """Which models each plan's file ran, and how its updates ended; a plan without any is left out."""
    found = []
    for versions in kept:
        try:
            state = versions.state()
            if state.versions:
                found.append({"name": versions.plan(state.running).name, **_history(state)})
        except CollabError as error:
            log.info("%s is left out: %s", versions.path, error)
    return found


def _each(
    paths: Sequence[Path], first: str, second: str, read: Callable[[Path], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    for name, place in _places(paths, first, second).items():
        try:
            yield {"name": name, **read(place)}
        except CollabError as error:
            log.info("%s is left out: %s", place, error)


def _places(paths: Sequence[Path], first: str, second: str) -> dict[str, Path]:
    """Folders that hold one of two files, by the name that they have here."""
    found: dict[str, Path] = {}
    for path in paths:
        places = [path] if (path / first).exists() or (path / second).exists() else _below(path)
        for place in places:
            if (place / first).is_file() or (place / second).is_file():
                name = place.name if place.name not in found else str(place)
                found.setdefault(name, place)
    return dict(list(found.items())[:MAX_FOLDERS])


def _below(path: Path) -> list[Path]:
    try:
        return sorted(child for child in path.iterdir() if child.is_dir())
    except OSError:
        return []


def _run(path: Path) -> dict[str, Any]:
    folder = RunFolder(path)
    task, records = folder.task(), folder.records()
    last = records[-1] if records else None
    said = "no round yet" if last is None else f"round {last.round} of {task.rounds} {last.outcome}"
    if last is not None and last.left_out:
        said += f"; left out: {', '.join(entry.client for entry in last.left_out[:10])}"
    return {
        "task": task.name,
        "rounds_wanted": task.rounds,
        "said": said,
        "rounds": [_round(record) for record in records[-MAX_ROUNDS:]],
    }


def _round(record: RoundRecord) -> dict[str, Any]:
    return {
        "round": record.round,
        "outcome": record.outcome,
        "reason": record.reason[:200],
        "seconds": round(record.seconds, 2),
        "loss": record.loss,
        "evaluation": dict(record.evaluation),
        "samples": record.samples,
        "took_part": len(record.took_part),
        "left_out": [[e.client, e.kind, e.reason[:200]] for e in record.left_out[:MAX_LEFT_OUT]],
        "quarantined": list(record.quarantined[:MAX_LEFT_OUT]),
        "mbytes": round((record.up_bytes + record.down_bytes) / 1e6, 2),
    }


def _rollout(path: Path) -> dict[str, Any]:
    file = path / "state.json"
    try:
        if file.stat().st_size > _MAX_STATE_BYTES:
            raise InputError(f"{file}: over {_MAX_STATE_BYTES} bytes")
        state = msgspec.json.decode(file.read_bytes(), type=RolloutState)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{file}: {error}") from error
    why = f" ({state.reason[:200]})" if state.reason else ""
    paused = f", paused by {state.paused_by[:80]}" if state.paused_by else ""
    return {
        "phase": state.phase,
        "wave": state.wave,
        "said": f"{state.phase}, wave {state.wave}{paused}{why}",
        "can": possible(state.phase, bool(state.paused_by)),
        "targets": [
            [t.name, t.wave, t.status, t.version, t.reason[:200]] for t in state.targets[:_MAX_TARGETS]
        ],
    }


def _history(state: PlanState) -> dict[str, Any]:
    versions = [[str(v), v.number, v.epoch, v.proven] for v in state.versions]
    said = f"{state.running} runs"
    if state.trial:
        said += "; a candidate is on trial"
    elif state.back:
        said += f"; it has to go: {state.back[:200]}"
    elif not state.running.proven:
        said += ", on probation"
    return {
        "said": said,
        "versions": versions,
        "outcomes": [
            [o.result, str(o.release or f"model {o.model[:12]}"), o.epoch, o.reason[:200]]
            for o in state.outcomes
        ],
        "can": ["undo"] if len(state.versions) > 1 else [],
    }
