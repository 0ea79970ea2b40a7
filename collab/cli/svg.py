"""Figures of plans as SVG text: the chain, one request, the pipeline; plots beside it.

What is drawn comes from profiles, whose models are foreign: all text is escaped.
"""

from __future__ import annotations

from collections.abc import Callable

from collab.cli.axes import mark, ticks, time_unit
from collab.cli.canvas import BOLD, HUES, MARGIN, WIDTH, Canvas, fitted, text_width
from collab.cli.plots import Point, Series, lines_svg, scatter_svg
from collab.cli.preview import chain_figures, model_name, move_text, operators_text
from collab.cli.timeline import shortened
from collab.core.profile import Profile
from collab.planner.chains import Chain
from collab.planner.evaluate import Evaluation, Evaluator
from collab.planner.explain import memory
from collab.planner.gantt import Bar, Gantt, pipeline_gantt, request_gantt
from collab.planner.wording import duration, place, size

__all__ = ["Point", "Series", "lines_svg", "plan_svg", "scatter_svg"]

_INNER = WIDTH - 2 * MARGIN
_RIGHT = WIDTH - MARGIN
_FLOW_X = MARGIN + 28
"""Where the arrows run."""
_COLUMNS = (MARGIN + 16, MARGIN + 250, MARGIN + 520, _RIGHT - 16)
"""Names, operators, memory; times end at the last."""
_METER = 170
_LABELS = 200
_PLOT_X = MARGIN + _LABELS
_PLOT = _RIGHT - _PLOT_X
_ROW, _BAR = 24, 14
_KINDS = {"compute": "compute", "decode": "codec", "encode": "codec", "move": "move"}


def plan_svg(
    profile: Profile, chain: Chain, evaluation: Evaluation, title: str = "", requests: int = 5
) -> str:
    """A placed chain as a figure of 900 px: stages and moves, one request and the pipeline as Gantt charts.

    Args:
        profile: what the chain was evaluated in.
        evaluation: the chain's costs and spans.
        title: in place of the model's name and where it runs.
        requests: of the pipeline's chart.

    Raises:
        PlanError: The chain is impossible, so that it has no times.
    """
    evaluator, canvas = Evaluator(profile), Canvas()
    one, several = request_gantt(evaluation), pipeline_gantt(evaluator, chain, requests)
    name = title or f"{model_name(profile)} on {place(chain)}"
    if not title and text_width(name, 18 * BOLD) > _INNER:
        name = (
            f"{model_name(profile)} in {len(chain.stages)} stages on {len(memory(evaluator, chain))} devices"
        )
    figures = " · ".join(chain_figures(evaluation.costs))
    canvas.text(MARGIN, 38, fitted(name, _INNER, 18 * BOLD), "title")
    canvas.text(MARGIN, 60, fitted(figures, _INNER), "muted")
    y = _draw_chain(canvas, evaluator, chain, evaluation, 84.0)
    y = _section(canvas, y + 34, "One request", "")
    _legend(canvas, y - 16, _kinds_legend())
    y = _draw_gantt(canvas, one, y, _kind, lambda bar: duration(bar.duration_ms))
    every = f"one answer every {duration(evaluation.costs.bottleneck_ms)}"
    y = _section(canvas, y + 40, f"Pipeline, its first {requests} requests", every)
    _legend(canvas, y - 16, [("bar0", f"1 to {requests}: which request")])
    y = _draw_gantt(canvas, several, y, _hue, lambda bar: str(bar.request + 1))
    return canvas.render(y + MARGIN, name, _described(evaluator, chain, evaluation))


def _described(evaluator: Evaluator, chain: Chain, evaluation: Evaluation) -> str:
    """The figure in words."""
    said = [f"{', '.join(chain_figures(evaluation.costs))}."]
    for index, stage in enumerate(chain.stages):
        moved = move_text(evaluator, chain, evaluation, index)
        said += [f"{moved}."] if moved else []
        said.append(
            f"Stage {index} on {' and '.join(stage.nodes)}: operators {stage.start} to {stage.stop}, "
            f"{_slowest(evaluation, index)}."
        )
    moved = move_text(evaluator, chain, evaluation, len(chain.stages))
    return " ".join([*said, *([f"{moved}."] if moved else [])])


