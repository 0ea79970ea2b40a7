"""Asking a node's gRPC health service (grpc.health.v1) whether it takes requests."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc.aio

from collab.errors import PeerUnreachable, Refused
from collab.transport.aio import timeout
from collab.transport.base import Security
from collab.transport.grpc import open_channel

_CHECK: Final = "/grpc.health.v1.Health/Check"
_SERVING: Final = b"\x08\x01"
"""A reply whose only field, the status, is SERVING; so few bytes need no protobuf library, which takes
longer to import than the question."""


async def serves(address: str, security: Security | None, timeout_s: float) -> bool:
    """Whether the node at an address takes requests; one that drains does not.

    With an identity, the node there has to be of the same: raises `Refused` for another.
    Raises `PeerUnreachable` if nothing answers in time, a node that hangs included.
    """
    try:
        async with timeout(timeout_s):
            return await _check(address, security, timeout_s)
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise PeerUnreachable(f"{address}: it took the connection but no answer came: it hangs") from error
    except grpc.aio.AioRpcError as error:
        raise PeerUnreachable(f"{address}: the health check failed: {error.details()}") from error


async def _check(address: str, security: Security | None, timeout_s: float) -> bool:
    channel, peer = await open_channel(address, security, timeout_s)
    try:
        if security is not None and peer.principal != security.principal:
            raise Refused(f"{address}: that is {peer.principal} and not {security.principal}")
        check: Any = channel.unary_unary(_CHECK)
        reply: bytes = await check(b"")
        return reply == _SERVING
    finally:
        await channel.close(None)
