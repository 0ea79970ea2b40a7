"""``collab pipeline``: plans that chain different models by transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import (
    AsJson,
    Insecure,
    InsecureNetwork,
    Peers,
    Trust,
    confirmed,
    reach,
    with_cluster,
)
from collab.cli.files import read_npz, read_yaml, write_npz, write_plan
from collab.cli.output import emit, progress, say, show, table
from collab.errors import ConfigError, PlanError, UsageError

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster, NodeView
    from collab.coordinator.pipelines import Fitted
    from collab.core.ids import NodeName
    from collab.core.plan import Plan
    from collab.planner.placing import Costs, Schedule
    from collab.planner.units import Placement

EXAMPLE = """
Examples:

    collab pipeline pipeline.yaml

    collab pipeline pipeline.yaml --peers 10.0.0.7:7070,10.0.0.8:7070 --out plan.yaml --preview

    collab pipeline pipeline.yaml --peers … --assign detect=a,digit=b+c --out plan.yaml

    collab pipeline pipeline.yaml --input x.npz --output y.npz
"""

MAX_FILE_BYTES = 4 << 20
"""Of a pipeline's file: anchors may be many."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pipeline", epilog=EXAMPLE)(pipeline)


def pipeline(
    file: Annotated[Path, typer.Argument(help="The pipeline's .yaml: inputs, steps and outputs.")],
    peers: Peers = None,
    assign: Annotated[
        str | None,
        typer.Option(help="Nodes of steps, such as detect=a,digit=b+c (+ joins replicas); chosen otherwise."),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What to place steps for: latency or throughput.")
    ] = "latency",
    rows: Annotated[
        int | None, typer.Option(help="Rows that steps with each are expected to have; all otherwise.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the plan.")] = None,
    name: Annotated[str | None, typer.Option(help="The plan's name; the file's otherwise.")] = None,
    transport: Annotated[str, typer.Option(help="How tensors travel, on all links.")] = "grpc",
    credits_: Annotated[int, typer.Option("--credits", help="Requests admitted at a time.")] = 64,
    inputs: Annotated[
        Path | None, typer.Option("--input", help="Inputs as .npz, to run the pipeline in this process.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write its answers as .npz.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Draw the plan.")] = False,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Check a pipeline of models and transforms, run it here, or place it on nodes."""
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.pipelines import fit
    from collab.coordinator.planning import plan_name
    from collab.core.ids import PlanName, check_name
    from collab.core.pipeline import convert_pipeline
    from collab.core.validate import MAX_CREDITS

    goal = objective
    if goal not in ("latency", "throughput"):
        raise UsageError(f"--objective {objective!r}: use latency or throughput")
    if rows is not None and rows < 1:
        raise UsageError(f"--rows {rows}: give 1 or more")
    if not 1 <= credits_ <= MAX_CREDITS:
        raise UsageError(f"--credits {credits_}: give 1 to {MAX_CREDITS}")
    if (inputs is None) != (output is None):
        raise UsageError("--input and --output go together: answers to write, and what they are to")
    addresses = read_peers(peers)
    if out is not None and not addresses:
        raise UsageError("no peers: give --peers HOST:PORT,… or set COLLAB_PEERS")
    try:
        read = convert_pipeline(read_yaml("pipeline", file, MAX_FILE_BYTES))
        called = PlanName(check_name(name, "--name")) if name is not None else PlanName(plan_name(file))
        fitted = fit(read if name is None else _renamed(read, called), called, file.parent)
    except (PlanError, ConfigError) as error:
        raise PlanError(f"pipeline {file}: {_bare(error, file)}") from error
    if inputs is not None and output is not None:
        _run_here(fitted, inputs, output)
    if not addresses or (out is None and inputs is not None):
        _tell(fitted, None, None, json_)
        return
    fixed, views, costs = _look(
        fitted, addresses, assign, transport, rows, confirmed(insecure, insecure_network)
    )
    found, single = _placed(fitted, views, fixed, costs, goal)
    plan = _plan(fitted, views, fixed, found, costs, transport, credits_)
    if out is not None:
        write_plan(out, plan)
        say(f"wrote {out}")
    if preview and not json_:
        from collab.cli.draw import draw_plan

        show(draw_plan(plan))
    _tell(fitted, plan, single, json_)


def _bare(error: Exception, file: Path) -> str:
    return str(error).removeprefix(f"pipeline {file}: ")


def _renamed(read: Any, name: str) -> Any:
    import msgspec

    return msgspec.structs.replace(read, name=name)


def _run_here(fitted: Fitted, inputs: Path, output: Path) -> None:
    """Answer all requests in this process: what the distributed pipeline must answer too."""
    import numpy as np

    from collab.coordinator.one_process import in_one_process
    from collab.coordinator.workload import requests_of
    from collab.core.ids import NodeName
    from collab.core.plan import NodeRef

    here = NodeName("here")
    plan = fitted.placed({stage.id: (here,) for stage in fitted.stages}, [NodeRef(name=here)])
    arrays = read_npz(inputs, "--input")
    requests = requests_of(plan.inputs, arrays, "--input")
    run = in_one_process(plan, fitted.graphs)
    answers: dict[str, list[Any]] = {spec.name: [] for spec in plan.outputs}
    with progress("running here", "requests") as advance:
        for done, request in enumerate(requests, start=1):
            for spec, made in zip(
                plan.outputs, run([request[spec.name] for spec in plan.inputs]), strict=True
            ):
                answers[spec.name].append(made)
            advance(done, len(requests))
    alone = all(np.shape(arrays[spec.name]) == spec.shape for spec in plan.inputs)
    write_npz(output, {n: made[0] if alone else np.stack(made) for n, made in answers.items()})
    say(f"answered {len(requests)} requests here; wrote {output}")


def _look(
    fitted: Fitted,
    addresses: list[str],
    assign: str | None,
    transport: str,
    rows: int | None,
    trust: Trust,
) -> tuple[Placement, Sequence[NodeView], Costs | None]:
    """The peers, what is placed by hand, and costs where something is left to place."""
    from collab.coordinator.pipeline_costs import measured
    from collab.core.transforms import MAX_ROWS
    from collab.runtime.litert import LiteRT

    async def ask(cluster: Cluster) -> tuple[Placement, Sequence[NodeView], Costs | None]:
        if transport not in cluster.links.schemes:
            raise UsageError(
                f"--transport: {transport!r} is not known; use one of {', '.join(cluster.links.schemes)}"
            )
        views = await reach(cluster, addresses)
        fixed = _assigned(fitted, assign, [view.name for view in views])
        if len(fixed) == len(fitted.stages):
            return fixed, views, None
        with progress("looking at devices and links") as advance:
            costs = await measured(
                cluster,
                views,
                fitted,
                LiteRT(),
                transport=transport,
                rows=rows or MAX_ROWS,
                progress=advance,
                warn=lambda text: say(f"warning: {text}"),
            )
        return fixed, views, costs

    return with_cluster(ask, trust=trust)


def _assigned(fitted: Fitted, text: str | None, known: Sequence[NodeName]) -> Placement:
    """Nodes by stage from ``detect=a,digit=b+c``; a step that is cut may be named as a whole.

    Raises `UsageError`.
    """
    from collab.core.ids import NodeName

    found: dict[Any, tuple[NodeName, ...]] = {}
    for entry in text.split(",") if text else ():
        step, equals, places = (part.strip() for part in entry.partition("="))
        if not equals:
            raise UsageError(f"--assign {entry!r}: give STEP=NODE, such as detect=a or digit=b+c")
        stages = [s.id for s in fitted.stages if s.id == step or (s.model == step and s.sha256 is not None)]
        if not stages:
            there = ", ".join(stage.id for stage in fitted.stages)
            raise UsageError(f"--assign {entry!r}: no step {step!r}; there are {there}")
        nodes = tuple(NodeName(place.strip()) for place in places.split("+"))
        for node in nodes:
            if node not in known:
                raise UsageError(
                    f"--assign {entry!r}: no node {node!r} among the peers; there are {', '.join(known)}"
                )
        if len(set(nodes)) != len(nodes):
            raise UsageError(f"--assign {entry!r}: names a node twice; replicas must differ")
        for stage in stages:
            if stage in found:
                raise UsageError(f"--assign: {stage!r} is placed twice")
            found[stage] = nodes
    return found


def _placed(
    fitted: Fitted, views: Sequence[NodeView], fixed: Placement, costs: Costs | None, goal: Any
) -> tuple[Schedule | None, Schedule | None]:
    """The placement, and the best of all on one node."""
    from collab.planner.placing import place, schedule

    if costs is None:
        return None, None
    names = [view.name for view in views]
    wiring = fitted.wiring
    alone = [schedule(wiring, costs, {unit.id: (name,) for unit in wiring.units}) for name in names]
    return place(wiring, costs, names, fixed, goal), min(alone, key=lambda one: one.latency_ms)


def _plan(
    fitted: Fitted,
    views: Sequence[NodeView],
    fixed: Placement,
    found: Schedule | None,
    costs: Costs | None,
    transport: str,
    credits_: int,
) -> Plan:
    from collab.coordinator.pipeline_costs import BASIS
    from collab.coordinator.planning import check_transports
    from collab.planner.placing import predicted

    told = None
    if found is not None and costs is not None:
        told = predicted(fitted.wiring, costs, found, BASIS)
    plan = fitted.placed(
        fixed if found is None else found.placement,
        [view.ref for view in views],
        transport=transport,
        credits=credits_,
        predicted=told,
    )
    check_transports(plan, [transport])
    return plan


def _tell(fitted: Fitted, plan: Plan | None, single: Schedule | None, as_json: bool) -> None:
    from collab.core.transforms import kind_of
    from collab.planner.wording import size

    shown = plan.stages if plan is not None else fitted.stages
    times = {part.stage: part.ms for part in plan.predicted.stages} if plan and plan.predicted else {}
    rows: list[Mapping[str, Any]] = [
        {
            "id": stage.id,
            "what": kind_of(stage.transform) if stage.transform is not None else "model",
            "nodes": list(stage.nodes),
            "inputs": [_spec(spec) for spec in stage.inputs],
            "outputs": [_spec(spec) for spec in stage.outputs],
            **({"ms": round(times[stage.id], 3)} if stage.id in times else {}),
        }
        for stage in shown
    ]
    if as_json:
        emit(
            {
                "plan": fitted.name,
                "inputs": [_spec(spec) for spec in fitted.inputs],
                "outputs": [_spec(spec) for spec in fitted.outputs],
                "stages": rows,
                "predicted": None
                if plan is None or plan.predicted is None
                else {
                    "latency_ms": round(plan.predicted.latency_ms, 3),
                    "bottleneck_ms": round(plan.predicted.bottleneck_ms, 3),
                },
                "best_single": None
                if single is None
                else {
                    "node": next(iter(single.placement.values()))[0],
                    "latency_ms": round(single.latency_ms, 3),
                    "bottleneck_ms": round(single.bottleneck_ms, 3),
                },
            }
        )
        return
    cells = [
        (
            stage.id,
            row["what"] + (" for each row" if stage.each else ""),
            "+".join(stage.nodes),
            ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in stage.outputs),
            size(sum(s.nbytes for s in stage.outputs)),
            row.get("ms", ""),
        )
        for stage, row in zip(shown, rows, strict=True)
    ]
    show(table(f"pipeline {fitted.name}", ("step", "is", "nodes", "makes", "bytes", "ms"), cells))
    if plan is not None and plan.predicted is not None and single is not None:
        best = next(iter(single.placement.values()))[0]
        show(
            f"predicted {plan.predicted.latency_ms:.2f} ms a request, an answer every "
            f"{plan.predicted.bottleneck_ms:.2f} ms; all on {best} it would be {single.latency_ms:.2f} ms"
        )


def _spec(spec: Any) -> Mapping[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}