def _slowest(evaluation: Evaluation, index: int) -> str:
    spans = [s for s in evaluation.spans if s.stage == index and s.what != "move"]
    return duration(sum(span.duration_ms for span in spans))


# --- the chain ---------------------------------------------------------------------------


def _draw_chain(
    canvas: Canvas, evaluator: Evaluator, chain: Chain, evaluation: Evaluation, y: float
) -> float:
    """Stages from the top down with what moves between them; where they end."""
    requester = evaluator.profile.requester
    if requester is not None:
        y = _draw_requester(canvas, requester, "gives the input", y)
    for index in range(len(chain.stages)):
        y = _draw_move(canvas, evaluator, chain, evaluation, index, y)
        y = _draw_stage(canvas, evaluator, chain, index, y)
    y = _draw_move(canvas, evaluator, chain, evaluation, len(chain.stages), y)
    if requester is not None:
        y = _draw_requester(canvas, requester, "takes the answer", y)
    return y


def _draw_requester(canvas: Canvas, name: str, does: str, y: float) -> float:
    canvas.box(MARGIN, y, _INNER, 34, "panel", 17)
    shown = fitted(name, _COLUMNS[1] - _COLUMNS[0] - 12, 14 * BOLD)
    canvas.text(_COLUMNS[0], y + 22, shown, "strong")
    canvas.text(_COLUMNS[1], y + 22, does, "muted")
    return y + 34


def _draw_move(
    canvas: Canvas, evaluator: Evaluator, chain: Chain, evaluation: Evaluation, index: int, y: float
) -> float:
    said = move_text(evaluator, chain, evaluation, index)
    between = 0 < index < len(chain.stages)
    if not said and not between:
        return y
    height = 40 if said else 24
    canvas.line(_FLOW_X, y + 3, _FLOW_X, y + height - 8, "flow")
    canvas.path(f"M{_FLOW_X - 5} {y + height - 10:.1f}h10l-5 7z", "tip")
    if said:
        spans = [s for s in evaluation.spans if s.what == "move" and s.stage == index]
        took = duration(sum(span.duration_ms for span in spans)) if spans else ""
        carried = said.removesuffix(f", {took}")
        canvas.text(_FLOW_X + 18, y + 24, fitted(carried, _RIGHT - 140 - _FLOW_X), "muted")
        canvas.text(_COLUMNS[3], y + 24, took, "num", "end")
    return y + height


def _draw_stage(canvas: Canvas, evaluator: Evaluator, chain: Chain, index: int, y: float) -> float:
    """A box with a line for each replica: device, operators, memory, time."""
    stage, taken = chain.stages[index], memory(evaluator, chain)
    height = 14 + 44 * len(stage.nodes)
    canvas.box(MARGIN, y, _INNER, height, "panel", 8)
    for row, name in enumerate(stage.nodes):
        device, top = evaluator.devices[name], y + 7 + 44 * row
        label = f"stage {index}" + (f", replica {row + 1}" if len(stage.nodes) > 1 else "")
        canvas.text(_COLUMNS[0], top + 17, label, "muted small")
        canvas.text(_COLUMNS[0], top + 34, fitted(name, _COLUMNS[1] - _COLUMNS[0] - 12, 14 * BOLD), "strong")
        if not row:
            span, kinds = operators_text(evaluator, stage.start, stage.stop)
            room = _COLUMNS[2] - _COLUMNS[1] - 12
            canvas.text(_COLUMNS[1], top + 17, fitted(kinds, room, 11), "muted small")
            canvas.text(_COLUMNS[1], top + 34, fitted(span, room))
        room_bytes = device.memory_bytes
        share = min(taken[name] / room_bytes, 1.0) if room_bytes else 1.0
        canvas.box(_COLUMNS[2], top + 9, _METER, 8, "track", 4)
        hint = f"{name}: memory of all its stages"
        canvas.box(_COLUMNS[2], top + 9, max(_METER * share, 4), 8, "compute", 4, hint)
        canvas.text(_COLUMNS[2], top + 34, f"{size(taken[name])} of {size(room_bytes)}")
        threads = stage.threads or device.threads
        took = evaluator.stage_ms(device, stage.start, stage.stop, stage.threads)
        plural = "s" if threads != 1 else ""
        canvas.text(_COLUMNS[3], top + 17, f"{threads} thread{plural}", "muted small", "end")
        canvas.text(_COLUMNS[3], top + 34, duration(took), "strong num", "end")
    return y + height


