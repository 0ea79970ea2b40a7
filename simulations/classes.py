"""Answers in time over the classes of 5QI, each at the limits of what it promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from collab.emulation.profiles import PROFILES
from simulations.drawing import dots
from simulations.experiment import Case, Done, Experiment, changed, markdown, scenario

ALLOWANCE_MS: Final = 20.0
"""For computing and for the Python stack, on top of the budget of both ways."""
_EMULATED: Final = ("5qi-3", "5qi-9", "5qi-80", "5qi-86", "5qi-87")


def budget_ms(name: str) -> float:
    """The packet delay budget of a class: the quantile 0.98 of its profile's delay."""
    way = PROFILES[name].up
    return way.delay_ms + dict(way.jitter_quantiles_ms)[0.98]


def cases(quick: bool) -> list[Case]:
    """Every class simulated, some of them emulated."""
    tree, model = scenario("classes")
    classes = [name for name in PROFILES if name.startswith("5qi-")]
    found = []
    for name in ("5qi-3", "5qi-86") if quick else classes:
        axes = {"class": name, "budget_ms": round(budget_ms(name), 3)}
        deadline = {"deadline_ms": 2 * budget_ms(name) + ALLOWANCE_MS}
        made = changed(tree, topology={"profile": name}, workload=deadline)
        simulated = changed(made, workload={"requests": 200}) if quick else made
        emulated = changed(made, workload={"requests": 60 if quick else 200, "warmup": 10})
        found.append(Case("simulated", axes, simulated, model))
        if name in _EMULATED:
            found.append(Case("emulated", axes, emulated, model))
    return found


def draw(done: Sequence[Done]) -> Mapping[str, str]:
    """Misses of each class."""
    series: dict[str, dict[str, dict[str, float]]] = {"simulated": {}, "emulated": {}}
    for one in done:
        (row,) = one.rows()
        share = 100 * row["deadline_misses"] / row["requests"]
        series[one.case.kind].setdefault("misses", {})[str(row["class"])] = share
    rows = list(dict.fromkeys(str(one.case.values["class"]) for one in done))
    return {
        "classes": dots(rows, series["simulated"], series["emulated"], x="answers not in time (%)", log=False)
    }


def table(done: Sequence[Done]) -> str:
    """Misses beside what the class promises."""
    lines = []
    for one in done:
        (row,) = one.rows()
        lines.append(
            (
                row["class"],
                f"{row['budget_ms']:g}",
                f"{PROFILES[row['class']].up.loss:g}",
                row["kind"] + (" (!)" if row["flagged"] else ""),
                one.results.deadline_ms,
                *(row[name] for name in ("p50_ms", "p99_ms", "requests")),
                f"{100 * row['deadline_misses'] / row['requests']:.2f} %",
                row["failed"],
            )
        )
    head = ("class", "budget ms", "error rate", "kind", "deadline ms")
    return markdown((*head, "p50 ms", "p99 ms", "requests", "not in time", "of these no answer"), lines)


EXPERIMENT: Final = Experiment(
    "classes", "How many answers miss their deadline over each class of 5QI?", cases, draw, table
)
