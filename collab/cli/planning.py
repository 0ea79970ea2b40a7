"""``collab plan``: cut a model and place its stages."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, confirmed, reach, with_cluster
from collab.cli.files import write_plan
from collab.cli.output import emit, progress, say, show, table
from collab.errors import UsageError

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.planning import Planned

EXAMPLE = """
Examples:

    collab plan m.tflite --peers 127.0.0.1:7070,127.0.0.1:7071 --out plan.yaml

    collab plan m.tflite --peers … --at 12,40 --assign a,b+d,c --out plan.yaml

    collab plan m.tflite --peers … --codecs int8+zstd --codec-error 0.01 --out plan.yaml
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", epilog=EXAMPLE)(plan)


def plan(
    model: Annotated[Path, typer.Argument(help="A .tflite file.", show_default=False)],
    peers: Peers = None,
    at: Annotated[
        str | None, typer.Option(help="Cuts, such as 12,40; evenly timed stages otherwise.")
    ] = None,
    assign: Annotated[
        str | None, typer.Option(help="Node of each stage, such as a,b+d,c (+ joins replicas).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the plan.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the plan; the model's file name otherwise.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each stage.")] = 1,
    credits_: Annotated[int, typer.Option("--credits", help="Requests admitted at a time.")] = 64,
    codecs: Annotated[
        str,
        typer.Option(
            help="Codec of each link from the requester back to it, or one for all: "
            "raw, fp16, int8 or int8c, with +lz4 or +zstd behind it."
        ),
    ] = "raw",
    codec_error: Annotated[
        float | None,
        typer.Option(help="Largest error of lossy codecs, as a share of a tensor's range; they need it."),
    ] = None,
    transport: Annotated[
        str, typer.Option(help="Transport of each link, or one for all: grpc, mqtt, coap+tcp, coap+udp.")
    ] = "grpc",
    answer_by_chain: Annotated[
        bool, typer.Option("--answer-by-chain", help="The answer goes back through the chain's nodes.")
    ] = False,
    signature: Annotated[str | None, typer.Option(help="Which signature, where a model has several.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Draw the plan.")] = False,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Cut a model, place its stages on nodes, and say what it should cost."""
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.planning import open_model, plan_name
    from collab.core.ids import PlanName, check_name
    from collab.core.validate import MAX_CREDITS

    if out is None and not preview and not json_:
        raise UsageError("give --out FILE to keep the plan, --preview to see it, or --json")
    chosen = PlanName(check_name(name or plan_name(model), "--name"))
    options: dict[str, Any] = {
        "threads": threads,
        "credits": credits_,
        "signature": signature,
        "return_by_chain": answer_by_chain,
        "codec_error": codec_error,
    }

    for option, value, most in (("--threads", threads, 256), ("--credits", credits_, MAX_CREDITS)):
        if not 1 <= value <= most:
            raise UsageError(f"{option} {value}: give 1 to {most}")
    if codec_error is not None and not 0 < codec_error <= 1:
        raise UsageError(f"--codec-error {codec_error:g}: give a share above 0 and at most 1, such as 0.01")
    graph, path = open_model(model, signature), model.resolve()

    async def make(cluster: Cluster) -> Planned:
        views = await reach(cluster, read_peers(peers))
        return await _plan(cluster, views, chosen, path, graph, at, assign, codecs, transport, options)

    planned = with_cluster(make, trust=confirmed(insecure, insecure_network))
    if out is not None:
        write_plan(out, planned.plan)
        say(f"wrote {out}")
    if preview:
        from collab.cli.draw import draw_plan

        show(draw_plan(planned.plan), _times(planned))
    if json_:
        emit(planned.to_json())


async def _plan(
    cluster: Cluster,
    views: Any,
    name: Any,
    model: Path,
    graph: Any,
    at: str | None,
    assign: str | None,
    codecs: str,
    transport: str,
    options: dict[str, Any],
) -> Planned:
    from collab.coordinator import planning
    from collab.planner.chain import parse_assignment
    from collab.runtime.litert import LiteRT

    with progress("timing operators") as advance:
        # In a thread: links go on saying that they are alive.
        op_ms = await asyncio.to_thread(planning.time_operators, graph, LiteRT(), options["threads"], advance)
    entries = len(assign.split(",")) if assign is not None else len(views)
    places = planning.choose_cuts(graph, op_ms, entries) if at is None else planning.parse_cuts(at)
    stages = len(places) + 1
    if assign is not None:
        assignment = parse_assignment(assign, stages, [view.name for view in views])
    else:
        assignment = planning.default_assignment(stages, views)
    built, _ = planning.build_chain(
        name,
        model,
        graph,
        places,
        assignment,
        [view.ref for view in views],
        codecs=planning.parse_codecs(codecs, stages + 1, options["codec_error"]),
        transports=planning.per_link(transport, stages + 1, "--transport"),
        **options,
    )
    planning.check_transports(built, cluster.links.schemes)
    links = await planning.probe_links(cluster, [ref.name for ref in built.nodes])
    basis = "operators timed on this machine, links probed from here; devices taken for equally fast"
    if any(edge.codec != "raw" for edge in built.edges):
        basis += "; codecs not counted"
    return planning.predict(graph, built, op_ms, links, basis)


def _times(planned: Planned) -> Any:
    rows: list[tuple[object, ...]] = [
        ("this plan", planned.predicted.latency_ms, planned.predicted.bottleneck_ms)
    ]
    rows += [(what, times.latency_ms, times.bottleneck_ms) for what, times in planned.runners_up]
    return table(f"predicted ({planned.basis})", ("", "latency ms", "bottleneck ms"), rows)
