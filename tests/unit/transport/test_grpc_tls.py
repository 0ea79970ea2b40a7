"""gRPC with certificates: the server is the one that was judged, and no other."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest

from collab.core.identity import parse_principal
from collab.errors import PeerUnreachable, Refused
from collab.transport import grpc as grpc_module
from collab.transport.base import Connection, Listener
from collab.transport.grpc import GrpcTransport
from tests.coap_identities import PlainAuthority
from tests.grpc_runtime import grpc_runtime

__all__ = ["grpc_runtime"]

WITHIN_S = 20.0


@pytest.fixture(scope="module")
def authority() -> PlainAuthority:
    return PlainAuthority()


@pytest.fixture
async def listener(authority: PlainAuthority) -> AsyncIterator[Listener]:
    async def accept(connection: Connection) -> None:
        await connection.receive()

    made = await GrpcTransport(security=authority.security("server")).listen("grpc://127.0.0.1:0", accept)
    yield made
    await made.close()


async def test_both_ends_know_each_other(authority, listener):
    connection = await GrpcTransport(security=authority.security("client")).dial(listener.address, WITHIN_S)
    assert connection.principal is not None
    assert connection.principal.name == "server"
    await connection.close()


async def test_a_server_with_another_certificate_than_the_one_judged_is_not_talked_to(
    authority, listener, monkeypatch
):
    """Somebody on the way hands the first handshake on to the real server and answers the second."""
    other = authority.security("other")
    judged = ssl.PEM_cert_to_DER_cert(other.pem().certificate.decode())
    name = parse_principal(str(authority.security("server").principal))

    async def deceived(*_):
        return grpc_module.Peer(name, judged)

    monkeypatch.setattr(grpc_module, "_who_is_there", deceived)
    with pytest.raises(PeerUnreachable):
        await GrpcTransport(security=authority.security("client")).dial(listener.address, WITHIN_S)


async def test_a_revoked_server_is_refused_by_the_dialler(authority, listener):
    security = authority.security("client")
    security.revoked.add("server")
    with pytest.raises(Refused, match="revoked"):
        await asyncio.wait_for(GrpcTransport(security=security).dial(listener.address, WITHIN_S), WITHIN_S)
