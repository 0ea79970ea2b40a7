"""A handover and an outage in mid-stream, with one server and with two replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from collab.emulation.results import Asking
from collab.emulation.summary import percentile
from simulations.drawing import over_time
from simulations.experiment import Case, Done, Experiment, changed, markdown, scenario

_QUIET_S: Final = 2.0
"""After an event is over, what it held back is through."""


def cases(quick: bool) -> list[Case]:
    """The same twice."""
    tree, model = scenario("handover")
    made = changed(tree, workload={"rate": 5}) if quick else tree
    return [Case("simulated", {}, made, model), Case("emulated", {}, made, model)]


def phases(one: Done) -> dict[str, tuple[float, float]]:
    """Names and spans ``[from, to)`` in seconds by the marks of a run."""
    gap, handed, cut, mended = (mark.at_ms / 1e3 for mark in one.results.marks)
    return {
        "before": (0.0, gap),
        "during the handover": (gap, handed),
        "after it": (handed + _QUIET_S, cut),
        "during the outage": (cut, mended),
        "at the end": (mended + _QUIET_S, float("inf")),
    }


def _within(askings: Sequence[Asking], span: tuple[float, float]) -> list[Asking]:
    return [asking for asking in askings if span[0] <= asking.start_ms / 1e3 < span[1]]


def draw(done: Sequence[Done]) -> Mapping[str, str]:
    """Every request by the time at which it was asked."""
    return {
        f"handover-{one.case.kind}": over_time(
            {run.name: one.of(run.name) for run in one.results.plans},
            one.results.marks,
            one.results.deadline_ms,
        )
        for one in done
    }


def table(done: Sequence[Done]) -> str:
    """Latency and failures in each phase."""
    lines = []
    for one in done:
        for run in one.results.plans:
            for phase, span in phases(one).items():
                mine = _within(one.of(run.name), span)
                times = sorted(asking.latency_ms for asking in mine if asking.answered)
                kind = one.case.kind + (" (!)" if one.flagged(run.name) else "")
                middle, longest = (percentile(times, 50), times[-1]) if times else (None, None)
                retried = sum(asking.attempts > 1 for asking in mine)
                lines.append(
                    (kind, run.name, phase, len(mine), middle, longest, retried, len(mine) - len(times))
                )
    head = ("kind", "plan", "phase", "asked", "p50 ms", "longest ms", "retried", "failed")
    return markdown(head, lines)


EXPERIMENT: Final = Experiment(
    "handover", "What does a stream of requests see of a handover, and of a lost server?", cases, draw, table
)
