"""Plots as SVG text: points with a front, and lines over plain or logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from collab.cli.axes import covering, log_covering, mark
from collab.cli.canvas import BOLD, HUES, MARGIN, WIDTH, Canvas, fitted, path_through, text_width
from collab.errors import InputError
from collab.planner.wording import number

_TOP, _LEFT, _HEIGHT = 76, 96, 340
_BOTTOM = _TOP + _HEIGHT
_BELOW = 68
"""Room under the plot for numbers and the axis' name."""
_NAMES = 190
"""Most room for names of lines right of the plot."""
_LINE = 16
"""Least distance of names one below another."""


@dataclass(frozen=True)
class Point:
    """A labelled point; the chosen ones are drawn in another colour."""

    x: float
    y: float
    label: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Series:
    """A line through points ``(x, y)`` in the order given."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Axis:
    """From values to px: the marks' ends lie at both ends of the axis."""

    marks: Sequence[float]
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self.marks[0], self.marks[-1]
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def scatter_svg(points: Sequence[Point], x_label: str, y_label: str, title: str) -> str:
    """Points over plain axes with their labels, and the front of those that no other beats in both.

    Smaller is better on either axis, as for every objective of a plan.  A label that has
    no free place is told by a pointer over its point.

    Args:
        points: at least one.
        x_label: what the axis shows, with its unit; so is ``y_label``.

    Raises:
        InputError: There are no points, or one is not finite.
    """
    canvas = Canvas()
    x_axis, y_axis = _frame(
        canvas, [(p.x, p.y) for p in points], (x_label, y_label), title, (False, False), WIDTH - MARGIN - 16
    )
    front = _front(points)
    places = [(x_axis.at(point.x), y_axis.at(point.y)) for point in front]
    stairs = [places[0]]
    for x, y in places[1:]:
        stairs += [(x, stairs[-1][1]), (x, y)]
    canvas.path(path_through(stairs), "front")
    taken = [(x_axis.at(p.x) - 6, y_axis.at(p.y) - 6, 12.0, 12.0) for p in points]
    taken += [(min(a, c), min(b, d), abs(c - a), abs(d - b)) for (a, b), (c, d) in pairwise(stairs)]
    # Those on the front get their words first; the others are context.
    for point in sorted(points, key=lambda p: (not p.chosen, p not in front)):
        x, y = x_axis.at(point.x), y_axis.at(point.y)
        kind = "hue1" if point.chosen else "hue0" if point in front else "muted"
        hint = f"{point.label}: {x_label} {number(point.x)}, {y_label} {number(point.y)}"
        canvas.dot(x, y, 6.5 if point.chosen else 5, f"{kind} halo", hint)
        _label(canvas, x, y, point, taken)
    on_front = ", ".join(f"{p.label or 'a point'} ({number(p.x)}, {number(p.y)})" for p in front)
    said = f"{y_label} by {x_label} of {len(points)} points. Not beaten in both: {on_front}."
    return canvas.render(_BOTTOM + _BELOW, title, said)


