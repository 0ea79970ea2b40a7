"""Plots of results as SVG text, by matplotlib without a display."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from collab.emulation.results import Asking, Mark, Results
from collab.emulation.summary import hop_means, percentile
from collab.errors import BackendError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE: Final = (8.0, 3.6)
_POINTS: Final = 400
"""Of a curve: more cannot be seen."""
_BINS: Final = 60
PARTS: Final = ("queue_ms", "decode_ms", "compute_ms", "encode_ms")


def figure(draw: Callable[[Axes], None], size: tuple[float, float] = _SIZE, left: float = 0.16) -> str:
    """A figure as SVG, of so many inches, with a share of its width ``left`` of the axes.

    Raises `BackendError` without the ``emulation`` extra.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("plots: matplotlib is missing; install collab[emulation]") from error
    # Text stays text, and the same results give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "collab", "font.size": 9}):
        made = Figure(figsize=size)
        # Laying out by measuring draws everything twice.
        made.subplots_adjust(left=left, right=0.97, top=1 - 0.15 / size[1], bottom=0.5 / size[1])
        draw(made.add_subplot())
        out = io.StringIO()
        made.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def latency_cdf(curves: Mapping[str, Sequence[Asking]]) -> str:
    """Share of answers within a time, a curve for each name."""

    def draw(axes: Axes) -> None:
        for name, askings in curves.items():
            ordered = sorted(asking.latency_ms for asking in askings if asking.answered)
            if ordered:
                shares = [i / (_POINTS - 1) for i in range(_POINTS)]
                axes.plot([percentile(ordered, 100 * share) for share in shares], shares, label=plain(name))
        axes.set(xlabel="latency (ms)", ylabel="share of answers", ylim=(0, 1))
        axes.set_xlim(left=0)
        finish(axes)

    return figure(draw)


def throughput_over_time(results: Results) -> str:
    """Answers a second of the first repetition, with faults and changes of links."""

    def draw(axes: Axes) -> None:
        first = [asking for asking in results.askings if asking.repetition == 0 and asking.answered]
        end = max((asking.start_ms + asking.latency_ms for asking in first), default=1.0)
        width = end / _BINS
        for run in results.plans:
            counts = [0] * _BINS
            for asking in first:
                if asking.plan == run.name:
                    counts[min(int((asking.start_ms + asking.latency_ms) / width), _BINS - 1)] += 1
            times = [(i + 0.5) * width / 1000 for i in range(_BINS)]
            axes.plot(times, [1000 * count / width for count in counts], label=plain(run.name))
        draw_marks(axes, [mark for mark in results.marks if mark.at_ms <= end])
        axes.set(xlabel="time (s)", ylabel="answers a second")
        axes.set_ylim(bottom=0)
        finish(axes)

    return figure(draw)


def hop_stack(results: Results) -> str:
    """Mean times on the critical path, stacked, a bar for each plan."""

    def draw(axes: Axes) -> None:
        bottoms = [0.0] * len(results.plans)
        layers: dict[str, list[float]] = {}
        for at, run in enumerate(results.plans):
            for hop in hop_means([asking for asking in results.of(run.name) if asking.answered]):
                parts: Mapping[str, Any] = {f"{hop['stage']} {part[:-3]}": hop.get(part) for part in PARTS}
                if hop["stage"] == "wire":
                    parts = {"wire": hop["wire_ms"]}
                for name, value in parts.items():
                    if value:
                        layers.setdefault(name, [0.0] * len(results.plans))[at] = value
        for name, heights in layers.items():
            axes.barh(range(len(heights)), heights, left=bottoms, label=plain(name))
            bottoms = [a + b for a, b in zip(bottoms, heights, strict=True)]
        axes.set_yticks(range(len(results.plans)), [plain(run.name) for run in results.plans])
        axes.invert_yaxis()
        axes.set(xlabel="mean time (ms)")
        finish(axes)

    return figure(draw)


def predicted_and_run(results: Results) -> str:
    """The planner's latency beside the median, a point for each plan."""

    def draw(axes: Axes) -> None:
        most = 0.0
        for run in results.plans:
            ordered = sorted(a.latency_ms for a in results.of(run.name) if a.answered)
            middle = percentile(ordered, 50)
            if run.predicted_ms is not None and math.isfinite(middle):
                axes.plot([run.predicted_ms], [middle], "o", label=plain(run.name))
                most = max(most, run.predicted_ms, middle)
        axes.plot([0, most], [0, most], color="tab:gray", linewidth=1)
        axes.set(xlabel="predicted latency (ms)", ylabel=f"{results.kind} median (ms)")
        finish(axes)

    return figure(draw)


def draw_marks(axes: Axes, marks: Iterable[Mark]) -> None:
    """Faults and changes of links as lines over a time in seconds, with what they are."""
    for mark in marks:
        color = "tab:red" if mark.kind == "fault" else "tab:gray"
        axes.axvline(mark.at_ms / 1000, color=color, linestyle="--", linewidth=1)
        axes.annotate(
            plain(mark.text),
            (mark.at_ms / 1000, 1),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            ha="right",
            fontsize=7,
        )


def plain(text: str) -> str:
    """Names are not formulas, and one with an underscore in front is shown, too."""
    return text.replace("$", r"\$").lstrip("_") or " "


def finish(axes: Axes) -> None:
    """Grid, and a legend where there is something to tell apart."""
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)
