"""Two runs beside each other: the same plans on other links, or the emulator's beside the simulator's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from collab.emulation.results import Results
from collab.emulation.summary import plan_figures
from collab.errors import InputError


@dataclass(frozen=True)
class Pair:
    """One figure of one plan in two runs."""

    plan: str
    figure: str
    first: float | None
    second: float | None

    @property
    def ratio(self) -> float | None:
        """The second by the first; None where one of them is missing or zero."""
        if not self.first or self.second is None:
            return None
        value = self.second / self.first
        return value if math.isfinite(value) else None

    def to_json(self) -> dict[str, Any]:
        """As commands print it."""
        return {
            "plan": self.plan,
            "figure": self.figure,
            "first": self.first,
            "second": self.second,
            "ratio": self.ratio,
        }


def compare(first: Results, second: Results) -> tuple[Pair, ...]:
    """Figures of every plan that both runs have; raises `InputError` if there is none."""
    names = {run.name for run in second.plans}
    common = [run.name for run in first.plans if run.name in names]
    if not common:
        raise InputError(
            f"the runs have no plan in common: {', '.join(r.name for r in first.plans)}; "
            f"{', '.join(sorted(names))}"
        )
    pairs: list[Pair] = []
    for name in common:
        one = plan_figures(first.of(name), first.deadline_ms)
        other = plan_figures(second.of(name), second.deadline_ms)
        pairs += [
            Pair(name, f"{figure} ms", one["latency_ms"][figure], other["latency_ms"][figure])
            for figure in ("p50", "p95", "p99", "mean")
        ]
        pairs.append(Pair(name, "answers/s", one["throughput_rps"], other["throughput_rps"]))
        pairs += [
            Pair(name, figure.replace("_", " "), one[figure], other[figure])
            for figure in ("failed", "deadline_misses")
        ]
    return tuple(pairs)
