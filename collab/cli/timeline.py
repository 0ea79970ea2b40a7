"""Gantt charts in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collab.cli.axes import mark, ticks, time_unit
from collab.planner.explain import ARROW
from collab.planner.gantt import Bar, Gantt, Row
from collab.planner.wording import plain

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

_NARROWEST = 20
"""Cells of the chart on the narrowest of terminals."""

# Whole cell, left half, right half; a bar that is shorter than a half still shows.
_GLYPHS = {
    "compute": ("█", "▌", "▐"),
    "decode": ("▓", "▓", "▓"),
    "encode": ("▓", "▓", "▓"),
    "move": ("━", "╸", "╺"),
}
_DELAY = "┄"
_STYLES = {"compute": "green", "decode": "yellow", "encode": "yellow", "move": "cyan"}
_REQUESTS = ("green", "cyan", "magenta", "yellow", "blue", "red")


@dataclass(frozen=True)
class Timeline:
    """A chart as wide as the terminal: a row for each resource, a time axis below.

    Args:
        by_request: colours and digits tell requests apart, not kinds of work.
    """

    chart: Gantt
    by_request: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rows and axis for the width there is."""
        from rich.text import Text

        names = [row.where for row in self.chart.rows]
        label = min(options.max_width // 3, max(map(len, names), default=0))
        cells = max(_NARROWEST, options.max_width - label - 3)
        end = self.chart.end_ms or 1.0
        for row in self.chart.rows:
            line = Text(f"{shortened(row.where, label):<{label}} │", no_wrap=True)
            line.append_text(self._cells(row, cells, end))
            yield line
        divisor, unit = time_unit(end)
        yield Text(" " * label + " └" + _ruler(end / divisor, cells), no_wrap=True)
        yield Text(" " * (label + 2) + _marks(end / divisor, cells, unit), no_wrap=True)

    def _cells(self, row: Row, cells: int, end: float) -> Text:
        from rich.text import Text

        shown = [(" ", "")] * cells
        for bar in row.bars:
            style = _REQUESTS[bar.request % len(_REQUESTS)] if self.by_request else _STYLES[bar.what]
            for cell, glyph in _covered(bar, cells, end):
                shown[cell] = (glyph, style)
            if self.by_request:
                first = min(int(bar.start_ms / end * cells), cells - 1)
                if bar.occupied_ms / end * cells >= 2:
                    shown[first] = (str((bar.request + 1) % 10), f"reverse {style}")
        line = Text(no_wrap=True)
        for glyph, style in shown:
            line.append(glyph, style)
        return line


def legend() -> Text:
    """What the glyphs of one request's chart mean."""
    from rich.text import Text

    parts = (("█", "compute", "compute"), ("▓", "encode", "encode, decode"), ("━", "move", "on the link"))
    line = Text()
    for glyph, what, said in parts:
        line.append(f"{glyph} ", _STYLES[what]).append(f"{said}   ")
    return line.append(f"{_DELAY} ", "cyan").append("delay of the link")


def shortened(text: str, width: int) -> str:
    """A node or link in so many characters, both ends of a link cut alike."""
    if len(text) <= width:
        return text
    ends = text.split(ARROW)
    room = width - len(ARROW) * (len(ends) - 1)
    # What a short end leaves is the other's.
    share = max(room // len(ends), room - min(map(len, ends)) if len(ends) == 2 else 0)
    return ARROW.join(plain(end, share) for end in ends)


def _covered(bar: Bar, cells: int, end: float) -> Iterator[tuple[int, str]]:
    """Cells of a bar with their glyphs, in halves of a cell."""
    full, left, right = _GLYPHS[bar.what]
    halves = 2 * cells
    start = min(round(bar.start_ms / end * halves), halves - 1)
    stop = min(max(round((bar.start_ms + bar.duration_ms) / end * halves), start + 1), halves)
    work = min(max(round((bar.start_ms + bar.occupied_ms) / end * halves), start + 1), stop)
    for cell in range(start // 2, (stop + 1) // 2):
        on_left, on_right = start <= 2 * cell < work, start <= 2 * cell + 1 < work
        if on_left or on_right:
            yield cell, full if on_left and on_right else left if on_left else right
        else:
            yield cell, _DELAY


def _columns(end: float, cells: int) -> list[tuple[int, float]]:
    """Cells of the axis' marks."""
    return [(min(round(tick / end * cells), cells - 1), tick) for tick in ticks(end, max(cells // 6, 2))]


def _ruler(end: float, cells: int) -> str:
    line = ["─"] * cells
    for column, tick in _columns(end, cells):
        line[column] = "┬" if tick else "─"
    return "".join(line)


def _marks(end: float, cells: int, unit: str) -> str:
    """Values under the marks, the last with its unit; what would run into another is left out."""
    found: Sequence[tuple[int, float]] = _columns(end, cells)
    line, used = "", -1
    for index, (column, tick) in enumerate(found):
        text = mark(tick) + (f" {unit}" if index == len(found) - 1 else "")
        start = min(max(column - len(mark(tick)) // 2, 0), cells + 1 - len(text))
        if start <= used:
            continue
        line = line.ljust(start) + text
        used = len(line)
    return line
