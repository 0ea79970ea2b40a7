"""Local, offloaded and divided: three models over every link of the library."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from collab.emulation.profiles import PROFILES
from simulations.drawing import dots
from simulations.experiment import Case, Done, Experiment, changed, markdown, scenario

MODELS: Final = ("mobilenet", "landmark", "digits")
PLANS: Final = ("local", "offload", "collaborative")
_SLOW: Final = ("nb-iot", "lte-m")
"""Where a large input takes seconds; only the small model is emulated there."""
_REPRESENTATIVE: Final = ("5qi-3", "5qi-80")
"""Classes of 5QI over which the largest model is emulated."""
_NOISE: Final = 0.03
"""Medians closer than that are alike."""


def cases(quick: bool) -> list[Case]:
    """Every model over every profile, simulated; emulated where it takes seconds."""
    tree, _ = scenario("baselines")
    found = []
    for model in MODELS:
        for profile in ("lte", "wifi6") if quick else PROFILES:
            here = changed(tree, topology={"profiles": {"phone": profile}})
            emulated = changed(here, workload={"requests": 8 if quick else 23})
            if quick:
                here = changed(here, workload={"requests": 13})
            found.append(Case("simulated", {"model": model, "profile": profile}, here, model))
            if profile in _SLOW:
                if model != "digits":
                    continue
                emulated = changed(here, workload={"requests": 11, "warmup": 1})
            if not profile.startswith("5qi") or (profile in _REPRESENTATIVE and model == MODELS[0]):
                found.append(Case("emulated", {"model": model, "profile": profile}, emulated, model))
    return found


def _medians(one: Done) -> dict[str, float]:
    return {row["plan"]: row["p50_ms"] for row in one.rows()}


def draw(done: Sequence[Done]) -> Mapping[str, str]:
    """A plot for each model."""
    found = {}
    for model in dict.fromkeys(one.case.values["model"] for one in done):
        mine = [one for one in done if one.case.values["model"] == model]
        rows = list(dict.fromkeys(str(one.case.values["profile"]) for one in mine))
        series: dict[str, dict[str, dict[str, float]]] = {"simulated": {}, "emulated": {}}
        for one in mine:
            for plan, median in _medians(one).items():
                series[one.case.kind].setdefault(plan, {})[str(one.case.values["profile"])] = median
        found[f"baselines-{model}"] = dots(
            rows, series["simulated"], series["emulated"], x=f"median latency of {model} (ms)"
        )
    return found


def table(done: Sequence[Done]) -> str:
    """Medians, what the planner chose, and by how much it is faster."""
    head = ("model", "link", "kind", *PLANS, "placed", "over local", "over offload", "over the better")
    rows = [_row(one) for one in done]
    found = markdown(head, [tuple(row[name] for name in head) for row in rows])
    for kind in ("simulated", "emulated"):
        mine = [row for row in rows if row["kind"] == kind]
        if mine:
            found += f"\n{kind}: " + "; ".join(
                f"{name} {statistics.fmean(row[name] for row in mine):.2f}× in the mean, "
                f"{max(row[name] for row in mine):.1f}× at most"
                for name in head[-3:]
            )
            worse = [f"{r['model']} over {r['link']} {r[head[-1]]:.3f}" for r in mine if r["worse"]]
            found += f"; slower than the better one: {', '.join(worse) or 'nowhere'}\n"
    return found


def _row(one: Done) -> dict[str, Any]:
    medians = _medians(one)
    mine, better = medians["collaborative"], min(medians["local"], medians["offload"])
    same = [plan for plan in ("local", "offload") if one.placed(plan) == one.placed("collaborative")]
    over = medians[same[0]] if same else better
    return {
        "model": one.case.values["model"],
        "link": one.case.values["profile"],
        "kind": one.case.kind + (" (!)" if any(one.flagged(plan) for plan in PLANS) else ""),
        **medians,
        "placed": f"= {same[0]}" if same else one.placed("collaborative"),
        "over local": medians["local"] / mine,
        "over offload": medians["offload"] / mine,
        "over the better": better / mine,
        # The same plan is no slower than itself; it may be the wrong one of the two.
        "worse": max(mine, over) / better > 1 + _NOISE,
    }


EXPERIMENT: Final = Experiment(
    "baselines",
    "Is a divided model at least as fast as the better of here and there, whatever the link?",
    cases,
    draw,
    table,
)
