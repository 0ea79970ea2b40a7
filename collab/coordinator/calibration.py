"""What a plan was predicted to cost beside what a load over it measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from collab.client.runner import PRIMARY
from collab.coordinator.workload import Report
from collab.core.plan import Plan, Predicted

Times = dict[str, Any]
"""``predicted`` and ``measured`` in ms, and ``error``: how much more was measured, as a share."""


def calibration(report: Report, plan: Plan, concurrency: int) -> dict[str, Any] | None:
    """Predicted and measured, in total and for each hop; None where the plan has no prediction.

    Latencies are medians.  The bottleneck is compared with the time for each answer, where
    several requests were under way and one epoch answered all.  A stage's time is without
    its queue where others may wait in it.  What the links took is known as a whole only,
    estimated from what the hops do not explain.
    """
    predicted = plan.predicted
    if predicted is None or not report.epoch_latencies_ms:
        return None
    undisturbed = report.epochs == 1 and report.via.keys() <= {PRIMARY}
    steady = concurrency > 1 and undisturbed and report.throughput_rps > 0
    return {
        "latency_ms": _times(predicted.latency_ms, float(np.median(report.epoch_latencies_ms))),
        "bottleneck_ms": _times(predicted.bottleneck_ms, 1000 / report.throughput_rps if steady else None),
        "concurrency": concurrency,
        "hops": _hops(report, plan, predicted, with_queue=concurrency == 1),
        "profile": predicted.profile,
        "basis": predicted.basis,
    }


def _hops(report: Report, plan: Plan, predicted: Predicted, *, with_queue: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in predicted.stages:
        samples = report.parts_ms.get(plan.stage_index(part.stage))
        measured = None
        if samples:
            measured = float(np.median(np.array(samples)[:, 0 if with_queue else 1 :].sum(axis=1)))
        rows.append({"stage": part.stage, "nodes": list(part.nodes), **_times(part.ms, measured)})
    rows += [
        {"from": way.source, "to": way.target, "occupied_ms": round(way.occupied_ms, 3), **_times(way.ms)}
        for way in predicted.edges
    ]
    here = np.array(report.here_ms).sum(axis=1)
    wire = float(np.median(np.array(report.wire_ms) + here))
    total = _times(sum(way.ms for way in predicted.edges), wire)
    return [*rows, {"stage": "wire", "estimated": True, **total}]


def _times(predicted: float, measured: float | None = None) -> Times:
    error = measured / predicted - 1 if measured is not None and predicted > 0 else None
    return {
        "predicted": round(predicted, 3),
        "measured": None if measured is None else round(measured, 3),
        "error": None if error is None else round(error, 4),
    }
