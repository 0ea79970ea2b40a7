"""A node as tools see it: plain gRPC calls, health checks, reflection."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from collab.assembly import build_cluster
from collab.codec.pb import control_pb2 as pb
from collab.codec.verbs import VERBS
from collab.coordinator.deploy import deploy
from tests.integration.ensembles import twins
from tests.integration.models import Reference
from tests.integration.processes import NodeProcess, collab, running

DEADLINE_S = 10.0
HEALTH = health_pb2.HealthCheckResponse


@pytest.fixture
def channel(trio: list[NodeProcess]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(trio[0].place) as opened:
        yield opened


def call(channel: grpc.Channel, verb: str, body: bytes, service: str = "collab.v1.Control") -> bytes:
    """Bytes in, bytes out."""
    reply: bytes = channel.unary_unary(f"/{service}/{verb}")(body, timeout=DEADLINE_S)
    return reply


def health(channel: grpc.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S).status
    return status


def test_a_tool_can_ask_what_a_node_is(channel: grpc.Channel, trio: list[NodeProcess]):
    reply = pb.DescribeReply.FromString(call(channel, "Describe", b""))
    assert reply.name == "a"
    assert list(reply.endpoints) == [trio[0].endpoint]
    assert reply.state == "serving"
    assert reply.runtime_class.backend == "litert"
    assert "grpc" in reply.transports
    assert "raw" in reply.codecs
    status = pb.StatusReply.FromString(call(channel, "Status", b""))
    assert status.resident_bytes > 1 << 20
    probe = pb.ProbeRequest(body=bytes(1000), reply_bytes=500)
    probed = pb.ProbeReply.FromString(call(channel, "Probe", probe.SerializeToString()))
    assert (probed.received_bytes, len(probed.body)) == (1000, 500)


def test_health_is_told_by_service(channel: grpc.Channel):
    for service in ("", "collab.v1.Control", "collab.v1.Link"):
        assert health(channel, service) == HEALTH.SERVING
    with pytest.raises(grpc.RpcError) as error:
        health(channel, "collab.v1.Nothing")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_watcher_on_the_device_asks_by_the_command(trio: list[NodeProcess]):
    done = collab("health", "--address", trio[0].place, "--insecure", "--json")
    assert done.json == {"address": trio[0].place, "state": "serving"}


def test_reflection_lists_the_services_and_their_methods(channel: grpc.Channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert services >= {"collab.v1.Control", "collab.v1.Link", "grpc.health.v1.Health"}
    file = database.FindFileContainingSymbol("collab.v1.Control")
    (control,) = (service for service in file.service if service.name == "Control")
    assert {method.name for method in control.method} == set(VERBS)


@pytest.mark.parametrize(
    ("verb", "body", "code", "words"),
    [
        ("Describe", b"\xff\xff\xff", "INVALID_ARGUMENT", "Describe: the request cannot be read"),
        ("Reserve", b"\x0a\x03{[}", "INVALID_ARGUMENT", "plan"),
        ("BlobStatus", pb.BlobStatusRequest(sha256=["../x"]), "INVALID_ARGUMENT", "SHA-256"),
        (
            "PutBlob",
            pb.PutBlobRequest(sha256="0" * 64, total_bytes=9, offset=5),
            "INVALID_ARGUMENT",
            "0 bytes",
        ),
        ("PutBlob", pb.PutBlobRequest(sha256="0" * 64, total_bytes=1, data=b"x"), "DATA_LOSS", "digest"),
        ("PutBlob", pb.PutBlobRequest(sha256="0" * 64, total_bytes=1 << 50), "RESOURCE_EXHAUSTED", "limit"),
        ("Probe", pb.ProbeRequest(reply_bytes=1 << 40), "RESOURCE_EXHAUSTED", "Probe"),
        ("Profile", pb.ProfileRequest(sha256="0" * 64, runs=0), "RESOURCE_EXHAUSTED", "runs"),
        ("Profile", pb.ProfileRequest(sha256="0" * 64, runs=1), "FAILED_PRECONDITION", "not in the store"),
        ("Prepare", pb.PrepareRequest(plan="p", epoch=1), "ABORTED", "does not hold epoch 1"),
        ("Commit", pb.EpochRequest(plan="p", epoch=1), "ABORTED", "does not hold epoch 1"),
        ("Retire", pb.EpochRequest(plan="p", epoch=1), "NOT_FOUND", "not loaded"),
        ("Lease", pb.LeaseRequest(plan="p", epoch=1, want=1), "NOT_FOUND", "not loaded"),
        ("Nonsense", b"", "UNIMPLEMENTED", ""),
    ],
)
def test_a_wrong_call_gets_a_clear_status(channel: grpc.Channel, verb: str, body, code: str, words: str):
    data = body if isinstance(body, bytes) else body.SerializeToString()
    with pytest.raises(grpc.RpcError) as error:
        call(channel, verb, data)
    assert error.value.code() is getattr(grpc.StatusCode, code), error.value
    assert words in (error.value.details() or "")
    assert pb.DescribeReply.FromString(call(channel, "Describe", b"")).state == "serving", "the node goes on"


def test_another_service_is_not_there(channel: grpc.Channel):
    with pytest.raises(grpc.RpcError) as error:
        call(channel, "Describe", b"", service="collab.v2.Control")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_draining_node_says_so_to_health_checks(tmp_path: Path, digits: Reference):
    """A join that waits for a stopped member keeps the drain going while we look."""
    with running([NodeProcess(name, tmp_path) for name in "abc"]) as nodes:
        plan, blobs = twins(digits, "ab", "c", nodes)
        async with build_cluster() as cluster:
            await deploy(cluster, plan, blobs)
            client = await cluster.open(plan, 4)
            with grpc.insecure_channel(nodes[2].place) as channel:
                assert await asyncio.to_thread(health, channel) == HEALTH.SERVING
                nodes[1].send(signal.SIGSTOP)
                request = asyncio.ensure_future(client.run(digits.requests[0], 30.0))
                while not any(p.in_flight for p in (await cluster.control("c").status()).plans):
                    pass
                stub: Any = health_pb2_grpc.HealthStub(channel)
                watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
                assert (await asyncio.to_thread(next, watch)).status == HEALTH.SERVING
                nodes[2].send(signal.SIGTERM)
                assert (await asyncio.to_thread(next, watch)).status == HEALTH.NOT_SERVING
                watch.cancel()
                described = await asyncio.to_thread(call, channel, "Describe", b"")
                assert pb.DescribeReply.FromString(described).state == "draining"
                nodes[1].send(signal.SIGCONT)
                assert digits.same(0, (await request).outputs), "what was under way is finished"
        assert await asyncio.to_thread(nodes[2].wait) == 0
