"""A collector of OpenTelemetry spans: takes OTLP over HTTP and keeps what it is given."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_S = 20.0


class Collector:
    """What came so far, and who made it."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        """What it answers."""
        self.spans: list[Span] = []
        self.makers: dict[bytes, dict[str, str]] = {}
        """The resource of each span, by its id."""
        self._came = threading.Condition()

    def take(self, body: bytes) -> None:
        """Keep the spans of a request."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._came:
            for resource in request.resource_spans:
                maker = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.spans += scope.spans
                    self.makers |= {span.span_id: maker for span in scope.spans}
            self._came.notify_all()

    def wait(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """The spans, as soon as there are enough."""
        with self._came:
            assert self._came.wait_for(lambda: enough(self.spans), WAIT_S), [s.name for s in self.spans]
            return list(self.spans)


def attributes(span: Span) -> dict[str, Any]:
    """As plain values."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """One that listens on loopback."""
    made = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            if made.status == 200:
                made.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(made.status)
            self.send_header("Content-Type", "application/x-protobuf")
            reply = ExportTraceServiceResponse().SerializeToString()
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
