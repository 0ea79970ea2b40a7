"""``collab release status``: what a device's store has, what a plan's nodes say, how a rollout stands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Trust, confirmed, with_cluster
from collab.cli.output import emit, say, show, table
from collab.errors import UsageError

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.running_release import NodeRuns, PlanRuns

EXAMPLE: Final = """
Examples:

    collab release status dev/digits --json

    collab release status plans/a.yaml plans/b.yaml

    collab release status rollouts/digits-7
"""


def register(to: typer.Typer) -> None:
    """Add the command."""
    to.command(epilog=EXAMPLE)(status)


def status(
    places: Annotated[
        list[Path],
        typer.Argument(help="A device's store, a rollout's folder, or plan files.", show_default=False),
    ],
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """What runs: in a device's store, on the nodes of plans as they say themselves, in a rollout."""
    from collab.cli.release_store import status as show_store
    from collab.cli.rollout_tables import show_rollout

    trust = confirmed(insecure, insecure_network)
    if len(places) > 1 and any(place.is_dir() for place in places):
        raise UsageError("give one store, one rollout, or plan files")
    if not places[0].is_dir():
        if places[0].exists():
            _show_plans(places, trust, json_)
            return
    elif (places[0] / "rollout.json").is_file():
        show_rollout(places[0], True, trust, json_)
        return
    show_store(places[0], json_)


def _show_plans(paths: list[Path], trust: Trust, json_: bool) -> None:
    from collab.cli.files import read_plan
    from collab.coordinator.running_release import ask_plan

    plans = [read_plan(path) for path in paths]

    async def ask(cluster: Cluster) -> list[PlanRuns]:
        return await asyncio.gather(*(ask_plan(cluster, plan) for plan in plans))

    found = with_cluster(ask, trust=trust)
    if json_:
        emit({"plans": [_document(path, one) for path, one in zip(paths, found, strict=True)]})
    rows = [_row(one, node) for one in found for node in one.nodes]
    columns = ("plan", "node", "runs", "epoch", "stages", "plan's digest", "trouble")
    show(table("", columns, rows))
    for one in found:
        versions = ", ".join(one.versions) or "nothing"
        flag = "MIXED: its nodes run " if one.agreement == "mixed" else f"{one.agreement}: "
        say(f"{one.plan}: {flag}{versions}")


def _row(plan: PlanRuns, node: NodeRuns) -> tuple[object, ...]:
    stages = ", ".join(f"{name} {digest[:8]}" for name, digest in node.stages.items())
    runs = node.release or (f"model {node.model[:12]}" if node.model else "-")
    return (
        plan.plan,
        node.node,
        runs,
        node.epoch or "-",
        stages or "-",
        node.plan[:12] or "-",
        node.trouble or "-",
    )


def _document(path: Path, plan: PlanRuns) -> dict[str, Any]:
    return {
        "plan": plan.plan,
        "file": str(path),
        "agreement": plan.agreement,
        "mixed": plan.agreement == "mixed",
        "versions": list(plan.versions),
        "nodes": [
            {
                "node": node.node,
                "release": node.release or None,
                "epoch": node.epoch or None,
                "plan_sha256": node.plan or None,
                "model_sha256": node.model or None,
                "stages": dict(node.stages),
                "trouble": node.trouble or None,
            }
            for node in plan.nodes
        ],
    }
