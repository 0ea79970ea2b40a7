"""What people see (stderr, tables, progress) and what scripts read (one JSON object on stdout)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Advance = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


def console() -> Console:
    """The terminal for people: standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


def emit(document: Any) -> None:
    """The one JSON object of a command, on standard output."""
    print(json.dumps(document, ensure_ascii=False), flush=True)


def show(*renderables: RenderableType) -> None:
    """Tables and pictures for people, on standard error: standard output is for scripts."""
    out = console()
    for renderable in renderables:
        out.print(renderable)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> RenderableType:
    """A table with right-aligned numbers."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title or None, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], (int, float)) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(f"{cell:.3g}" if isinstance(cell, float) else str(cell)) for cell in row))
    return grid


@contextmanager
def progress(what: str, unit: str = "") -> Iterator[Advance]:
    """A progress bar on a terminal, nothing elsewhere."""
    with phases(unit) as tell:
        tell(what, 0, 0)
        yield lambda done, total: tell(what, done, total)


@contextmanager
def phases(unit: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """The same, told what is under way too."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeRemainingColumn(), console=console(), transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda what, done, total: bars.update(
            task, description=what, completed=done, total=total or None
        )
