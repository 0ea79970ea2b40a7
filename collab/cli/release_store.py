"""``collab release activate|rollback|pin|history``: what a device runs, tries and goes back to."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.data import AsJson
from collab.cli.output import emit, say, show, table
from collab.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collab.updates.release import Release
    from collab.updates.store.state import State
    from collab.updates.store.store import Store

_SHOWN: Final = 5
"""Of the reports of an agent."""

Folder = Annotated[
    Path, typer.Argument(help="A device's store of releases of one family.", show_default=False)
]


def register(to: typer.Typer) -> None:
    """Add the commands."""
    to.command(epilog="Example:\n\n    collab release activate dev/digits")(activate)
    to.command(epilog="Example:\n\n    collab release rollback dev/digits --reason 'misreads sevens'")(
        rollback
    )
    to.command(
        epilog="Examples:\n\n    collab release pin dev/digits\n\n    collab release pin dev/digits --off"
    )(pin)
    to.command(epilog="Example:\n\n    collab release history dev/digits")(history)


def status(folder: Folder, json_: AsJson = False) -> None:
    """What runs, what is judged beside it, what can be gone back to, and what came of the last ones."""
    from collab.updates.agenda import builtins
    from collab.updates.agenda_file import AgendaFile

    state = open_store(folder).state()
    reports = AgendaFile(folder).read().reports
    if json_:
        emit({**_document(state), "reports": [builtins(report) for report in reports]})
    _say(state)
    for report in reports[-_SHOWN:]:
        version = f" {report.version}" if report.version else ""
        say(f"{_when(report.at)}{version}: {report.result}" + (f": {report.reason}" if report.reason else ""))


def activate(folder: Folder, json_: AsJson = False) -> None:
    """Run the candidate without waiting for requests to judge it: its golden inputs have to be right."""
    from collab.runtime.litert import LiteRT
    from collab.updates.health.content import load, run_golden
    from collab.updates.health.gate import Failed

    store = open_store(folder)
    candidate = store.state().candidate
    if candidate is not None and store.is_whole(candidate):
        path, backend = folder / store.path(candidate), LiteRT()
        stage = load(path, backend, threads=1)
        try:
            ran = run_golden(path, stage, backend)
        finally:
            stage.close()
        if isinstance(ran, Failed):
            raise ModelError(
                f"version {candidate.version}: golden inputs: {ran.reason}; it was not activated"
            )
        if ran.wrong:
            raise ModelError(
                f"version {candidate.version}: {ran.wrong} of {ran.compared} golden answers are wrong; "
                "it was not activated"
            )
        say(f"version {candidate.version}: {ran.compared} golden answers are right")
    _tell(store.activate(only=candidate), json_)


def rollback(
    folder: Folder,
    version: Annotated[int, typer.Option(help="One of those that are kept; the last one otherwise.")] = 0,
    reason: Annotated[str, typer.Option(help="For the history.")] = "by hand",
    json_: AsJson = False,
) -> None:
    """Run an earlier release again, as a new activation."""
    _tell(open_store(folder).rollback(reason, version), json_)


def pin(
    folder: Folder,
    off: Annotated[bool, typer.Option("--off", help="Take new releases again.")] = False,
    json_: AsJson = False,
) -> None:
    """Keep to the release that runs: no other is taken, and a candidate is dropped."""
    _tell(open_store(folder).pin(not off), json_)


def history(folder: Folder, json_: AsJson = False) -> None:
    """What happened with releases here, oldest first, and why."""
    state = open_store(folder).state()
    if json_:
        emit({"family": state.family, "history": _builtins(state.history)})
    rows = [
        (_when(event.at), event.action, event.version or "", event.activation, event.reason)
        for event in state.history
    ]
    show(table(state.family, ("when", "what", "version", "activation", "why"), rows))


def open_store(folder: Path, make: bool = False) -> Store:
    """A store in a folder; raises `UsageError` where there is none and none is to be made."""
    from collab.updates.store.disk import RealDisk
    from collab.updates.store.store import COPIES, Store

    if not make and not any((folder / copy).exists() for copy in COPIES):
        raise UsageError(f"{folder}: no store of releases is there; `collab release fetch --into` makes one")
    return Store(RealDisk(folder), time.time)


def _tell(state: State, json_: bool) -> None:
    if json_:
        emit(_document(state))
    _say(state)


def _document(state: State) -> dict[str, Any]:
    return {
        "family": state.family,
        "activation": state.activation,
        "active": _brief(state.active),
        "healthy": state.healthy,
        "candidate": _brief(state.candidate),
        "previous": [_brief(release) for release in state.previous],
        "highest": state.highest,
        "pinned": state.pinned,
    }


def _brief(release: Release | None) -> dict[str, Any] | None:
    if release is None:
        return None
    return {
        "name": release.name,
        "version": release.version,
        "sha256": release.sha256,
        "bytes": release.size,
        "content_of": release.custom.content_of,
    }


def _say(state: State) -> None:
    active = "nothing runs"
    if state.active is not None:
        proved = "healthy" if state.healthy else "in probation"
        active = f"version {state.active.version} runs, {proved}"
    kept = ", ".join(str(release.version) for release in state.previous)
    parts = (
        active,
        f"activation {state.activation}",
        f"version {state.candidate.version} is its candidate" if state.candidate is not None else "",
        f"to go back to: {kept}" if kept else "",
        "pinned" if state.pinned else "",
    )
    say(f"{state.family or 'no release'}: " + "; ".join(filter(None, parts)))


def _builtins(value: object) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
