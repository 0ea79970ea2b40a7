"""``collab release condition`` and ``collab feedback``: what devices report, and what is said of answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, PlanFile, confirmed, with_cluster
from collab.cli.output import emit, say, show, table
from collab.cli.release import app as release
from collab.errors import InputError, UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.updates.policies.condition import Condition, ModelFeedback

REQUEST_BYTES = 16
"""Of a request's name."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    release.command("condition", epilog="Example:\n\n    collab release condition --peers 10.0.0.7:7070")(
        condition
    )
    app.command("feedback", epilog="Example:\n\n    collab feedback plan.yaml --request 5f0c… --label 3")(
        feedback
    )


def condition(
    peers: Peers = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Show what nodes report: battery, heat, links, and what their inputs and answers are like."""
    from collab.cli.settings import peers as read_peers

    given = read_peers(peers)

    async def look(cluster: Cluster) -> list[Condition]:
        names = await cluster.reach(given)
        return list(await asyncio.gather(*(cluster.control(name).condition() for name in names)))

    found = with_cluster(look, trust=confirmed(insecure, insecure_network))
    if json_:
        import msgspec

        emit([msgspec.to_builtins(one) for one in found])
        return
    show(
        table(
            "",
            ("node", "power", "°C", "idle", "memory free", "disk free", "network", "time zone"),
            [_device(one) for one in found],
        )
    )
    rows = [_model(one, model) for one in found for model in one.models]
    if rows:
        show(
            table(
                "", ("plan", "node", "answers", "right", "drift (PSI)", "confidence", "agreement", "ms"), rows
            )
        )
    else:
        say("no node runs a plan")


def feedback(
    plan: PlanFile,
    request: Annotated[str, typer.Option(help="Name of the request, as `collab run --json` prints it.")],
    correct: Annotated[bool | None, typer.Option("--correct/--wrong", help="Whether it was right.")] = None,
    label: Annotated[int | None, typer.Option(help="The class that it should have been.")] = None,
    corrected: Annotated[bool, typer.Option(help="A user changed the answer.")] = False,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Say whether an answer was right; the node that gave it counts that and keeps no label."""
    from collab.cli.files import read_plan
    from collab.coordinator.judging import Judgement, judge
    from collab.core.ids import RequestId

    try:
        name = RequestId(bytes.fromhex(request))
    except ValueError as error:
        raise UsageError(f"--request {request[:40]!r}: give the hexadecimal name of a request") from error
    if len(name) != REQUEST_BYTES:
        raise UsageError(f"--request {request[:40]!r}: give {2 * REQUEST_BYTES} hexadecimal digits")
    try:
        said = Judgement(correct, label, corrected).check()
    except InputError as error:
        raise UsageError("give --correct or --wrong, or --label, or --corrected") from error
    parsed = read_plan(plan)

    async def tell(cluster: Cluster) -> bool | None:
        return await judge(cluster, parsed, name, said)

    right = with_cluster(tell, trust=confirmed(insecure, insecure_network))
    if json_:
        emit({"counted": True, "correct": right})
        return
    say("counted" if right is None else f"counted: the answer was {'right' if right else 'wrong'}")


def _device(one: Condition) -> tuple[object, ...]:
    power = "" if one.battery is None else f"{one.battery:.0%}"
    if one.charging is not None:
        power = f"{power} {'charging' if one.charging else 'on battery'}".strip()
    metered = {None: "", True: "metered", False: "unmetered"}[one.metered]
    return (
        one.device,
        power or "-",
        _number(one.temperature_c, ".0f"),
        _number(one.idle, ".0%"),
        "-" if one.free_memory_bytes is None else size(int(one.free_memory_bytes)),
        "-" if one.free_disk_bytes is None else size(int(one.free_disk_bytes)),
        metered or "-",
        one.time_zone,
    )


def _model(one: Condition, model: ModelFeedback) -> tuple[object, ...]:
    from collab.updates.policies.drift import psi

    drifts = [found for feature in model.inputs if (found := psi(feature)) is not None]
    labelled = sum(day.labelled for day in model.days)
    right = f"{sum(day.correct for day in model.days)} of {labelled}" if labelled else "-"
    latency = model.latency
    recent = latency.recent_ms[-1] if latency is not None and latency.recent_ms else None
    return (
        model.plan if not model.family else f"{model.plan} ({model.family}:{model.release})",
        one.device,
        model.answers,
        right,
        _number(max(drifts, default=None), ".2f"),
        *(
            "-" if pair is None else f"{pair.now:.2f} (was {pair.baseline:.2f})"
            for pair in (model.confidence, model.agreement)
        ),
        "-" if recent is None or latency is None else f"{recent:.2f} (was {latency.baseline_ms:.2f})",
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
