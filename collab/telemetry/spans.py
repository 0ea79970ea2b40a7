"""Spans: named stretches of time of one trace.  No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

Attribute = Union[str, int, float, bool]


@dataclass(frozen=True)
class Moment:
    """Something that happened within a span."""

    name: str
    at_ns: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """One stretch of time; times are Unix nanoseconds."""

    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    moments: tuple[Moment, ...] = ()
    kind: str = "internal"
    """``internal``, ``client`` or ``server``."""
    error: str | None = None
    """Why it failed; None where it did not."""


def laid_out(parts_us: Mapping[str, int], start_ns: int) -> tuple[Moment, ...]:
    """Parts one after another as moments at which each begins."""
    moments, at_ns = [], start_ns
    for name, duration_us in parts_us.items():
        moments.append(Moment(name, at_ns, {"collab.duration_us": duration_us}))
        at_ns += duration_us * 1000
    return tuple(moments)
