"""``collab reports``: what nodes answered while they were alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, confirmed, with_cluster
from collab.cli.output import emit, say, show, table

if TYPE_CHECKING:
    from collab.coordinator.cluster import Cluster
    from collab.coordinator.reports import Taken

EXAMPLE = """
Examples:

    collab reports --peers 10.0.0.7:7070,10.0.0.8:7070

    collab reports --peers 10.0.0.7:7070,10.0.0.8:7070 --out reports.jsonl
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reports", epilog=EXAMPLE)(reports)


def reports(
    peers: Peers = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to add them to, one JSON object a line; the nodes forget what it has."),
    ] = None,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """What nodes answered by offline alternatives, and have not told anybody yet."""
    import msgspec

    from collab.cli.settings import peers as read_peers
    from collab.coordinator.reports import ReportFile, fetch

    file = None if out is None else ReportFile(out)

    async def ask(cluster: Cluster) -> list[Taken]:
        names = await cluster.reach(read_peers(peers))
        return [await fetch(cluster, name, file) for name in names]

    found = with_cluster(ask, trust=confirmed(insecure, insecure_network))
    if json_:
        emit(
            {
                "nodes": [
                    {
                        "name": taken.node,
                        "taken": len(taken.reports),
                        "waiting": taken.waiting,
                        "dropped": taken.dropped,
                    }
                    for taken in found
                ],
                "reports": msgspec.to_builtins([report for taken in found for report in taken.reports]),
            }
        )
        return
    _show(found, out)


def _show(found: list[Taken], out: Path | None) -> None:
    from datetime import datetime, timezone

    rows = [
        (
            report.node,
            datetime.fromtimestamp(report.at_ms / 1000, timezone.utc).isoformat(timespec="seconds"),
            report.plan,
            report.outcome,
            report.compute_ms,
            report.digest[:12] or "-",
        )
        for taken in found
        for report in taken.reports
    ]
    if rows and out is None:
        show(table("answered alone", ("node", "time (UTC)", "plan", "outcome", "ms", "answer"), rows))
    for taken in found:
        where = f", added to {out}" if out is not None else ""
        say(f"{taken.node}: {len(taken.reports)} reports{where}; {taken.dropped} were dropped there")
