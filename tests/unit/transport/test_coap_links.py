"""Links over CoAP on real sockets: bad networks, strangers, half-open peers, foreign clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator

import aiocoap
import pytest

from collab.errors import LinkLost, PeerUnreachable, ProtocolError, Refused
from collab.transport.aio import timeout
from collab.transport.coap import tcp, udp
from collab.transport.coap.handshake import Dial
from collab.transport.coap.message import CON, GET, NON, POST, RST, URI_PATH, Message, parse
from collab.transport.coap.stream import head, message
from collab.transport.coap.tcp import CoapTcpTransport
from collab.transport.coap.udp import CoapUdpTransport
from tests.coap_identities import PlainAuthority

WITHIN_S = 30.0


class Relay(asyncio.DatagramProtocol):
    """A bad network between one dialler and a listener."""

    def __init__(self, to, delay_s=0.0, loss=0.0, spread_s=0.0, duplicate=0.0):
        self.to = to
        self.delay_s, self.loss, self.spread_s, self.duplicate = delay_s, loss, spread_s, duplicate
        self.seed = random.randrange(2**32)
        print("seed", self.seed)  # noqa: T201
        self.chance = random.Random(self.seed)
        self.dialler = None
        self.timers: set[asyncio.TimerHandle] = set()

    def connection_made(self, transport):
        self.transport = transport
        sock = transport.get_extra_info("socket")
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        self.address = f"coap+udp://127.0.0.1:{transport.get_extra_info('sockname')[1]}"

    def datagram_received(self, data, addr):
        if addr != self.to:
            self.dialler = addr
        there = self.dialler if addr == self.to else self.to
        for _ in range(1 + (self.chance.random() < self.duplicate)):
            if self.chance.random() >= self.loss and there is not None:
                pause = self.delay_s + self.chance.random() * self.spread_s
                asyncio.get_running_loop().call_later(pause, self.send, data, there)

    def send(self, data, there):
        if not self.transport.is_closing():
            self.transport.sendto(data, there)


@contextlib.asynccontextmanager
async def echoing(transport, address="coap+udp://127.0.0.1:0") -> AsyncIterator[str]:
    async def echo(connection):
        with contextlib.suppress(LinkLost):
            while True:
                await connection.send([await connection.receive()])

    listener = await transport.listen(address, echo)
    try:
        async with timeout(WITHIN_S):
            yield listener.address
    finally:
        await listener.close()


@contextlib.asynccontextmanager
async def relayed(address, **network) -> AsyncIterator[Relay]:
    host, port = address.removeprefix("coap+udp://").split(":")
    transport, relay = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Relay((host, int(port)), **network), local_addr=("127.0.0.1", 0)
    )
    try:
        yield relay
    finally:
        transport.close()
        await asyncio.sleep(0)


async def echoes(connection, frames):
    async def send():
        for frame in frames:
            await connection.send([frame])

    async def receive():
        return [bytes(await connection.receive()) for _ in frames]

    _, got = await asyncio.gather(send(), receive())
    assert got == frames


@pytest.mark.parametrize(
    "network",
    [
        {"delay_s": 0.01, "loss": 0.001},
        {"delay_s": 0.005, "loss": 0.05},
        {"delay_s": 0.002, "spread_s": 0.01, "duplicate": 0.1},
        {"loss": 0.02, "spread_s": 0.005, "duplicate": 0.05},
    ],
)
async def test_frames_cross_a_bad_network(network):
    async with echoing(CoapUdpTransport()) as address, relayed(address, **network) as relay:
        connection = await CoapUdpTransport().dial(relay.address, WITHIN_S)
        await echoes(connection, [os.urandom(size) for size in (0, 1, 1024, 1025, 200_000, 262_144, 5)])
        await connection.close()


async def test_strangers_neither_end_nor_enter_a_connection():
    chance = random.Random(seed := random.randrange(2**32))
    print("seed", seed)  # noqa: T201
    async with echoing(CoapUdpTransport()) as address:
        connection = await CoapUdpTransport().dial(address, WITHIN_S)
        place = ("127.0.0.1", int(address.rpartition(":")[2]))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            for _ in range(2000):
                junk = bytearray(chance.randbytes(chance.randrange(80)))
                if chance.random() < 0.7:
                    junk[:12] = bytes(
                        (0x58, chance.choice((1, 2, 4, 0x44, 0x5F, 0x84, 0x88)))
                    ) + chance.randbytes(10)
                stranger.sendto(junk, place)
            await echoes(connection, [b"still", bytes(50_000)])
        await connection.close()


async def test_the_name_of_a_connection_is_of_no_use_from_elsewhere():
    async with echoing(CoapUdpTransport()) as address:
        connection = await CoapUdpTransport().dial(address, WITHIN_S)
        assert isinstance(connection, udp._UdpConnection)
        session = connection.session
        place = ("127.0.0.1", int(address.rpartition(":")[2]))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.bind(("127.0.0.1", 0))
            stranger.sendto(session.peer.request(4, 9), place)
            answer = parse(await asyncio.get_running_loop().sock_recv(stranger, 100))
        assert answer.code == 0x84
        await echoes(connection, [b"still"])
        await connection.close()


async def test_a_foreign_client_is_told_what_is_not_there():
    async with echoing(CoapUdpTransport()) as address:
        place = ("127.0.0.1", int(address.rpartition(":")[2]))
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(place)

            async def ask(sent):
                client.send(sent.encode())
                return parse(await loop.sock_recv(client, 2000))

            core = ((URI_PATH, b".well-known"), (URI_PATH, b"core"))
            link = ((URI_PATH, b"collab"), (URI_PATH, b"link"))
            assert (await ask(Message(CON, GET, 1, b"t", core))).code == 0x84
            assert (await ask(Message(CON, GET, 2, b"t", link))).code == 0x85
            assert (await ask(Message(CON, POST, 3, b"t", link, b"junk"))).code == 0x80
            assert (await ask(Message(NON, GET, 4, b"t", core))).type == NON
            assert (await ask(Message(CON, 0, 5))).type == RST


async def test_half_open_connections_make_room_for_real_ones(monkeypatch):
    monkeypatch.setattr(udp, "MAX_HALF_OPEN", 8)
    async with echoing(CoapUdpTransport()) as address:
        host, port = "127.0.0.1", int(address.rpartition(":")[2])
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sock.setblocking(False)
                sock.connect((host, port))
                dial = Dial(os.urandom, random.Random(1), 0.0)
                while not dial.done:
                    for datagram in dial.datagrams(dial.deadline()):
                        sock.send(datagram)
                    dial.receive(parse(await loop.sock_recv(sock, 2000)), 0.0)
            connection = await CoapUdpTransport().dial(address, WITHIN_S)
            await echoes(connection, [b"real"])
            await connection.close()


async def test_a_dead_peer_is_noticed_soon_when_the_network_says_so():
    async with echoing(CoapUdpTransport()) as address, relayed(address) as relay:
        connection = await CoapUdpTransport().dial(relay.address, WITHIN_S)
        await echoes(connection, [b"x"])
        relay.transport.abort()
        await asyncio.sleep(0)
        await connection.send([b"anybody?"])
        async with timeout(5):
            with pytest.raises(LinkLost, match="nobody"):
                await connection.receive()
        await connection.close()


# --- over TCP ----------------------------------------------------------------


async def test_a_foreign_client_over_tcp_reads_the_list_of_resources():
    async with echoing(CoapTcpTransport(), "coap+tcp://127.0.0.1:0") as address:
        context = await aiocoap.Context.create_client_context(transports=["tcpclient"])
        try:
            host = address.removeprefix("coap+tcp://")
            request = aiocoap.Message(code=aiocoap.GET, uri=f"coap+tcp://{host}/.well-known/core")
            response = await context.request(request).response
            assert response.payload == b'</collab/link>;rt="collab.link"'
            request = aiocoap.Message(code=aiocoap.GET, uri=f"coap+tcp://{host}/nothing")
            assert (await context.request(request).response).code == aiocoap.NOT_FOUND
        finally:
            await context.shutdown()


@pytest.mark.parametrize("secured", [False, True])
async def test_connections_that_never_open_do_not_keep_others_out(monkeypatch, secured):
    monkeypatch.setattr(tcp, "MAX_OPENING", 16)
    transport = CoapTcpTransport(PlainAuthority().security("near") if secured else None)
    async with echoing(transport, f"{transport.scheme}://127.0.0.1:0") as address:
        port = int(address.rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            connection = await transport.dial(address, WITHIN_S)
            await echoes(connection, [b"real", bytes(1 << 20)])
            await connection.close()


async def test_who_opens_nothing_in_time_is_ended(monkeypatch):
    monkeypatch.setattr(tcp, "OPENING_S", 0.05)
    async with echoing(CoapTcpTransport(), "coap+tcp://127.0.0.1:0") as address:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()


async def test_junk_over_tcp_ends_its_own_connection_only():
    chance = random.Random(seed := random.randrange(2**32))
    print("seed", seed)  # noqa: T201
    async with echoing(CoapTcpTransport(), "coap+tcp://127.0.0.1:0") as address:
        connection = await CoapTcpTransport().dial(address, WITHIN_S)
        for opened in [False, True] * 15:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
            if opened:
                link = ((URI_PATH, b"collab"), (URI_PATH, b"link"))
                writer.write(message(0xE1) + message(POST, b"\x01", link))
            writer.write(chance.randbytes(chance.randrange(1, 3000)))
            if writer.can_write_eof():
                writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        await echoes(connection, [b"still"])
        await connection.close()


async def test_what_is_no_frame_is_a_protocol_error_for_the_reader():
    caught: asyncio.Queue[BaseException] = asyncio.Queue()

    async def accept(connection):
        try:
            await connection.receive()
        except ProtocolError as error:
            caught.put_nowait(error)

    listener = await CoapTcpTransport().listen("coap+tcp://127.0.0.1:0", accept)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(listener.address.rpartition(":")[2]))
    link = ((URI_PATH, b"collab"), (URI_PATH, b"link"))
    writer.write(message(0xE1) + message(POST, b"\x01", link) + head(POST, b"", 1 << 30))
    async with timeout(WITHIN_S):
        assert "over" in str(await caught.get())
        with contextlib.suppress(ConnectionError):
            await reader.read()
    writer.close()
    await listener.close()


async def test_a_server_that_is_no_node_is_named_so():
    async def answer(reader, writer):
        writer.write(message(0xE1) + message(0x84, b"\x01"))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(PeerUnreachable, match=r"4\.04"):
        await CoapTcpTransport().dial(f"coap+tcp://127.0.0.1:{port}", WITHIN_S)
    server.close()
    await server.wait_closed()


async def test_both_ends_of_a_secured_link_know_each_other():
    authority = PlainAuthority()
    near, far = CoapTcpTransport(authority.security("near")), CoapTcpTransport(authority.security("far"))
    met: asyncio.Queue = asyncio.Queue()

    async def accept(connection):
        met.put_nowait(connection.principal)
        with contextlib.suppress(LinkLost):
            await connection.receive()

    listener = await far.listen("coaps+tcp://127.0.0.1:0", accept)
    async with timeout(WITHIN_S):
        connection = await near.dial(listener.address, WITHIN_S)
        assert str(connection.principal) == "far.node.test"
        assert str(await met.get()) == "near.node.test"
        await connection.close()
    await listener.close()


@pytest.mark.parametrize("whose", ["dialler", "listener"])
@pytest.mark.parametrize("why", ["another authority", "revoked"])
async def test_who_is_not_of_the_cluster_is_refused(whose, why, caplog):
    authority = PlainAuthority()
    near, far = authority.security("near"), authority.security("far")
    if why == "revoked":
        (far if whose == "dialler" else near).revoked.add("near" if whose == "dialler" else "far")
    elif whose == "dialler":
        near = PlainAuthority().security("near")
    else:
        far = PlainAuthority().security("far")
    served = []

    async def accept(connection):
        served.append(connection)

    listener = await CoapTcpTransport(far).listen("coaps+tcp://127.0.0.1:0", accept)
    async with timeout(WITHIN_S):
        with pytest.raises((Refused, PeerUnreachable)):
            await CoapTcpTransport(near).dial(listener.address, WITHIN_S)
    await listener.close()
    assert not served
