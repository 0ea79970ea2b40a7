"""A plan in a terminal: stages and links, who is busy when, what else there was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from collab.cli.timeline import Timeline, legend
from collab.core.profile import Profile
from collab.planner.chains import Chain, Costs, Option, Solution, Wants
from collab.planner.evaluate import Evaluation, Evaluator
from collab.planner.explain import (
    Alternative,
    Limit,
    alternatives,
    cut_of,
    ends_of,
    limits,
    memory,
    speed_up,
)
from collab.planner.gantt import pipeline_gantt, request_gantt
from collab.planner.what_if import Solve, what_if, why_one_device
from collab.planner.wording import (
    NOTHING,
    answers,
    duration,
    energy,
    number,
    percent,
    place,
    plain,
    size,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

_REQUESTS = 6
"""Requests of the pipeline's chart: enough to see it fill and settle."""


def preview(profile: Profile, wants: Wants, solution: Solution, solve: Solve | None = None) -> RenderableType:
    """A solution as a picture, charts, a table and sentences; 80 columns are enough.

    Args:
        profile: what the solution was found in.
        wants: the rules that it keeps.
        solve: the planner, to say what would improve the plan; None leaves that out.

    Raises:
        PlanError: The solution's chain is impossible.
    """
    from rich.console import Group
    from rich.text import Text

    evaluator, chain = Evaluator(profile), solution.best.chain
    evaluation = evaluator.evaluate(chain)
    one, several = request_gantt(evaluation), pipeline_gantt(evaluator, chain, _REQUESTS)
    parts: list[RenderableType] = [
        *_heading(evaluator, solution),
        Text(),
        draw_chain(evaluator, chain),
        Text(),
        Text("One request", style="bold"),
        Timeline(one),
        legend(),
        Text(),
        Text(f"Pipeline, its first {_REQUESTS} requests: {_every(evaluation)}", style="bold"),
        Timeline(several, by_request=True),
        alternatives_table(profile, alternatives(profile, wants, solution)),
        _listed(sentences(profile, wants, solution, solve)),
    ]
    return Group(*parts)


def _listed(lines: Sequence[str]) -> RenderableType:
    """Sentences with dots, their further lines set in."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("•", Text(line))
    return grid


def _every(evaluation: Evaluation) -> str:
    return f"one answer every {duration(evaluation.costs.bottleneck_ms)}"


def _heading(evaluator: Evaluator, solution: Solution) -> Iterator[RenderableType]:
    from rich.text import Text

    profile, chain = evaluator.profile, solution.best.chain
    operators = f", {evaluator.op_count} operators: "
    yield Text.assemble((model_name(profile), "bold"), operators, (place(chain), "green"))
    yield Text(" · ".join(chain_figures(solution.best.costs)))


def model_name(profile: Profile) -> str:
    """The model's file without its folders, or the beginning of its digest."""
    return plain(profile.model.rpartition("/")[2]) or f"model {profile.model_sha256[:12]}"


def chain_figures(costs: Costs) -> list[str]:
    """What a chain costs; energy and metered bytes only where there are any."""
    figures = [
        f"{duration(costs.latency_ms)} latency",
        answers(costs.bottleneck_ms),
        f"at most {size(costs.memory_bytes)} on a device",
    ]
    if costs.energy_j:
        figures.append(f"{energy(costs.energy_j)} each")
    if costs.metered_bytes:
        figures.append(f"{size(costs.metered_bytes)} metered each")
    return figures


# --- the chain ---------------------------------------------------------------------------


def draw_chain(evaluator: Evaluator, chain: Chain) -> RenderableType:
    """Stages in boxes with what moves between them."""
    from rich.box import ROUNDED
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    evaluation, taken = evaluator.evaluate(chain), memory(evaluator, chain)
    requester = evaluator.profile.requester
    around: list[RenderableType] = [Text(f"  {requester}", style="bold")] if requester is not None else []
    parts = list(around)
    for index, stage in enumerate(chain.stages):
        parts += _arrow(evaluator, chain, evaluation, index)
        title = Text.assemble((f"stage {index}", "bold"), " on ", ("+".join(stage.nodes), "green"))
        lines = [": ".join(filter(None, operators_text(evaluator, stage.start, stage.stop)))]
        for name in stage.nodes:
            device = evaluator.devices[name]
            own = f"{name}: " if len(stage.nodes) > 1 else ""
            threads = stage.threads or device.threads
            lines.append(
                f"{own}{duration(evaluator.stage_ms(device, stage.start, stage.stop, stage.threads))}, "
                f"{size(taken[name])} of {size(device.memory_bytes)} memory, "
                f"{threads} thread{'s' if threads != 1 else ''}"
            )
        box = Panel(Text("\n".join(lines)), title=title, title_align="left", box=ROUNDED, expand=False)
        parts.append(box)
    parts += [*_arrow(evaluator, chain, evaluation, len(chain.stages)), *around]
    return Group(*parts)


