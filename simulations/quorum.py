"""An ensemble of three over links with heavy tails: wait for all, for two, or for the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from collab.emulation.plots import latency_cdf
from simulations.experiment import Case, Done, Experiment, changed, markdown, scenario


def cases(quick: bool) -> list[Case]:
    """The same twice, emulated with fewer requests."""
    tree, model = scenario("quorum")
    counts = {"simulated": 200, "emulated": 40} if quick else {"simulated": 5000, "emulated": 400}
    return [
        Case("simulated", {}, changed(tree, workload={"requests": counts["simulated"]}), model),
        Case("emulated", {}, changed(tree, workload={"requests": counts["emulated"]}), model),
    ]


def draw(done: Sequence[Done]) -> Mapping[str, str]:
    """Shares of answers within a time."""
    return {
        f"quorum-{one.case.kind}": latency_cdf({run.name: one.of(run.name) for run in one.results.plans})
        for one in done
    }


def table(done: Sequence[Done]) -> str:
    """Quantiles."""
    lines = [
        (
            row["kind"] + (" (!)" if row["flagged"] else ""),
            row["plan"],
            *(row[name] for name in ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "requests", "failed")),
        )
        for one in done
        for row in one.rows()
    ]
    return markdown(("kind", "plan", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "requests", "failed"), lines)


EXPERIMENT: Final = Experiment(
    "quorum", "What does an ensemble gain by not waiting for its last member?", cases, draw, table
)
