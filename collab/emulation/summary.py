"""From results to the figures that people compare; pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

from collab.emulation.results import Asking, Results

QUANTILES: Final = (50, 90, 95, 99)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Linear between the nearest ranks; NaN of nothing."""
    if not ordered:
        return math.nan
    at = (len(ordered) - 1) * percent / 100
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def summarise(results: Results) -> dict[str, Any]:
    """The JSON summary of a run."""
    return {
        "scenario": results.scenario,
        "kind": results.kind,
        "seed": results.seed,
        "partial": results.partial,
        "notes": list(results.notes),
        "plans": [
            {
                "plan": run.name,
                "stages": [
                    {"stage": s, "nodes": list(n)} for s, n in zip(run.stages, run.nodes, strict=True)
                ],
                "predicted_ms": _figure(run.predicted_ms),
                "bottleneck_ms": _figure(run.bottleneck_ms),
                **plan_figures(results.of(run.name), results.deadline_ms),
                "links": _links(results, run.name),
            }
            for run in results.plans
        ],
    }


def plan_figures(askings: Sequence[Asking], deadline_ms: float) -> dict[str, Any]:
    """Latency, throughput, misses and hops of one plan's requests."""
    answered = [asking for asking in askings if asking.answered]
    latencies = sorted(asking.latency_ms for asking in answered)
    missed = sum(not a.answered or a.latency_ms > deadline_ms for a in askings)
    return {
        "requests": len(askings),
        "failed": len(askings) - len(answered),
        "errors": dict(Counter(a.outcome for a in askings if not a.answered)),
        "deadline_misses": missed,
        "latency_ms": {
            **{f"p{q}": _figure(percentile(latencies, q)) for q in QUANTILES},
            "mean": _figure(statistics.fmean(latencies) if latencies else math.nan),
        },
        "throughput_rps": _figure(throughput(askings)),
        "retries": sum(a.attempts - 1 for a in askings if not a.hedged),
        "hedged": sum(a.hedged for a in askings),
        "hops": hop_means(answered),
    }


def throughput(askings: Sequence[Asking]) -> float:
    """Answers a second, over the time from the first start to the last answer of each repetition."""
    spans: dict[int, tuple[float, float]] = {}
    for asking in askings:
        start, stop = spans.get(asking.repetition, (math.inf, 0.0))
        end = asking.start_ms + asking.latency_ms
        spans[asking.repetition] = (min(start, asking.start_ms), max(stop, end))
    total = sum(stop - start for start, stop in spans.values())
    return 1000 * sum(a.answered for a in askings) / total if total > 0 else math.nan


def hop_means(answered: Sequence[Asking]) -> list[dict[str, Any]]:
    """Mean times of each stage on the critical path, and of the wire."""
    parts = ("queue_ms", "decode_ms", "compute_ms", "encode_ms")
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    for asking in answered:
        for hop in asking.hops:
            total = sums[hop.stage]
            total[4] += 1
            for i, part in enumerate(parts):
                total[i] += getattr(hop, part)
    means: list[dict[str, Any]] = [
        {"stage": stage, **{part: _figure(total[i] / total[4]) for i, part in enumerate(parts)}}
        for stage, total in sums.items()
    ]
    if answered:
        means.append({"stage": "wire", "wire_ms": _figure(statistics.fmean(a.wire_ms for a in answered))})
    return means


def _links(results: Results, plan: str) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for entry in results.carried:
        if entry.plan == plan and entry.packets:
            total = found.setdefault(
                entry.leg, {"leg": entry.leg, "packets": 0, "bytes": 0, "dropped": Counter()}
            )
            total["packets"] += entry.packets
            total["bytes"] += entry.bytes
            total["dropped"] += Counter(entry.dropped)
    return [{**entry, "dropped": dict(entry["dropped"])} for entry in found.values()]


def _figure(value: float | None) -> float | None:
    """Six digits; None for what is not there."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
