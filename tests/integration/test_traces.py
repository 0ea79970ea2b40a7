"""One request is one trace, over every transport."""

from __future__ import annotations

import asyncio

import msgspec

from collab.assembly import build_cluster, make_tracer
from collab.coordinator.deploy import deploy
from collab.core.ids import NodeName
from collab.core.plan import NodeRef
from collab.telemetry.context import TraceContext
from tests.collector import attributes, collector
from tests.integration.processes import NodeProcess, running
from tests.mosquitto import mosquitto

CALLER = TraceContext(b"callers trace id", b"its span")


async def test_a_request_over_three_nodes_and_transports_is_one_complete_trace(digits, tmp_path):
    with mosquitto() as broker, collector() as taken:
        listen = f"127.0.0.1:0,coap+tcp://127.0.0.1:0,mqtt://127.0.0.1:{broker.port}"
        nodes = [NodeProcess(n, tmp_path, "--listen", listen, "--otlp", taken.url) for n in "abc"]
        with running(nodes):
            plan, blobs = digits.chain([6, 12], list("abc"), {n.name: n.endpoint for n in nodes})
            refs = (NodeRef(name=NodeName(n.name), endpoints=tuple(n.events[0]["endpoints"])) for n in nodes)
            kinds = zip(plan.edges, ("grpc", "mqtt", "coap+tcp", "grpc"), strict=True)
            edges = (msgspec.structs.replace(edge, transport=kind) for edge, kind in kinds)
            plan = plan.replace(nodes=tuple(refs), edges=tuple(edges))
            async with build_cluster() as cluster:
                await deploy(cluster, plan, blobs)
                cluster.tracer = await asyncio.to_thread(make_tracer, taken.url, {})
                client = await cluster.open(plan)
                await client.run(digits.requests[0], trace=CALLER)
                untraced = CALLER._replace(sampled=False, trace_id=b"not kept".ljust(16))
                await client.run(digits.requests[1], trace=untraced)
                await asyncio.to_thread(cluster.tracer.close)
        spans = list(taken.spans)
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans) == 1 + 1 + 4 + 3 + 3
    assert {span.trace_id for span in spans} == {CALLER.trace_id}
    (request,) = (span for span in spans if span.name == f"request {plan.name}")
    assert request.parent_span_id == CALLER.span_id
    (attempt,) = (span for span in spans if span.parent_span_id == request.span_id)
    assert attempt.name == "attempt 0"
    hops = [span for span in spans if span.parent_span_id == attempt.span_id]
    assert len([span for span in hops if attributes(span).get("collab.estimated")]) == 4
    for node, stage in zip("abc", plan.stages, strict=True):
        (hop,) = (span for span in hops if span.name == f"stage {stage.id} on {node}")
        assert [event.name for event in hop.events] == ["queue", "decode", "compute", "encode"]
        (run,) = (span for span in spans if span.parent_span_id == hop.span_id)
        assert taken.makers[run.span_id]["service.instance.id"] == node
        assert attributes(run)["collab.compute_us"] == attributes(hop)["collab.compute_us"] > 0
