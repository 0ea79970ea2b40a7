"""The spans of one request, all from what the requester knows: its own clock, and the hops' durations.

A request has a span for each attempt, and the attempt that answered one for each hop with the parts
of the time in the node as moments, and one for the wire before each hop and behind the last.  How long
a message was under way nobody measures: what is left of the attempt's time is shared out equally and
marked as estimated.  Ids below the request's own span are derived from it, so that a node which
exports the same hop on its own clock can name the hop's span as the parent of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from collab.client.actions import Tried
from collab.core.ids import Attempt, RequestId, StageId
from collab.core.plan import Plan
from collab.core.token import Hop
from collab.telemetry.context import TraceContext
from collab.telemetry.spans import Attribute, Span, laid_out


@dataclass(frozen=True)
class Traced:
    """One request that has ended."""

    context: TraceContext
    """Of its own span, which travelled in the envelopes."""
    parent: TraceContext | None
    plan: Plan
    epoch: int
    request: RequestId
    start_us: int
    """On the requester's monotonic clock, as the attempts' times are."""
    end_us: int
    tried: Sequence[Tried]
    hops: Sequence[Hop] = ()
    answered: Attempt | None = None
    """The attempt that gave the answer."""
    error: str | None = None


def request_spans(traced: Traced, now_ns: int) -> Iterator[Span]:
    """All of its spans, the request's first; it ended at ``now_ns``, Unix time."""
    of = traced.context
    offset_ns = now_ns - traced.end_us * 1000
    yield Span(
        f"request {traced.plan.name}",
        of.trace_id,
        of.span_id,
        traced.parent.span_id if traced.parent is not None else None,
        offset_ns + traced.start_us * 1000,
        now_ns,
        {
            "collab.plan": traced.plan.name,
            "collab.epoch": traced.epoch,
            "collab.request": traced.request.hex(),
            "collab.attempts": len(traced.tried),
        },
        kind="client",
        error=traced.error,
    )
    for tried in traced.tried:
        yield from _attempt(traced, tried, offset_ns)


def hop_id(context: TraceContext, attempt: int, stage: int) -> bytes:
    """The id of a hop's span, as requester and node both know it."""
    return context.derived("hop", attempt, stage)


def stage_attributes(stage: StageId, node: str, hop: Hop | None) -> dict[str, Attribute]:
    """What a span says of a stage's run."""
    about: dict[str, Attribute] = {"collab.stage": stage, "collab.node": node}
    if hop is not None:
        about |= {
            "collab.queue_us": hop.queue_us,
            "collab.decode_us": hop.decode_us,
            "collab.compute_us": hop.compute_us,
            "collab.encode_us": hop.encode_us,
        }
    return about


def hop_parts(hop: Hop) -> dict[str, int]:
    """The parts of the time in a node, in their order."""
    return {
        "queue": hop.queue_us,
        "decode": hop.decode_us,
        "compute": hop.compute_us,
        "encode": hop.encode_us,
    }


def _attempt(traced: Traced, tried: Tried, offset_ns: int) -> Iterator[Span]:
    of, number = traced.context, int(tried.number)
    span_id = of.derived("attempt", number)
    answers = tried.number == traced.answered
    start_ns, end_ns = (offset_ns + us * 1000 for us in (tried.start_us, tried.end_us))
    yield Span(
        f"attempt {number}",
        *(of.trace_id, span_id, of.span_id, start_ns, end_ns),
        {"collab.attempt": number, "collab.route": ",".join(tried.route), "collab.answered": answers},
        error=tried.fault,
    )
    if not answers:
        return
    left_us = tried.end_us - tried.start_us - sum(hop.total_us for hop in traced.hops)
    each_ns = max(0, left_us) * 1000 // (len(traced.hops) + 1)
    at_ns = start_ns
    for hop in traced.hops:
        stage = traced.plan.stages[hop.stage]
        yield _wire(of, span_id, number, hop.stage, at_ns, each_ns, f"to {hop.node}")
        at_ns += each_ns
        yield Span(
            f"stage {stage.id} on {hop.node}",
            *(of.trace_id, hop_id(of, number, hop.stage), span_id, at_ns, at_ns + hop.total_us * 1000),
            stage_attributes(stage.id, hop.node, hop),
            laid_out(hop_parts(hop), at_ns),
        )
        at_ns += hop.total_us * 1000
    yield _wire(of, span_id, number, -1, at_ns, each_ns, "to the requester")


def _wire(
    of: TraceContext, parent_id: bytes, attempt: int, stage: int, at_ns: int, duration_ns: int, whither: str
) -> Span:
    return Span(
        f"wire {whither} (estimated)",
        *(of.trace_id, of.derived("wire", attempt, stage), parent_id, at_ns, at_ns + duration_ns),
        {"collab.estimated": True},
    )
