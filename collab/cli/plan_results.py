"""What ``collab plan`` makes of a choice: a plan file, pictures, JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collab.cli.files import write_bytes, write_plan, write_text
from collab.cli.output import emit, progress, say, show, table
from collab.cli.plan_sources import Found, Source
from collab.errors import UsageError

if TYPE_CHECKING:
    from collab.coordinator.choosing import Chosen
    from collab.core.ids import NodeName
    from collab.core.plan import Plan
    from collab.core.profile import Profile
    from collab.planner.alternatives import Standbys
    from collab.planner.chains import Objective, Wants


@dataclass(frozen=True)
class Output:
    """What to make of the choice."""

    out: Path | None
    name: str | None
    credits: int
    answer_by_chain: bool
    preview: bool
    svg: Path | None
    json: bool
    alternatives: bool = True
    offline: tuple[NodeName, ...] = ()


def finish(source: Source, found: Found, wants: Wants, output: Output) -> None:
    """Choose, write, draw and print."""
    from functools import partial

    from collab.coordinator.choosing import choose
    from collab.planner.evaluate import Evaluator
    from collab.planner.solve import solve

    with progress("choosing"):
        chosen = choose(found.profile, wants, source.moves, found.basis, found.graph)
        if output.alternatives:
            chosen = chosen.with_standbys(output.offline)
    best, profile = chosen.solution.best.chain, chosen.profile
    if output.out is not None:
        write_plan(output.out, _placed(source, found, chosen, output, output.out))
        say(f"wrote {output.out}")
    if output.svg is not None:
        from collab.cli.svg import plan_svg

        write_text(output.svg, plan_svg(profile, best, Evaluator(profile).evaluate(best)))
        say(f"wrote {output.svg}")
    if output.preview:
        from collab.cli.preview import preview

        show(preview(profile, wants, chosen.solution, partial(solve, runners_up=0)))
    if chosen.standbys is not None:
        _show_standbys(chosen.standbys)
    if output.json:
        emit(chosen.to_json())


def _show_standbys(found: Standbys) -> None:
    """What stands in for which node, and where nothing does."""
    rows = [
        (
            ", ".join(standby.without) or "-",
            " → ".join(f"{'+'.join(s.nodes)} {s.start}..{s.stop}" for s in standby.option.chain.stages),
            standby.option.costs.latency_ms,
            standby.option.costs.bottleneck_ms,
            "also offline" if standby.offline else "",
        )
        for standby in found.chosen
    ]
    if rows:
        heads = ("without", "plan", "latency ms", "bottleneck ms", "")
        show(table("alternatives, for when nodes are lost", heads, rows))
    for name, reason in found.missing.items():
        say(f"no alternative for the loss of {name}: {reason}")


def _placed(source: Source, found: Found, chosen: Chosen, output: Output, out: Path) -> Plan:
    """The plan, checked against what the peers listen by."""
    from collab.coordinator.choosing import PlanOptions, plan_of
    from collab.coordinator.planning import check_transports, open_model, plan_name
    from collab.core.ids import PlanName, check_name

    assert source.model is not None
    assert found.graph is not None
    options = PlanOptions(
        PlanName(check_name(output.name or plan_name(source.model), "--name")),
        output.credits,
        source.signature,
        output.answer_by_chain,
    )
    model, graph = source.model.resolve(), found.graph
    if chosen.reordered is not None:
        model = out.resolve().with_name(f"{out.stem}.reordered.tflite")
        write_bytes(model, bytes(chosen.reordered.data))
        graph = open_model(model, source.signature)
        say(f"wrote {model.name}: the model with its operators in an order that cuts better")
    made = plan_of(chosen, model, graph, [view.ref for view in found.views], options)
    if not found.views:
        return made
    check_transports(made, found.schemes)
    kept = []
    for one in made.alternatives:
        try:
            check_transports(one, found.schemes)
        except UsageError as error:
            say(f"alternative {one.name!r} is left out: {error}")
        else:
            kept.append(one)
    return made.replace(alternatives=tuple(kept))


def show_frontier(
    profile: Profile, wants: Wants, axes: tuple[Objective, ...], svg: Path | None, json_: bool
) -> None:
    """The best compromises as a table, a figure, and JSON."""
    from collab.planner.frontier import frontier

    x, y = axes
    with progress("choosing"):
        options = frontier(profile, wants, x, y)
    units = {"latency": "ms", "throughput": "ms", "memory": "bytes", "energy": "J", "bytes": "bytes"}
    labels = [f"{axis if axis != 'throughput' else 'bottleneck'} {units[axis]}" for axis in axes]
    rows = [
        (
            " → ".join(f"{'+'.join(s.nodes)} {s.start}..{s.stop}" for s in option.chain.stages),
            option.costs.of(x),
            option.costs.of(y),
        )
        for option in options
    ]
    if svg is not None:
        from collab.cli.plots import Point, scatter_svg

        points = [Point(a, b, label) for label, a, b in rows]
        write_text(svg, scatter_svg(points, labels[0], labels[1], "best compromises"))
        say(f"wrote {svg}")
    if json_:
        stages = [
            [{"ops": [s.start, s.stop], "nodes": list(s.nodes)} for s in o.chain.stages] for o in options
        ]
        emit(
            {"frontier": [{"stages": made, x: a, y: b} for made, (_, a, b) in zip(stages, rows, strict=True)]}
        )
    else:
        show(table(f"best compromises of {x} and {y}", ("plan", *labels), rows))
