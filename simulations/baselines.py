"""Local, offloaded and divided: three models over every link of the library."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from collab.emulation.profiles import PROFILES
from simulations.drawing import dots
from simulations.experiment import Case, Done, Experiment, cell, changed, markdown, scenario

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
    """Medians, what the planner chose, and by how much it is faster than each of the others."""
    head = ("model", "link", *(f"{plan} ms" for plan in PLANS), "placed", "over local", "over offload")
    by_place: dict[tuple[str, str], dict[str, Done]] = {}
    for one in done:
        place = str(one.case.values["model"]), str(one.case.values["profile"])
        by_place.setdefault(place, {})[one.case.kind] = one
    lines = []
    for place, kinds in by_place.items():
        first = next(iter(kinds.values()))
        medians = {kind: _medians(one) for kind, one in kinds.items()}
        marked = " (!)" if "emulated" in kinds and any(map(kinds["emulated"].flagged, PLANS)) else ""
        lines.append(
            (
                *place,
                *(_both(medians, plan) for plan in PLANS),
                f"{_placed(first)}{marked}",
                *(_both({k: {"": m[p] / m[PLANS[-1]]} for k, m in medians.items()}, "") for p in PLANS[:2]),
            )
        )
    summaries = [
        _summary([one for one in done if one.case.kind == kind]) for kind in ("simulated", "emulated")
    ]
    return markdown(head, lines) + "\n" + "\n".join(filter(None, summaries)) + "\n"


def _both(medians: Mapping[str, Mapping[str, float]], name: str) -> str:
    """Simulated, and emulated in brackets."""
    simulated, emulated = (medians.get(kind, {}).get(name) for kind in ("simulated", "emulated"))
    return cell(simulated) + ("" if emulated is None else f" ({cell(emulated)})")


def _same(one: Done) -> str | None:
    """The baseline that the planner's choice is."""
    return next((plan for plan in PLANS[:2] if one.placed(plan) == one.placed(PLANS[-1])), None)


def _placed(one: Done) -> str:
    same = _same(one)
    return one.placed(PLANS[-1]) if same is None else f"= {same}"


def gains(done: Sequence[Done]) -> dict[str, list[float]]:
    """Each baseline's median by the divided model's, and the better one's, in the order of the cases."""
    found: dict[str, list[float]] = {"local": [], "offload": [], "the better": []}
    for one in done:
        medians = _medians(one)
        # A plan that is the same is as fast, whatever chance made of it.
        mine = medians[_same(one) or PLANS[-1]]
        for plan in PLANS[:2]:
            found[plan].append(medians[plan] / mine)
        found["the better"].append(min(medians["local"], medians["offload"]) / mine)
    return found


def _summary(done: Sequence[Done]) -> str:
    if not done:
        return ""
    found = gains(done)
    parts = [
        f"{statistics.fmean(values):.2f}× over {name} in the mean, {max(values):.1f}× at most"
        for name, values in found.items()
    ]
    worse = [
        f"{one.case.values['model']} over {one.case.values['profile']} ({1 / gain:.2f}×)"
        for one, gain in zip(done, found["the better"], strict=True)
        if gain < 1 - _NOISE
    ]
    return (
        f"{done[0].case.kind}: {'; '.join(parts)}; slower than the better: {', '.join(worse) or 'nowhere'}.\n"
    )


EXPERIMENT: Final = Experiment(
    "baselines",
    "Is a divided model at least as fast as the better of here and there, whatever the link?",
    cases,
    draw,
    table,
)
