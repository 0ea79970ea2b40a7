"""W3C Trace Context: what is read, what is ignored, and who is sampled."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.telemetry.context import TraceContext, begin, is_sampled, parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

ids = st.binary(min_size=16, max_size=16).filter(any), st.binary(min_size=8, max_size=8).filter(any)


@given(*ids, st.booleans())
def test_what_is_written_is_read_back(trace_id, span_id, sampled):
    context = TraceContext(trace_id, span_id, sampled)
    assert parse_traceparent(context.traceparent) == context
    assert parse_traceparent(context.traceparent.encode()) == context


def test_the_example_of_the_specification():
    context = parse_traceparent(f"00-{TRACE}-{SPAN}-01")
    assert context == (bytes.fromhex(TRACE), bytes.fromhex(SPAN), True)


@pytest.mark.parametrize("flags", ["01", "03", "ff"])
def test_other_flags_do_not_disturb(flags):
    context = parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}")
    assert context is not None
    assert context.sampled


def test_a_later_version_may_say_more():
    context = parse_traceparent(f"cc-{TRACE}-{SPAN}-00-what-the-future-will-be-like")
    assert context is not None
    assert not context.sampled


@pytest.mark.parametrize(
    "text",
    [
        *("", "00", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN}-01-more"),
        *(f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01"),
        *(f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01\r\nx: y", f"cc-{TRACE}-{SPAN}-01x"),
        *(b"\xff\x00", b"00-" + b"\xe9" * 32 + b"-b7ad6b7169203331-01"),
    ],
)
def test_what_is_no_traceparent_is_ignored(text):
    assert parse_traceparent(text) is None


@given(st.binary(min_size=16, max_size=16), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_what_a_smaller_one_does(trace_id, one, other):
    assert is_sampled(trace_id, min(one, other)) <= is_sampled(trace_id, max(one, other))
    assert is_sampled(trace_id, 1.0)
    assert not is_sampled(trace_id, 0.0)


def test_a_share_is_that_share():
    kept = sum(is_sampled(n.to_bytes(16, "big") + b"", 0.25) for n in range(0, 1 << 64, 1 << 54))
    assert kept == 256


def test_a_child_is_kept_as_its_parent_is():
    for sampled in (True, False):
        parent = TraceContext(b"t" * 16, b"s" * 8, sampled)
        child = begin(parent, 0.0 if sampled else 1.0, os.urandom)
        assert (child.trace_id, child.sampled) == (parent.trace_id, sampled)
        assert child.span_id != parent.span_id


def test_derived_ids_differ_by_place_and_are_the_same_everywhere():
    context = TraceContext(b"t" * 16, b"s" * 8)
    places = [
        ("hop", 0, 1),
        ("hop", 1, 0),
        ("hop", 1, 1),
        ("run", 1, 1, "a"),
        ("wire", 0, -1),
        ("attempt", 0),
    ]
    assert len({context.derived(*place) for place in places}) == len(places)
    assert context.derived("hop", 0, 1) == TraceContext(b"t" * 16, b"s" * 8, False).derived("hop", 0, 1)
