"""Plots of experiments as SVG: simulated figures are lines, emulated ones are points of the same colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from collab.emulation.plots import draw_marks, figure, finish, plain
from collab.emulation.results import Asking, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS: Final = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:gray")
Points = Sequence[tuple[float, float]]
_ROW: Final = 0.24
"""Inches of a row of names."""


def curves(
    simulated: Mapping[str, Points],
    emulated: Mapping[str, Points],
    *,
    x: str,
    y: str,
    log: str = "",
    ideal: tuple[str, Points] | None = None,
) -> str:
    """Series by name over numbers; ``log`` names axes, as ``xy``."""

    def draw(axes: Axes) -> None:
        for color, name in zip(COLORS, dict.fromkeys((*simulated, *emulated)), strict=False):
            line, points = sorted(simulated.get(name, ())), sorted(emulated.get(name, ()))
            if line:
                axes.plot(*zip(*line, strict=True), color=color, label=plain(f"{name}, simulated"))
            if points:
                axes.plot(*zip(*points, strict=True), "o", color=color, label=plain(f"{name}, emulated"))
        if ideal is not None:
            axes.plot(*zip(*ideal[1], strict=True), ":", color="black", linewidth=1, label=plain(ideal[0]))
        axes.set(xlabel=x, ylabel=y)
        if "x" in log:
            axes.set_xscale("log")
        if "y" in log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        finish(axes)

    return figure(draw, left=0.1)


def dots(
    rows: Sequence[str],
    simulated: Mapping[str, Mapping[str, float]],
    emulated: Mapping[str, Mapping[str, float]],
    *,
    x: str,
    log: bool = True,
) -> str:
    """A row for each name, and in it a mark of each series: hollow simulated, filled emulated."""

    def draw(axes: Axes) -> None:
        places = {row: -at for at, row in enumerate(rows)}
        for color, shape, name in zip(COLORS, "so^Dv", dict.fromkeys((*simulated, *emulated)), strict=False):
            for kind, found, fill in (("simulated", simulated, "none"), ("emulated", emulated, color)):
                values = {row: value for row, value in found.get(name, {}).items() if row in places}
                if values:
                    axes.plot(
                        list(values.values()),
                        [places[row] for row in values],
                        shape,
                        color=color,
                        markerfacecolor=fill,
                        label=plain(f"{name}, {kind}"),
                    )
        axes.set_yticks(list(places.values()), [plain(row) for row in rows])
        axes.set(xlabel=x)
        if log:
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0)
        finish(axes)

    return figure(draw, size=(8.0, 1.0 + _ROW * max(len(rows), 6)), left=0.24)


def over_time(plans: Mapping[str, Sequence[Asking]], marks: Sequence[Mark], most_ms: float) -> str:
    """The latency of each request by its start; those without an answer are crosses at the top."""

    def draw(axes: Axes) -> None:
        for color, (name, askings) in zip(COLORS, plans.items(), strict=False):
            answered = [(a.start_ms / 1e3, a.latency_ms) for a in askings if a.answered]
            failed = [(a.start_ms / 1e3, most_ms) for a in askings if not a.answered]
            if answered:
                # As a picture: a mark of its own for each request takes ten times the room.
                label = plain(name)
                axes.plot(
                    *zip(*answered, strict=True), ".", color=color, markersize=4, label=label, rasterized=True
                )
            if failed:
                axes.plot(*zip(*failed, strict=True), "x", color=color, label=plain(f"{name}, no answer"))
        draw_marks(axes, marks)
        axes.set(xlabel="time of asking (s)", ylabel="latency (ms)")
        axes.set_yscale("log")
        finish(axes)

    return figure(draw, left=0.1)
