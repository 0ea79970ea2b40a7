"""gRPC, MQTT and CoAP over the same lossy link: one request at a time, and eight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from simulations.drawing import curves
from simulations.experiment import Case, Done, Experiment, changed, markdown, scenario

TRANSPORTS: Final = ("grpc", "mqtt", "coap+tcp", "coap+udp")
LOSSES: Final = (0.0, 0.01, 0.03)
AT_ONCE: Final = (1, 8)


def cases(quick: bool) -> list[Case]:
    """Every transport at every loss, with one and with several requests under way."""
    tree, model = scenario("transports")
    found = []
    for transport in TRANSPORTS:
        for loss in (0.01,) if quick else LOSSES:
            link = {
                "name": "lossy",
                **{way: {**tree["topology"]["profile"][way], "loss": loss} for way in ("up", "down")},
            }
            cluster = {"transport": transport, "broker": "edge" if transport == "mqtt" else ""}
            for at_once in AT_ONCE:
                load = {"concurrency": at_once} | ({"requests": 20, "warmup": 4} if quick else {})
                made = changed(tree, topology={"profile": link}, cluster=cluster, workload=load)
                axes = {"transport": transport, "loss": loss, "at_once": at_once}
                longer = made if quick else changed(made, workload={"requests": 510})
                found += [Case("simulated", axes, longer, model), Case("emulated", axes, made, model)]
    return found


def draw(done: Sequence[Done]) -> Mapping[str, str]:
    """Latency of single requests, and throughput of several, over loss."""
    plots = {}
    for name, at_once, figure, what in (
        ("transports-latency", AT_ONCE[0], "p50_ms", "median latency (ms), one at a time"),
        ("transports-tail", AT_ONCE[0], "p95_ms", "95th percentile (ms), one at a time"),
        ("transports-throughput", AT_ONCE[1], "throughput_rps", "answers a second, eight at a time"),
    ):
        series: dict[str, dict[str, list[tuple[float, float]]]] = {"simulated": {}, "emulated": {}}
        for one in done:
            if one.case.values["at_once"] == at_once:
                (row,) = one.rows()
                point = (100 * float(row["loss"]), float(row[figure]))
                series[one.case.kind].setdefault(str(row["transport"]), []).append(point)
        plots[name] = curves(series["simulated"], series["emulated"], x="packets lost (%)", y=what)
    return plots


def table(done: Sequence[Done]) -> str:
    """Everything."""
    head = ("transport", "loss", "at a time", "kind", "p50 ms", "p95 ms", "p99 ms", "answers/s", "failed")
    lines = [
        (
            row["transport"],
            f"{100 * row['loss']:g} %",
            row["at_once"],
            row["kind"] + (" (!)" if row["flagged"] else ""),
            *(row[name] for name in ("p50_ms", "p95_ms", "p99_ms", "throughput_rps", "failed")),
        )
        for one in done
        for row in one.rows()
    ]
    return markdown(head, lines)


EXPERIMENT: Final = Experiment("transports", "Which transport takes a lossy link best?", cases, draw, table)
