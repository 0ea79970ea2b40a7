"""What people see of a federated run: a live table, lines, a table of rounds, a plot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from collab.cli.output import console, say, table
from collab.cli.plots import Series, lines_svg
from collab.client.remote_client import RemoteClient
from collab.coordinator.federated import Watcher
from collab.coordinator.federated_folder import Kept, RunFolder
from collab.coordinator.swap_folder import SwapFolder
from collab.federated.actions import Notify
from collab.federated.records import Behind, LeftOut, RoundRecord, Swap
from collab.federated.task import Task
from collab.planner.wording import size

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

MAX_ROWS: Final = 40
"""Clients that the live table shows."""


class Progress(Watcher):
    """Writes records, says notices, and on a terminal shows a table of the clients that stays live."""

    def __init__(self, folder: RunFolder, task: Task) -> None:
        self._folder = folder
        self._task = task
        self._live: Live | None = None
        self._last: RoundRecord | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(console=console(), refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def notice(self, notice: Notify) -> None:
        """Say it above the table."""
        if self._live is not None:
            self._live.console.print(notice.text, markup=False)
        else:
            say(notice.text)

    def record(self, record: RoundRecord) -> None:
        """Keep it and say it."""
        self._folder.add_record(record)
        self._last = record
        self.notice(Notify("round", record_text(record, self._task.rounds)))

    def swapped(self, swap: Swap) -> None:
        """Keep it and say it."""
        self._folder.add_swap(swap)
        self.notice(Notify("swap", swap_text(swap)))

    def clients(self, clients: Sequence[RemoteClient]) -> None:
        """Show what clients are at."""
        if self._live is None:
            return
        rows = [
            (client.name, client.samples, client.state) for client in sorted(clients, key=lambda c: c.name)
        ]
        title = self._task.name if self._last is None else record_text(self._last, self._task.rounds)
        self._live.update(table(title, ("client", "samples", "state"), rows[:MAX_ROWS]))


def record_text(record: RoundRecord, rounds: int) -> str:
    """A round in one line."""
    parts = [f"round {record.round} of {rounds}"]
    if record.outcome == "skipped":
        return f"{parts[0]}: skipped, {record.reason}"
    if record.loss is not None:
        parts.append(f"training loss {record.loss:.4g}")
    parts += [f"{name} {value:.4g}" for name, value in record.evaluation.items() if name != "samples"]
    parts.append(f"{len(record.took_part)} of {len(record.took_part) + len(record.left_out)} updates")
    parts.append(f"{size(record.down_bytes)} down, {size(record.up_bytes)} up, {record.seconds:.2f} s")
    return ", ".join(parts)


def swap_text(swap: Swap) -> str:
    """What came of deploying a round's model, in one line."""
    if swap.swapped:
        return f"round {swap.round} runs as epoch {swap.epoch}: {swap.reason}"
    return f"round {swap.round} is not deployed: {swap.reason}"


def serving_document(run: Path) -> dict[str, Any] | None:
    """Which round's model runs; None where the run deploys nothing."""
    folder = SwapFolder(run)
    if not folder.begun:
        return None
    state = folder.read()
    running = state.running
    return {
        "plan": folder.plan(running).name,
        "epoch": running.epoch,
        "round": running.round,
        "model": running.model,
        "held": state.held,
    }


def rounds_table(title: str, records: Sequence[RoundRecord]) -> RenderableType:
    """One row for each round."""
    columns = ("round", "loss", "evaluation", "took part", "left out", "down", "up", "s", "plan")
    rows = [
        (
            record.round,
            "" if record.loss is None else f"{record.loss:.4g}",
            record.reason
            or ", ".join(f"{k} {v:.4g}" for k, v in record.evaluation.items() if k != "samples"),
            len(record.took_part),
            ", ".join(f"{name} ({e.kind}: {e.field or e.reason})" for name, e in _left_out(record)),
            size(record.down_bytes),
            size(record.up_bytes),
            f"{record.seconds:.2f}",
            "" if record.swap is None else f"epoch {record.swap.epoch}" if record.swap.swapped else "kept",
        )
        for record in records
    ]
    return table(title, columns, rows)


def _left_out(record: RoundRecord) -> list[tuple[str, LeftOut | Behind]]:
    """Who is not in a round's model; a child with its gateway's name."""
    found: list[tuple[str, LeftOut | Behind]] = [(entry.client, entry) for entry in record.left_out]
    for gateway in record.took_part:
        left = (child for child in gateway.children if child.kind != "counted")
        found += [(f"{gateway.client}/{child.client}", child) for child in left]
    return found


def state_document(kept: Kept, run: Path) -> dict[str, Any]:
    """Where a run stands, for scripts."""
    import msgspec

    serving = serving_document(run)
    runs = f"; round {serving['round']} runs as epoch {serving['epoch']}" if serving is not None else ""
    held = f" ({serving['held']})" if serving is not None and serving["held"] else ""

    ledger = kept.ledger
    finished = ledger.finished
    outcome = finished.outcome if finished is not None else "open"
    reason = finished.reason if finished is not None else f"round {ledger.round} of {kept.task.rounds}"
    quarantined = f"; in quarantine: {', '.join(sorted(ledger.quarantine))}" if ledger.quarantine else ""
    return {
        "task": kept.task.name,
        "outcome": outcome,
        "reason": reason,
        "round": ledger.round,
        "model": ledger.model,
        "quarantined": sorted(ledger.quarantine),
        "serving": serving,
        "said": f"{outcome}: {reason}{quarantined}{runs}{held}",
        "rounds": [msgspec.to_builtins(record) for record in kept.records],
    }


def rounds_svg(title: str, records: Sequence[RoundRecord]) -> str:
    """Training loss and every evaluated metric over the rounds; empty where there is nothing to draw."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if record.loss is not None:
            lines.setdefault("training loss", []).append((float(record.round), record.loss))
        for name, value in record.evaluation.items():
            if name != "samples":
                lines.setdefault(f"evaluated {name}", []).append((float(record.round), value))
    series = [Series(name, tuple(points)) for name, points in sorted(lines.items())]
    return lines_svg(series, "round", "loss, accuracy", title) if series else ""
