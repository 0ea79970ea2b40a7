"""Codecs by the rate of the link: where packing a tensor begins to pay."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from simulations.drawing import curves
from simulations.experiment import Case, Done, Experiment, changed, markdown, scenario

RATES: Final = (1, 3, 10, 30, 100, 300, 1000)
_EMULATED: Final = (1, 10, 100, 300, 1000)
_SLOW: Final = 10
"""Below that a request takes long, and fewer do."""


def cases(quick: bool) -> list[Case]:
    """One for each rate; all codecs meet the same link."""
    tree, model = scenario("codecs")
    found = []
    for rate in (10, 1000) if quick else RATES:
        way = {
            **tree["topology"]["profile"]["up"],
            "rate_mbit_s": rate,
            "queue_bytes": max(250_000, rate * 12_500),
        }
        requests = 5 if quick else 7 if rate < _SLOW else 23
        made = changed(
            tree,
            topology={"profile": {"name": "link", "up": way, "down": way}},
            workload={"requests": requests, "warmup": 1 if requests < 10 else 3},
        )
        axes = {"mbit_s": rate}
        found.append(Case("simulated", axes, made, model))
        if rate in _EMULATED:
            found.append(Case("emulated", axes, made, model))
    return found


def moving_ms(one: Done, plan: str) -> float:
    """The median of what is not computing and waiting: encoding, the wire, decoding."""
    return statistics.median(
        a.wire_ms + sum(hop.encode_ms + hop.decode_ms for hop in a.hops) for a in one.of(plan) if a.answered
    )


def draw(done: Sequence[Done]) -> Mapping[str, str]:
    """Times of moving, and what they are of raw's."""
    times: dict[str, dict[str, list[tuple[float, float]]]] = {"simulated": {}, "emulated": {}}
    shares: dict[str, dict[str, list[tuple[float, float]]]] = {"simulated": {}, "emulated": {}}
    for one in done:
        rate, raw = float(one.case.values["mbit_s"]), moving_ms(one, "raw")
        for run in one.results.plans:
            ms = moving_ms(one, run.name)
            times[one.case.kind].setdefault(run.name, []).append((rate, ms))
            shares[one.case.kind].setdefault(run.name, []).append((rate, ms / raw))
    x = "rate of the link (Mbit/s)"
    return {
        "codecs": curves(
            times["simulated"],
            times["emulated"],
            x=x,
            y="moving the input, 451 kB and the answer (ms)",
            log="xy",
        ),
        "codecs-share": curves(shares["simulated"], shares["emulated"], x=x, y="of what raw takes", log="x"),
    }


def table(done: Sequence[Done]) -> str:
    """Times of moving."""
    plans = [run.name for run in done[0].results.plans]
    lines = [
        (
            one.case.values["mbit_s"],
            one.case.kind + (" (!)" if any(map(one.flagged, plans)) else ""),
            *(moving_ms(one, plan) for plan in plans),
        )
        for one in done
    ]
    return markdown(("Mbit/s", "kind", *(f"{plan} ms" for plan in plans)), lines)


EXPERIMENT: Final = Experiment("codecs", "Below which rate does each tensor codec pay?", cases, draw, table)
