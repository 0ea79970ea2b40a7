from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from collab.errors import PeerUnreachable, Refused
from collab.transport.base import Security
from collab.transport.grpc import GrpcTransport
from collab.transport.health import serves
from tests.coap_identities import PlainAuthority
from tests.grpc_runtime import grpc_runtime

__all__ = ["grpc_runtime"]

WITHIN_S = 20.0
STATUS = health_pb2.HealthCheckResponse

Set = Callable[[int], Awaitable[None]]


@asynccontextmanager
async def node(security: Security | None, servicer: Any = None) -> AsyncIterator[tuple[str, Set]]:
    """A server with the health service; its address, and what changes its status."""
    kept = servicer or health.aio.HealthServicer()

    def configure(server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(kept, server)

    async def accept(_: object) -> None:
        raise AssertionError("a check opens no link")

    listener = await GrpcTransport(configure, security).listen("grpc://127.0.0.1:0", accept)
    try:
        yield listener.address, lambda status: kept.set(health.OVERALL_HEALTH, status)
    finally:
        await listener.close()


async def test_a_node_serves_until_it_drains():
    security = PlainAuthority().security("pi-1")
    async with node(security) as (address, become):
        await become(STATUS.SERVING)
        assert await serves(address, security, WITHIN_S)
        await become(STATUS.NOT_SERVING)
        assert not await serves(address, security, WITHIN_S)


async def test_a_node_without_certificates_is_asked_without():
    async with node(None) as (address, become):
        await become(STATUS.SERVING)
        assert await serves(address, None, WITHIN_S)


async def test_another_node_at_the_address_is_not_this_one():
    authority = PlainAuthority()
    async with node(authority.security("pi-2")) as (address, _):
        with pytest.raises(Refused, match=r"pi-2.* and not .*pi-1"):
            await serves(address, authority.security("pi-1"), WITHIN_S)


async def test_a_node_of_another_cluster_is_refused():
    async with node(PlainAuthority().security("pi-1")) as (address, _):
        with pytest.raises(Refused):
            await serves(address, PlainAuthority().security("pi-1"), WITHIN_S)


async def test_a_node_that_hangs_gives_no_answer():
    class Hanging(health_pb2_grpc.HealthServicer):
        async def Check(self, request: object, context: object) -> None:
            await asyncio.Event().wait()

    async with node(None, Hanging()) as (address, _):
        with pytest.raises(PeerUnreachable, match="it hangs"):
            await serves(address, None, 0.5)
