"""A node's own span of a stage's run, on its own clock; the requester's span of the hop is its parent."""

from __future__ import annotations

from collections.abc import Iterator

from collab.client.tracing import hop_id, hop_parts, stage_attributes
from collab.core.ids import NodeName
from collab.core.plan import Plan
from collab.core.token import Fault
from collab.node.actions import Computed, Work
from collab.telemetry.context import parse_traceparent
from collab.telemetry.spans import Span, laid_out


def run_spans(
    trace: bytes, work: Work, result: Computed | Fault, plan: Plan, node: NodeName, now_ns: int
) -> Iterator[Span]:
    """The span of a run that has just ended; none where the request's trace is not kept."""
    of = parse_traceparent(trace)
    if of is None or not of.sampled:
        return
    attempt, stage = int(work.key.attempt), plan.stages[work.stage].id
    hop = result.hop if isinstance(result, Computed) else None
    # Of a run that failed nobody knows how long it took.
    start_ns = now_ns - (hop.total_us * 1000 if hop is not None else 0)
    yield Span(
        f"run {stage}",
        of.trace_id,
        of.derived("run", attempt, work.stage, node),
        hop_id(of, attempt, work.stage),
        start_ns,
        now_ns,
        {
            "collab.plan": plan.name,
            "collab.epoch": int(work.key.epoch),
            "collab.request": work.key.request.hex(),
            "collab.attempt": attempt,
            **stage_attributes(stage, node, hop),
        },
        laid_out(hop_parts(hop), start_ns) if hop is not None else (),
        kind="server",
        error=None if isinstance(result, Computed) else f"{result.code}: {result.message}",
    )