def operators_text(evaluator: Evaluator, start: int, stop: int) -> tuple[str, str]:
    """Which operators a stage has, and the names of the first and the last, where they are known."""
    names = [plain(name) for name in evaluator.profile.operators[start:stop]]
    kinds = " … ".join(names if len(names) < 3 else (names[0], names[-1]))
    return f"operators {start}..{stop} of {evaluator.op_count}", kinds


def _arrow(
    evaluator: Evaluator, chain: Chain, evaluation: Evaluation, index: int
) -> Iterator[RenderableType]:
    from rich.text import Text

    said = move_text(evaluator, chain, evaluation, index)
    if said:
        yield Text(f"      │ {said}\n      ▼", style="cyan")


def move_text(evaluator: Evaluator, chain: Chain, evaluation: Evaluation, index: int) -> str:
    """What a move carries, how, and how long it takes; empty where nothing leaves its place."""
    sources, targets = ends_of(evaluator, chain, index)
    if None in (*sources, *targets):
        return ""
    at, move = cut_of(chain, index), chain.moves[index]
    raw = evaluator.raw_bytes(at)
    if {*sources} == {*targets} and len(sources) == 1:
        return f"{size(raw)}, stays on {sources[0]}"
    codec = evaluator.codec_at(at, move.codec)
    sent = size(raw) if codec is None or codec.ratio == 1 else f"{size(raw / codec.ratio)} for {size(raw)}"
    spans = [s for s in evaluation.spans if s.what == "move" and s.stage == index]
    return f"{sent}, {move.codec} over {move.transport}, {duration(sum(s.duration_ms for s in spans))}"


# --- what else ---------------------------------------------------------------------------


def alternatives_table(profile: Profile, rows: Sequence[Alternative]) -> RenderableType:
    """The plan beside others; columns of energy and metered bytes only where something says them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    powered = any(device.watts for device in profile.devices) or any(e.joules_per_mb for e in profile.links)
    metered = any(link.metered for link in profile.links)
    grid = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("alternative", overflow="fold", min_width=18)
    columns = [
        "latency",
        "interval",
        "answers/s",
        "memory",
        *(["energy"] * powered),
        *(["metered"] * metered),
    ]
    for column in columns:
        grid.add_column(column, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        costs = row.costs
        name = Text.assemble((row.name, "bold" if not index else ""), " ", (place(row.chain), "green"))
        if row.hindrance:
            name.append(f" ({row.hindrance})", "red")
        cells = [
            duration(costs.latency_ms),
            duration(costs.bottleneck_ms),
            _rate(costs.bottleneck_ms),
            size(costs.memory_bytes),
            *([energy(costs.energy_j)] * powered),
            *([size(costs.metered_bytes)] * metered),
        ]
        grid.add_row(name, *cells, style="bold" if not index else "dim" if row.hindrance else "")
    return grid


def _rate(bottleneck_ms: float) -> str:
    finite = 0 < bottleneck_ms < math.inf
    return number(1000 / bottleneck_ms) if finite else NOTHING


def sentences(
    profile: Profile, wants: Wants, solution: Solution, solve: Solve | None = None
) -> tuple[str, ...]:
    """What limits a plan, what would improve it, why one device is best, and how it was found."""
    evaluator, chain = Evaluator(profile), solution.best.chain
    evaluation = evaluator.evaluate(chain)
    found = [_limiting(evaluation)]
    gained = speed_up(wants, solution)
    if gained is not None:
        found.append(_against_one(*gained))
    reason = why_one_device(profile, wants, solution)
    found += [reason] if reason else []
    if solve is not None:
        better = what_if(profile, wants, solution, solve)
        found += [each.sentence for each in better]
        if not better:
            found.append("no single faster device or link would gain 5 % or more")
    found.append(_certainty(wants, solution))
    return tuple(found)


def _against_one(times: float, single: Option) -> str:
    name = place(single.chain)
    if times >= 1:
        return f"{number(times)} times as good as the best single device, {name}"
    return f"the best single device, {name}, would be {number(1 / times)} times as good"


def _limiting(evaluation: Evaluation) -> str:
    """The largest part of the latency and the pipeline's bottleneck, together where they are one."""
    slow: Limit = limits(evaluation, "latency")[0]
    busy: Limit = limits(evaluation, "throughput")[0]
    most = f"{slow.where} takes {duration(slow.latency_ms)} of a request, {percent(slow.of_latency)} of it"
    if slow.where == busy.where:
        return f"{most}, and is the pipeline's bottleneck with {duration(busy.busy_ms)} for each answer"
    part = f"{duration(busy.busy_ms)} for each answer, {percent(busy.of_latency)} of a request"
    return f"{most}; the pipeline's bottleneck is {busy.where} with {part}"


def _certainty(wants: Wants, solution: Solution) -> str:
    gap = solution.gap(wants.objective)
    sure = "exact" if gap <= 1e-9 else f"at most {percent(gap)} from the best there can be"
    return f"found by {solution.method}; {sure}"
