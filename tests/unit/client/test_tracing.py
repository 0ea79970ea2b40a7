"""The spans that a requester makes of what it knows."""

from __future__ import annotations

from collab.client.actions import Tried
from collab.client.tracing import Traced, hop_id, request_spans
from collab.core.ids import Attempt, Epoch, NodeName, PlanName, RequestId
from collab.core.token import Fault, Hop, Key
from collab.errors import StageFailed
from collab.node.actions import Computed, Work
from collab.node.tracing import run_spans
from collab.telemetry.context import TraceContext
from tests.unit.functions import chain

OF = TraceContext(b"t" * 16, b"s" * 8)
PARENT = TraceContext(b"t" * 16, b"p" * 8)
ROUTE = (NodeName("a"), NodeName("b"))
HOPS = (Hop(0, NodeName("a"), 100, 200, 300, 400), Hop(1, NodeName("b"), 10, 20, 30, 40))
REQUEST = RequestId(b"r" * 16)
NOW_NS = 10**18


def traced(**more: object) -> Traced:
    plan, _ = chain("a+c", "b")
    tried = (
        Tried(Attempt(0), 1_000, 2_000, (NodeName("c"), NodeName("b")), "node_lost: c is gone"),
        Tried(Attempt(1), 2_000, 6_000, ROUTE),
    )
    return Traced(OF, PARENT, plan, 3, REQUEST, 1_000, 6_100, tried, HOPS, Attempt(1), **more)


def test_one_request_is_one_tree():
    spans = list(request_spans(traced(), NOW_NS))
    names = {span.name: span for span in spans}
    assert len({span.span_id for span in spans}) == len(spans)
    assert {span.trace_id for span in spans} == {OF.trace_id}
    request, first, second = names["request p"], names["attempt 0"], names["attempt 1"]
    assert (request.span_id, request.parent_id) == (OF.span_id, PARENT.span_id)
    assert first.parent_id == second.parent_id == request.span_id
    assert (first.error, second.error) == ("node_lost: c is gone", None)
    assert (request.end_ns, request.end_ns - request.start_ns) == (NOW_NS, 5_100_000)
    below = [span for span in spans if span.parent_id == second.span_id]
    assert [span.name for span in below] == [
        *("wire to a (estimated)", "stage s0 on a", "wire to b (estimated)", "stage s1 on b"),
        "wire to the requester (estimated)",
    ]
    assert not [span for span in spans if span.parent_id == first.span_id]


def test_what_lies_below_an_attempt_fills_it_without_gaps():
    spans = list(request_spans(traced(), NOW_NS))
    second = next(span for span in spans if span.name == "attempt 1")
    at_ns = second.start_ns
    for span in [span for span in spans if span.parent_id == second.span_id]:
        assert span.start_ns == at_ns
        at_ns = span.end_ns
    assert 0 <= second.end_ns - at_ns < 3, "shares are whole nanoseconds"
    stage = next(span for span in spans if span.name == "stage s0 on a")
    starts = [(moment.name, (moment.at_ns - stage.start_ns) // 1000) for moment in stage.moments]
    assert starts == [("queue", 0), ("decode", 100), ("compute", 300), ("encode", 600)]


def test_a_request_that_failed_says_why():
    spans = list(request_spans(traced(error="deadline_exceeded: late"), NOW_NS))
    assert spans[0].error == "deadline_exceeded: late"


def test_a_nodes_span_lies_below_the_requesters_span_of_the_hop():
    plan, _ = chain("a+c", "b")
    work = Work(Key(PlanName("p"), Epoch(3), REQUEST, Attempt(1)), 1)
    trace = OF.traceparent.encode()
    done = Computed({}, frozenset(), HOPS[1])
    (span,) = run_spans(trace, work, done, plan, NodeName("b"), NOW_NS)
    hop = next(s for s in request_spans(traced(), NOW_NS) if s.name == "stage s1 on b")
    assert span.parent_id == hop.span_id == hop_id(OF, 1, 1)
    assert span.span_id != hop.span_id
    assert span.end_ns - span.start_ns == 100_000
    (failed,) = run_spans(trace, work, Fault(StageFailed.code, "no"), plan, NodeName("b"), NOW_NS)
    assert failed.error == f"{StageFailed.code}: no"


def test_a_node_makes_nothing_of_what_is_not_kept():
    plan, _ = chain("a", "b")
    work = Work(Key(PlanName("p"), Epoch(3), REQUEST, Attempt(1)), 1)
    done = Computed({}, frozenset(), HOPS[1])
    for trace in (b"", b"nonsense", OF._replace(sampled=False).traceparent.encode()):
        assert not list(run_spans(trace, work, done, plan, NodeName("b"), NOW_NS))