def lines_svg(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    title: str,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """Lines with their names at their right ends.

    Args:
        series: at least one, each with at least one point.
        x_label: what the axis shows, with its unit; so is ``y_label``.
        log_x: a logarithmic axis, for values above 0; so is ``log_y``.

    Raises:
        InputError: There is nothing to draw, or a value that the axis cannot show.
    """
    canvas = Canvas()
    widest = max((text_width(each.name, 12 * BOLD) for each in series), default=0.0)
    right = WIDTH - MARGIN - min(widest, _NAMES) - 16
    everything = [point for each in series for point in each.points]
    x_axis, y_axis = _frame(canvas, everything, (x_label, y_label), title, (log_x, log_y), right)
    ends = []
    for index, each in enumerate(series):
        if not each.points:
            raise InputError(f"series {each.name!r}: it has no points; give one at least")
        drawn = [(x_axis.at(x), y_axis.at(y)) for x, y in each.points]
        canvas.path(path_through(drawn), f"curve line{index % HUES}", each.name)
        for (x, y), value in zip(drawn, each.points, strict=True):
            hint = f"{each.name}: {x_label} {number(value[0])}, {y_label} {number(value[1])}"
            canvas.dot(x, y, 3.5, f"hue{index % HUES} halo", hint)
        ends.append((drawn[-1][1], index, drawn[-1][0]))
    for (y, index, x), shown in zip(sorted(ends), _apart([y for y, _, _ in sorted(ends)]), strict=True):
        if abs(shown - y) > 2 or x < right - 2:
            canvas.line(x + 8, y, right + 10, shown, f"leader line{index % HUES}")
        canvas.text(
            right + 14, shown + 4, fitted(series[index].name, _NAMES, 12 * BOLD), f"hue{index % HUES} bold"
        )
    said = f"{y_label} by {x_label}: " + "; ".join(
        f"{each.name} from {number(each.points[0][1])} to {number(each.points[-1][1])}" for each in series
    )
    return canvas.render(_BOTTOM + _BELOW, title, f"{said}.")


def _frame(
    canvas: Canvas,
    points: Sequence[tuple[float, float]],
    labels: tuple[str, str],
    title: str,
    logs: tuple[bool, bool],
    right: float,
) -> tuple[_Axis, _Axis]:
    """Title, grid, marks and names of the axes."""
    if not points:
        raise InputError(f"plot {title!r}: there are no points to draw; give one at least")
    values = tuple(zip(*points, strict=True))
    x_axis = _Axis(_marks(values[0], logs[0], labels[0], 9), _LEFT, right, logs[0])
    y_axis = _Axis(_marks(values[1], logs[1], labels[1], 7), _BOTTOM, _TOP, logs[1])
    canvas.text(MARGIN, 38, fitted(title, WIDTH - 2 * MARGIN, 18 * BOLD), "title")
    for value in y_axis.marks:
        y = y_axis.at(value)
        canvas.line(_LEFT, y, right, y, "gridline")
        canvas.text(_LEFT - 10, y + 4, mark(value), "muted small num", "end")
    for value in x_axis.marks:
        x = x_axis.at(value)
        canvas.line(x, _TOP, x, _BOTTOM + 5, "gridline")
        canvas.text(x, _BOTTOM + 20, mark(value), "muted small num", "middle")
    canvas.path(path_through([(_LEFT, _TOP), (_LEFT, _BOTTOM), (right, _BOTTOM)]), "axis")
    names = [
        f"{name} (logarithmic)" if log and "log" not in name else name
        for name, log in zip(labels, logs, strict=True)
    ]
    canvas.text((_LEFT + right) / 2, _BOTTOM + 46, fitted(names[0], right - _LEFT), "", "middle")
    canvas.upright(MARGIN + 10, (_TOP + _BOTTOM) / 2, fitted(names[1], _HEIGHT))
    return x_axis, y_axis


def _marks(values: Iterable[float], log: bool, label: str, most: int) -> Sequence[float]:
    found = list(values)
    for value in found:
        if not math.isfinite(value):
            raise InputError(f"axis {label!r}: {value} cannot be drawn; leave such points out")
        if log and value <= 0:
            raise InputError(f"axis {label!r}: {value:g} has no place on a logarithmic axis; use a plain one")
    low, high = min(found), max(found)
    return log_covering(low, high) if log else covering(low, high, most)


def _front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both, by x."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, p.y)):
        if not front or point.y < front[-1].y:
            front.append(point)
    return front


_Box = tuple[float, float, float, float]


def _label(canvas: Canvas, x: float, y: float, point: Point, taken: list[_Box]) -> None:
    """Write a point's label in the first free place around it, if there is one."""
    if not point.label:
        return
    width, height = text_width(point.label, 11 * (BOLD if point.chosen else 1)), 13.0
    places = (
        (x + 10, y - 7, "start", x + 10),
        (x - width / 2, y - 22, "middle", x),
        (x - 10 - width, y - 7, "end", x - 10),
        (x - width / 2, y + 9, "middle", x),
        (x + 8, y - 20, "start", x + 8),
        (x + 8, y + 7, "start", x + 8),
    )
    for left, top, anchor, at in places:
        box = (left, top, width, height)
        inside = left >= _LEFT + 2 and left + width <= WIDTH - 4 and _TOP - 20 <= top <= _BOTTOM - height
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            canvas.text(at, top + 11, point.label, "small bold" if point.chosen else "small", anchor)
            return


def _overlap(one: _Box, other: _Box) -> bool:
    beside = one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
    return not (beside or one[1] + one[3] <= other[1] or other[1] + other[3] <= one[1])


def _apart(wanted: Sequence[float]) -> list[float]:
    """Places near sorted wanted ones, no two closer than a line, none below the plot if they fit."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + _LINE) if placed else y)
    limit = float(_BOTTOM)
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - _LINE
    return placed