# --- charts ------------------------------------------------------------------------------


def _section(canvas: Canvas, y: float, head: str, beside: str) -> float:
    """A heading; where what it heads begins."""
    canvas.text(MARGIN, y, head, "head", beside=beside)
    return y + 16


def _kinds_legend() -> list[tuple[str, str]]:
    return [
        ("compute", "compute"),
        ("codec", "encode, decode"),
        ("move", "on the link"),
        ("move delay", "delay of the link"),
    ]


def _legend(canvas: Canvas, y: float, entries: list[tuple[str, str]]) -> None:
    """Swatches with words, ending at the right margin; ``y`` is the words' baseline."""
    x = _RIGHT - sum(32 + text_width(words, 11) for _, words in entries) + 15
    for kind, words in entries:
        canvas.box(x, y - 9, 12, 10, kind, 2)
        canvas.text(x + 17, y, words, "muted small")
        x += 32 + text_width(words, 11)


def _kind(bar: Bar) -> str:
    return _KINDS[bar.what]


def _hue(bar: Bar) -> str:
    return f"bar{bar.request % HUES}"


def _draw_gantt(
    canvas: Canvas, chart: Gantt, y: float, kind: Callable[[Bar], str], words: Callable[[Bar], str]
) -> float:
    """Rows of bars over a time axis; where the axis ends."""
    end = chart.end_ms or 1.0
    divisor, unit = time_unit(end)
    bottom = y + _ROW * len(chart.rows)
    marks = [(tick, _PLOT_X + tick * divisor / end * _PLOT) for tick in ticks(end / divisor, 11)]
    for _, x in marks:
        canvas.line(x, y, x, bottom + 4, "gridline")
    for row, top in zip(chart.rows, range(len(chart.rows)), strict=True):
        middle = y + _ROW * top + _ROW / 2
        canvas.text(MARGIN, middle + 4, shortened(row.where, int((_LABELS - 12) / text_width("x"))))
        for index, bar in enumerate(row.bars):
            following = row.bars[index + 1].start_ms if index + 1 < len(row.bars) else end
            _draw_bar(canvas, row.where, bar, middle, end, following, kind(bar), words(bar))
    canvas.line(_PLOT_X, bottom, _RIGHT, bottom, "axis")
    for tick, x in marks:
        text = f"{mark(tick)} {unit}" if tick == marks[-1][0] else mark(tick)
        # The unit stands behind the number, so that numbers stay under their marks.
        shift = text_width(text, 11) / 2 - text_width(mark(tick), 11) / 2
        at = min(x + shift, _RIGHT - text_width(text, 11) / 2)
        canvas.text(at, bottom + 18, text, "muted small num", "middle")
    return bottom + 20


def _draw_bar(
    canvas: Canvas, where: str, bar: Bar, middle: float, end: float, following: float, kind: str, words: str
) -> None:
    """A bar, its delay paler; words inside, or behind it where nothing else is."""
    x, width = _PLOT_X + bar.start_ms / end * _PLOT, bar.duration_ms / end * _PLOT
    busy = max(bar.occupied_ms / end * _PLOT, 1.5)
    hint = (
        f"{where}: {bar.what} of request {bar.request + 1}, {duration(bar.duration_ms)} "
        f"from {duration(bar.start_ms)} on"
    )
    top = middle - _BAR / 2
    if width > busy:
        canvas.box(x, top, width, _BAR, f"{kind} delay", 2, hint)
    canvas.box(x, top, busy, _BAR, kind, 2, hint)
    need = text_width(words, 11)
    if need + 6 <= busy:
        canvas.text(x + busy / 2, middle + 4, words, "in num", "middle")
        return
    behind = x + max(width, busy) + 5
    if len(words) > 2 and behind + need <= min(_PLOT_X + following / end * _PLOT, _RIGHT):
        canvas.text(behind, middle + 4, words, "muted small num")
