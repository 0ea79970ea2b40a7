"""What an experiment is: cases to run, each a scenario, and what is drawn and tabled of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from collab.cli.scenarios import read_scenario
from collab.emulation.results import Asking, Results
from collab.emulation.summary import plan_figures

HERE: Final = Path(__file__).parent
Kind = Literal["simulated", "emulated"]
How = Literal["asking", "dialling"]
Value = str | int | float | bool
Tree = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One scenario: where it stands on the axes of its experiment, and what is run."""

    kind: Kind
    values: Mapping[str, Value]
    """By axis."""
    tree: Tree
    """The scenario without its model and profile."""
    model: str
    how: How = "asking"
    """Whether requests are timed, or only how long links take to come about."""

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = (self.kind, *(f"{axis}={value}" for axis, value in self.values.items()))
        return ",".join(parts).replace("/", "-")

    @property
    def axes(self) -> dict[str, Value]:
        """Where it stands, its kind included."""
        return {"kind": self.kind, **self.values}


@dataclass(frozen=True)
class Done:
    """A case that was run."""

    case: Case
    results: Results
    spans: Mapping[str, tuple[tuple[int, int], ...]]
    """The operators ``[start, stop)`` of each plan's stages."""

    def of(self, plan: str) -> tuple[Asking, ...]:
        """Requests of one plan."""
        return self.results.of(plan)

    def flagged(self, plan: str) -> bool:
        """Whether the machine was overloaded."""
        first = f"Not to be trusted, plan {plan},"
        return any(note.startswith(first) for note in self.results.notes)

    def placed(self, plan: str) -> str:
        """Where it ran, such as ``phone[0:12) edge[12:65)``."""
        run = next(run for run in self.results.plans if run.name == plan)
        spans = self.spans.get(plan, ())
        return " ".join(
            "+".join(nodes) + (f"[{spans[at][0]}:{spans[at][1]})" if at < len(spans) else "")
            for at, nodes in enumerate(run.nodes)
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row of figures for each plan."""
        found = []
        for run in self.results.plans:
            figures = plan_figures(self.of(run.name), self.results.deadline_ms)
            found.append(
                {
                    **self.case.axes,
                    "model": self.case.model,
                    "plan": run.name,
                    "placed": self.placed(run.name),
                    "predicted_ms": run.predicted_ms,
                    "bottleneck_ms": run.bottleneck_ms,
                    **{f"{name}_ms": value for name, value in figures["latency_ms"].items()},
                    **{
                        name: figures[name]
                        for name in ("throughput_rps", "requests", "failed", "deadline_misses", "retries")
                    },
                    "flagged": self.flagged(run.name),
                }
            )
        return found


@dataclass(frozen=True)
class Experiment:
    """A question, and how it is answered."""

    name: str
    question: str
    cases: Callable[[bool], list[Case]]
    """All of them; of fewer and shorter ones when asked to be quick."""
    draw: Callable[[Sequence[Done]], Mapping[str, str]]
    """Plots as SVG, by file name without its end."""
    table: Callable[[Sequence[Done]], str]
    """In Markdown."""


@dataclass(frozen=True)
class StudyResult:
    """What a study came to."""

    rows: list[dict[str, Any]]
    table: str
    """In Markdown."""
    plots: Mapping[str, str]
    """As SVG, by file name without its end."""


@dataclass(frozen=True)
class Study:
    """A question that is answered without any network: one computation in place of cases."""

    name: str
    question: str
    run: Callable[[bool], StudyResult]
    """In little time when asked to be quick."""


def scenario(name: str) -> tuple[Tree, str]:
    """The scenario file of an experiment without its model and profile, and the name of its model."""
    tree = read_scenario(HERE / f"{name}.yaml")
    model = Path(tree.pop("profile")).stem
    tree.pop("model", None)
    return tree, model


def changed(tree: Tree, **fields: Any) -> Tree:
    """A copy with other fields; of a mapping those that are given, the others stay."""
    made = copy.deepcopy(tree)
    for name, value in fields.items():
        made[name] = {**made[name], **value} if isinstance(value, dict) and name in made else value
    return made


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers have three digits."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(cell, line)) + " |\n" for line in lines)


def cell(value: object) -> str:
    """One entry of a table."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
