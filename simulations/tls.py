"""What certificates cost over a round trip of 50 ms: until a link is there, and for each request."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from simulations.drawing import dots
from simulations.experiment import Case, Done, Experiment, changed, markdown, scenario
from simulations.transports import TRANSPORTS

ROUND_TRIP_MS: Final = 50.0


def cases(quick: bool) -> list[Case]:
    """Links and requests, of every transport, with certificates and without; links only emulated."""
    tree, model = scenario("tls")
    found = []
    for transport in TRANSPORTS[:1] if quick else TRANSPORTS:
        for secured in (False, True):
            cluster = {
                "transport": transport,
                "secured": secured,
                "broker": "edge" if transport == "mqtt" else "",
            }
            axes = {"transport": transport, "secured": secured}
            made = changed(tree, cluster=cluster, workload={"requests": 16} if quick else {})
            links = changed(made, workload={"requests": 3 if quick else 6, "warmup": 0})
            found += [
                Case("simulated", {**axes, "what": "requests"}, made, model),
                Case("emulated", {**axes, "what": "requests"}, made, model),
                Case("emulated", {**axes, "what": "links"}, links, model, "dialling"),
            ]
    return found


def _medians(done: Sequence[Done]) -> dict[str, dict[str, dict[str, float]]]:
    """Times in ms by kind, by whether secured, by transport and what."""
    found: dict[str, dict[str, dict[str, float]]] = {"simulated": {}, "emulated": {}}
    for one in done:
        series = "mutual TLS" if one.case.values["secured"] else "without"
        for run in one.results.plans:
            what = "a request" if one.case.values["what"] == "requests" else f"to the {run.name}"
            times = [asking.latency_ms for asking in one.of(run.name) if asking.answered]
            row = f"{one.case.values['transport']}: {what}"
            found[one.case.kind].setdefault(series, {})[row] = statistics.median(times)
    return found


def draw(done: Sequence[Done]) -> Mapping[str, str]:
    """Every transport's times."""
    medians = _medians(done)
    rows = dict.fromkeys(row for kind in medians.values() for series in kind.values() for row in series)
    return {
        "tls": dots(
            sorted(rows),
            medians["simulated"],
            medians["emulated"],
            x="median (ms), round trip 50 ms",
            log=False,
        )
    }


def table(done: Sequence[Done]) -> str:
    """Times, and what certificates add, in round trips, too."""
    lines = []
    for kind, series in _medians(done).items():
        plain, secured = series.get("without", {}), series.get("mutual TLS", {})
        for row in sorted({*plain, *secured}):
            one, other = plain.get(row), secured.get(row)
            more = None if one is None or other is None else other - one
            lines.append((row, kind, one, other, more, None if more is None else more / ROUND_TRIP_MS))
    return markdown(("", "kind", "without ms", "mutual TLS ms", "more ms", "round trips"), lines)


EXPERIMENT: Final = Experiment(
    "tls", "What does mutual TLS cost where a round trip takes 50 ms?", cases, draw, table
)
