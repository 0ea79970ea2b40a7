"""Sends spans to a collector by OTLP over HTTP, from a thread; the extra ``tracing`` writes them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from collab.errors import ConfigError, UsageError
from collab.telemetry.context import TraceContext, begin
from collab.telemetry.spans import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

MAX_QUEUED: Final = 4_096
"""Spans that wait; further ones are dropped and counted."""
MAX_BATCH: Final = 512
PAUSE_S: Final = 0.5
"""How long a batch is filled."""
TIMEOUT_S: Final = 5.0
"""For one batch, further tries included; what fails then is dropped and counted."""

log = logging.getLogger("collab.traces")


def traces_url(url: str) -> str:
    """Where spans go: an address without a path takes OTLP's own.  Raises `UsageError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--otlp {url!r}: give the collector's address, such as http://127.0.0.1:4318")
    return url if parts.path not in ("", "/") else f"{parts.scheme}://{parts.netloc}/v1/traces"


class Tracer:
    """Begins spans and takes finished ones; nothing here waits.

    ``close`` sends what waits, and blocks: call it off an event loop.  Raises `ConfigError` without
    the extra, `UsageError` for an address that is none.
    """

    def __init__(
        self,
        url: str,
        about: Mapping[str, str],
        ratio: float = 1.0,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """``about`` says what makes the spans; ``ratio`` of the traces that begin here are kept."""
        self.dropped = 0
        """Spans that were not sent, because too many waited or the collector did not take them."""
        self._ratio = ratio
        self._random = random
        self._queue: SimpleQueue[Span | None] = SimpleQueue()
        self._sender = _Sender(traces_url(url), about)
        self._thread = threading.Thread(target=self._run, name="collab-traces", daemon=True)
        self._thread.start()

    def begin(self, parent: TraceContext | None = None) -> TraceContext:
        """The context of a new span."""
        return begin(parent, self._ratio, self._random)

    def record(self, spans: Iterable[Span]) -> None:
        """Send spans in time."""
        for span in spans:
            if self._queue.qsize() >= MAX_QUEUED:
                self.dropped += 1
            else:
                self._queue.put(span)

    def close(self) -> None:
        """Send what waits, as far as the collector takes it, and end the thread."""
        self._queue.put(None)
        self._thread.join(2 * TIMEOUT_S)
        self._sender.close()

    def _run(self) -> None:
        going = True
        while going:
            first = self._queue.get()
            if first is None:
                return
            batch = [first]
            until_s = time.monotonic() + PAUSE_S
            while len(batch) < MAX_BATCH:
                try:
                    span = self._queue.get(timeout=max(0.0, until_s - time.monotonic()))
                except Empty:
                    break
                if span is None:
                    going = False
                    break
                batch.append(span)
            if not self._sender.send(batch):
                self.dropped += len(batch)


class _Sender:
    """The library's exporter, given our spans as its own."""

    def __init__(self, url: str, about: Mapping[str, str]) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
        except ImportError as error:
            module = error.name or "opentelemetry"
            raise ConfigError(f"--otlp: {module} is missing: pip install 'collab[tracing]'") from error
        # Its own words about a collector that is away would be many; ours are one line.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._resource = Resource({"service.name": "collab", **about})
        self._exporter = OTLPSpanExporter(endpoint=url, timeout=TIMEOUT_S)
        self._url = url

    def send(self, batch: list[Span]) -> bool:
        """Whether the collector took all of them."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            result = self._exporter.export([self._foreign(span) for span in batch])
        except Exception as error:  # whatever the library raises, requests go on
            log.warning("%d spans are not sent to %s: %s", len(batch), self._url, error)
            return False
        if result is not SpanExportResult.SUCCESS:
            log.warning("%d spans are dropped: the collector at %s does not take them", len(batch), self._url)
        return result is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Give connections back."""
        cast(Any, self._exporter).shutdown()

    def _foreign(self, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        def context(span_id: bytes) -> SpanContext:
            ids = (int.from_bytes(span.trace_id, "big"), int.from_bytes(span_id, "big"))
            return SpanContext(*ids, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

        return ReadableSpan(
            span.name,
            context=context(span.span_id),
            parent=None if span.parent_id is None else context(span.parent_id),
            resource=self._resource,
            attributes=cast(Any, dict(span.attributes)),
            events=[Event(m.name, cast(Any, dict(m.attributes)), m.at_ns) for m in span.moments],
            kind=SpanKind[span.kind.upper()],
            status=Status(StatusCode.ERROR, span.error) if span.error is not None else Status(StatusCode.OK),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=InstrumentationScope("collab"),
        )
