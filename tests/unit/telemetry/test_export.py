"""Spans go to a collector from a thread, and what cannot go is counted."""

from __future__ import annotations

import sys
import threading

import pytest

from collab.errors import ConfigError, UsageError
from collab.telemetry import export
from collab.telemetry.export import Tracer, traces_url
from collab.telemetry.spans import Moment, Span
from tests.collector import attributes, collector


def span(number: int = 1, **more: object) -> Span:
    return Span("work", b"t" * 16, number.to_bytes(8, "big"), b"p" * 8, 10, 30, **more)


def test_a_collector_reads_every_field():
    with collector() as taken:
        tracer = Tracer(taken.url, {"service.instance.id": "a"})
        moment = Moment("compute", 20, {"collab.duration_us": 5})
        about = {"collab.stage": "s0", "collab.epoch": 3, "collab.estimated": True}
        tracer.record([span(attributes=about, moments=(moment,), kind="server", error="no")])
        tracer.close()
        (got,) = taken.spans
    assert (got.name, got.trace_id, got.parent_span_id) == ("work", b"t" * 16, b"p" * 8)
    assert (got.start_time_unix_nano, got.end_time_unix_nano, got.kind) == (10, 30, got.SPAN_KIND_SERVER)
    assert attributes(got) == about
    assert (got.events[0].name, got.events[0].time_unix_nano) == ("compute", 20)
    assert (got.status.code, got.status.message) == (got.status.STATUS_CODE_ERROR, "no")
    assert taken.makers[got.span_id] == {"service.name": "collab", "service.instance.id": "a"}
    assert tracer.dropped == 0


def test_a_collector_that_refuses_costs_spans_and_nothing_else(caplog):
    with collector() as taken:
        taken.status = 400
        tracer = Tracer(taken.url, {})
        tracer.record([span(1), span(2)])
        tracer.close()
    assert tracer.dropped == 2
    assert "2 spans are dropped" in caplog.text


def test_spans_that_find_no_room_are_dropped_at_once(monkeypatch):
    monkeypatch.setattr(export, "MAX_QUEUED", 3)
    go, sending = threading.Event(), threading.Event()

    def slow(self: object, batch: list[Span]) -> bool:
        sending.set()
        return go.wait(10)

    monkeypatch.setattr(export, "MAX_BATCH", 1)
    monkeypatch.setattr(export._Sender, "send", slow)
    tracer = Tracer("http://127.0.0.1:9", {})
    tracer.record([span(0)])
    assert sending.wait(10)
    tracer.record(span(number) for number in range(1, 10))
    assert tracer.dropped == 6
    go.set()
    tracer.close()


def test_an_address_without_a_path_takes_that_of_the_protocol():
    assert traces_url("http://h:4318") == traces_url("http://h:4318/") == "http://h:4318/v1/traces"
    assert traces_url("https://h/otlp/v1/traces") == "https://h/otlp/v1/traces"
    for wrong in ("h:4318", "ftp://h", "http://"):
        with pytest.raises(UsageError, match="--otlp"):
            traces_url(wrong)


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'collab\[tracing\]'"):
        Tracer("http://127.0.0.1:9", {})
