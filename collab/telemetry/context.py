"""Which trace a request belongs to, as W3C Trace Context has it.  No I/O, no clock, no chance of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, NamedTuple

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""W3C Trace Context, 3.2; versions after 00 may say more behind a dash."""
_SAMPLED: Final = 0x01
_MOST: Final = 1 << 64


class TraceContext(NamedTuple):
    """A trace and the span in it that what follows belongs under."""

    trace_id: bytes
    """16 bytes, not all zero."""
    span_id: bytes
    """8 bytes, not all zero."""
    sampled: bool = True
    """Whether spans of the trace are kept."""

    @property
    def traceparent(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-{self.sampled:02x}"

    def derived(self, *where: str | int) -> bytes:
        """The id of a span below this one: the same at every process that knows the place."""
        text = "/".join(map(str, where)).encode()
        return hashlib.sha256(self.trace_id + self.span_id + text).digest()[:8]


def parse_traceparent(text: str | bytes) -> TraceContext | None:
    """The context of a ``traceparent``; None for one that must be ignored (3.2.2)."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(bytes.fromhex(trace_id), bytes.fromhex(span_id), bool(int(flags, 16) & _SAMPLED))


def is_sampled(trace_id: bytes, ratio: float) -> bool:
    """Whether a new trace is kept: the same answer everywhere, by the id's last 8 bytes.

    The rule of OpenTelemetry's ``TraceIdRatioBased``.
    """
    return int.from_bytes(trace_id[8:], "big") < round(ratio * _MOST)


def begin(parent: TraceContext | None, ratio: float, random: Callable[[int], bytes]) -> TraceContext:
    """The context of a new span: of its parent's trace and as that is kept, else of a new trace.

    ``random`` gives so many bytes.
    """
    if parent is not None:
        return TraceContext(parent.trace_id, random(8), parent.sampled)
    trace_id = random(16)
    return TraceContext(trace_id, random(8), is_sampled(trace_id, ratio))


SERVED: Final[ContextVar[TraceContext | None]] = ContextVar("collab_served_trace", default=None)
"""What a server's task serves belongs under this; set where a call's headers are read."""
