"""Tables of what became of a scenario, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collab.emulation.results import Results


def plans_table(result: Results, title: str) -> Any:
    """A row for each plan."""
    from collab.cli.output import table
    from collab.emulation.summary import summarise

    rows = [
        (
            plan["plan"],
            _shown(plan["predicted_ms"]),
            *(_shown(plan["latency_ms"][name]) for name in ("p50", "p95", "p99")),
            _shown(plan["throughput_rps"]),
            plan["failed"],
            plan["deadline_misses"],
        )
        for plan in summarise(result)["plans"]
    ]
    columns = ("plan", "predicted ms", "p50 ms", "p95 ms", "p99 ms", "answers/s", "failed", "missed")
    return table(title, columns, rows)


def _shown(value: float | None) -> object:
    return "–" if value is None else value
