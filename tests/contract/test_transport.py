"""What every transport promises (`collab.transport.base`); a new one joins by a line in `NETWORKS`."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest

from collab.errors import LimitExceeded, LinkLost, PeerUnreachable, ProtocolError, UsageError
from collab.link.secure import secure
from collab.transport.aio import timeout
from collab.transport.base import Accept, Connection, Listener, Transport
from collab.transport.grpc import GrpcTransport
from collab.transport.inproc import InprocTransport
from collab.transport.mqtt.transport import MqttTransport
from tests.coap_identities import PlainAuthority
from tests.mosquitto import mosquitto, mosquitto_tls

WITHIN_S = 20.0
"""Deadline of everything that is awaited here; what must be fast has a limit of its own."""


@dataclass(frozen=True)
class Network:
    """A transport and places in its network."""

    transport: Transport
    free: str
    """Address to listen at that takes a free place."""
    nobody: str
    """Address at which nobody listens."""
    bad: tuple[str, ...] = ("",)
    """Addresses that cannot be parsed."""
    over_tcp: str = ""
    """Address of a TCP port, with ``{port}`` in it, where a dialled peer may be half-open."""
    proves: bool = False
    """Whether the ends prove who they are."""
    bulk_bytes: int = 64 << 20
    """Size of the large transfer."""


@asynccontextmanager
async def inproc() -> AsyncIterator[Network]:
    yield Network(InprocTransport(), "inproc://0", "inproc://nobody", bad=("inproc://",))


@asynccontextmanager
async def grpc() -> AsyncIterator[Network]:
    yield Network(
        GrpcTransport(),
        "grpc://127.0.0.1:0",
        f"grpc://127.0.0.1:{unused_port()}",
        bad=(
            "grpc://",
            "grpc://127.0.0.1",
            "grpc://127.0.0.1:",
            "127.0.0.1:http",
            "grpc://h:65536",
            "grpc://::1:7",
        ),
        over_tcp="grpc://127.0.0.1:{port}",
    )


@asynccontextmanager
async def mqtt() -> AsyncIterator[Network]:
    with mosquitto(acl=False) as broker:
        at = f"mqtt://127.0.0.1:{broker.port}"
        yield _mqtt_network(MqttTransport("near"), at)


@asynccontextmanager
async def mqtts() -> AsyncIterator[Network]:
    with mosquitto_tls(acl=True) as (broker, certificates):
        transport = MqttTransport("near", certificates.security("near"), scheme="mqtts")
        yield _mqtt_network(transport, f"mqtts://127.0.0.1:{broker.port}")


def _mqtt_network(transport: MqttTransport, at: str) -> Network:
    scheme = transport.scheme
    return Network(
        transport,
        f"{at}/near/0",
        f"{at}/nobody",
        bad=(f"{scheme}://", f"{scheme}://h:65536/n", f"{scheme}://::1:7/n", f"{at}/n/p/q", f"{at}/n?qos=3"),
        over_tcp=f"{scheme}://127.0.0.1:{{port}}/peer",
    )


@asynccontextmanager
async def coap_udp() -> AsyncIterator[Network]:
    from collab.transport.coap.udp import CoapUdpTransport

    yield Network(
        CoapUdpTransport(),
        "coap+udp://127.0.0.1:0",
        f"coap+udp://127.0.0.1:{unused_port()}",
        bad=("coap+udp://", "coap+udp://127.0.0.1", "coap+udp://h:65536", "coap+udp://::1:7"),
        bulk_bytes=1 << 20,
    )


@asynccontextmanager
async def coap_tcp() -> AsyncIterator[Network]:
    from collab.transport.coap.tcp import CoapTcpTransport

    yield _coap_tcp_network(CoapTcpTransport())


@asynccontextmanager
async def coaps_tcp() -> AsyncIterator[Network]:
    from collab.transport.coap.tcp import CoapTcpTransport

    secured = CoapTcpTransport(PlainAuthority().security("near"))
    yield replace(_coap_tcp_network(secured), proves=True)


def _coap_tcp_network(transport: Transport) -> Network:
    scheme = transport.scheme
    return Network(
        transport,
        f"{scheme}://127.0.0.1:0",
        f"{scheme}://127.0.0.1:{unused_port()}",
        bad=(f"{scheme}://", f"{scheme}://127.0.0.1", f"{scheme}://h:65536", f"{scheme}://::1:7"),
        over_tcp=f"{scheme}://127.0.0.1:{{port}}",
    )


@asynccontextmanager
async def grpc_tls() -> AsyncIterator[Network]:
    async with grpc() as plain:
        secured = GrpcTransport(security=PlainAuthority().security("near"))
        yield replace(plain, transport=secured, proves=True)


class Inside(Transport):
    """Another transport with mutual TLS within its connections, as links have it."""

    def __init__(self, outer: Transport) -> None:
        self.scheme = outer.scheme
        self._outer = outer
        self._security = PlainAuthority().security("near")

    async def listen(self, address: str, accept: Accept) -> Listener:
        async def secured(connection: Connection) -> None:
            await accept(await secure(connection, self._security, server_side=True, timeout_s=WITHIN_S))

        return await self._outer.listen(address, secured)

    async def dial(self, address: str, timeout_s: float) -> Connection:
        connection = await self._outer.dial(address, timeout_s)
        return await secure(connection, self._security, server_side=False, timeout_s=timeout_s)


def inside(network: Callable[[], AbstractAsyncContextManager[Network]]) -> Any:
    @asynccontextmanager
    async def made() -> AsyncIterator[Network]:
        async with network() as plain:
            yield replace(plain, transport=Inside(plain.transport), proves=True)

    return made


NETWORKS: dict[str, Callable[[], AbstractAsyncContextManager[Network]]] = {
    "inproc": inproc,
    "inproc, TLS inside": inside(inproc),
    "grpc": grpc,
    "grpc, TLS": grpc_tls,
    "coap+udp, TLS inside": inside(coap_udp),
    "mqtt, TLS inside": inside(mqtt),
    "coap+udp": coap_udp,
    "coap+tcp": coap_tcp,
    "coaps+tcp": coaps_tcp,
    "mqtt": mqtt,
    "mqtts": mqtts,
}


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _until_the_end(connection: Connection) -> None:
    try:
        while True:
            await connection.receive()
    except LinkLost:
        pass


@pytest.fixture(params=NETWORKS)
async def network(request) -> AsyncIterator[Network]:
    async with NETWORKS[request.param]() as made:
        yield made


class Ends(NamedTuple):
    """Both ends of a connection; every test runs with either end as the first."""

    one: Connection
    other: Connection


@asynccontextmanager
async def meeting(network: Network) -> AsyncIterator[tuple[Connection, Connection, Listener]]:
    """A connection as its dialler and its listener see it."""
    accepted: asyncio.Queue[Connection] = asyncio.Queue()
    done = asyncio.Event()

    async def accept(connection: Connection) -> None:
        accepted.put_nowait(connection)
        await done.wait()

    listener = await network.transport.listen(network.free, accept)
    try:
        async with timeout(WITHIN_S):
            dialled = await network.transport.dial(listener.address, WITHIN_S)
            try:
                yield dialled, await accepted.get(), listener
            finally:
                done.set()
                await dialled.close()
    finally:
        await listener.close()


@pytest.fixture(params=["dialler first", "listener first"])
async def ends(request, network) -> AsyncIterator[Ends]:
    async with meeting(network) as (dialled, accepted, _):
        yield Ends(dialled, accepted) if request.param == "dialler first" else Ends(accepted, dialled)


async def finished(*work):
    """Results of concurrent work, within the deadline."""
    async with timeout(WITHIN_S):
        return await asyncio.gather(*work)


async def collect(connection: Connection) -> list[bytes]:
    """All frames until the connection ends."""
    frames = []
    try:
        while True:
            frames.append(bytes(await connection.receive()))
    except LinkLost:
        return frames


async def lost(operation) -> bool:
    """Whether an operation raises `LinkLost`, at once: within a tenth of every other limit here."""
    start = time.monotonic()
    with pytest.raises(LinkLost):
        async with timeout(WITHIN_S):
            await operation
    return time.monotonic() - start < WITHIN_S / 10


# --- frames ------------------------------------------------------------------


async def test_frames_arrive_whole_once_and_in_order(ends):
    frames = [
        bytes([i % 251]) * size for i, size in enumerate([0, 1, 2, 127, 128, 16383, 16384, 65536, 5] * 20)
    ]

    async def send_all():
        for frame in frames:
            await ends.one.send([frame])
        await ends.one.close()

    _, received = await finished(send_all(), collect(ends.other))
    assert received == frames


async def test_the_parts_of_a_frame_are_joined_and_may_be_reused(ends):
    scratch = bytearray(b"abc")
    await ends.one.send([b"", scratch, memoryview(b"-defg-")[1:5], b"", bytearray(b"h")])
    scratch[:] = b"xyz"
    await ends.one.send([])
    async with timeout(WITHIN_S):
        assert bytes(await ends.other.receive()) == b"abcdefgh"
        assert bytes(await ends.other.receive()) == b""


async def test_a_received_buffer_stays_as_it_is(ends):
    kept = []
    for i in range(10):
        await ends.one.send([bytes([i]) * 1000])
        async with timeout(WITHIN_S):
            kept.append(await ends.other.receive())
    assert [bytes(frame) for frame in kept] == [bytes([i]) * 1000 for i in range(10)]


async def test_both_directions_work_at_once(ends):
    async def talk(connection, name):
        for i in range(200):
            await connection.send([f"{name}{i}".encode()])

    async def listen(connection):
        return [bytes(await connection.receive()).decode() for _ in range(200)]

    _, _, at_one, at_other = await finished(
        talk(ends.one, "a"), talk(ends.other, "b"), listen(ends.one), listen(ends.other)
    )
    assert at_other == [f"a{i}" for i in range(200)]
    assert at_one == [f"b{i}" for i in range(200)]


async def test_a_large_transfer_in_frames_of_the_largest_size(network, ends):
    size = ends.one.max_frame_bytes
    count = -(-network.bulk_bytes // size)
    body = bytes(range(256)) * (size // 256)
    tail = size - 8 - len(body[8:])

    async def send_all():
        for i in range(count):
            await ends.one.send([i.to_bytes(8, "little"), body[8:], bytes(tail)])

    async def check_all():
        for i in range(count):
            frame = await ends.other.receive()
            assert len(frame) == size
            assert int.from_bytes(frame[:8], "little") == i
            assert frame[8 : len(body)] == body[8:]

    await finished(send_all(), check_all())


async def test_a_frame_over_the_limit_is_refused_and_the_connection_goes_on(ends):
    size = ends.one.max_frame_bytes
    with pytest.raises(LimitExceeded, match=str(size)):
        await ends.one.send([b"x" * size, b"y"])
    await ends.one.send([b"fits"])
    async with timeout(WITHIN_S):
        assert bytes(await ends.other.receive()) == b"fits"


async def test_a_sender_that_outruns_its_reader_is_blocked_until_the_reader_reads(network, ends):
    size = min(ends.one.max_frame_bytes, 1 << 20)
    count = (64 << 20) // size
    sent = 0

    async def send_all():
        nonlocal sent
        for _ in range(count):
            await ends.one.send([bytes(size)])
            sent += 1

    sending = asyncio.ensure_future(send_all())
    try:
        async with meeting(network) as (near, far, _):
            # Round trips over another connection are the clock: frames that can move have moved.
            still, before = 0, -1
            while still < 50:
                await near.send([b"?"])
                await far.send([await far.receive()])
                await near.receive()
                still = still + 1 if sent == before else 0
                before = sent
        in_flight = sent
        assert in_flight < count, "nothing held the sender back"
        async with timeout(WITHIN_S):
            for _ in range(count):
                assert len(await ends.other.receive()) == size
            await sending
    finally:
        sending.cancel()
        await asyncio.wait((sending,))
    assert in_flight * size <= 32 << 20


# --- ends --------------------------------------------------------------------


async def test_close_delivers_what_was_sent_before_and_then_the_other_end_is_told(ends):
    frames = [bytes([i]) * 40_000 for i in range(20)]

    async def send_and_close():
        for frame in frames:
            await ends.one.send([frame])
        await ends.one.close()

    _, received = await finished(send_and_close(), collect(ends.other))
    assert received == frames
    assert await lost(ends.other.receive())


async def test_after_the_other_end_closed_both_operations_fail_at_once(ends):
    await finished(ends.one.close(), collect(ends.other))
    assert await lost(ends.other.receive())
    assert await lost(ends.other.send([b"x"]))


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_an_end_that_was_ended_here_fails_at_once(ends, how):
    await ends.other.send([b"unread"])
    if how == "close":
        await finished(ends.one.close(), collect(ends.other))
    else:
        ends.one.abort()
    assert await lost(ends.one.send([b"x"]))
    assert await lost(ends.one.receive())


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_ending_a_connection_wakes_its_own_reader(ends, how):
    reading = asyncio.ensure_future(ends.one.receive())
    await ends.one.send([b"go"])
    async with timeout(WITHIN_S):
        await ends.other.receive()  # by now the reader waits
    if how == "close":
        await finished(ends.one.close(), collect(ends.other))
    else:
        ends.one.abort()
    assert await lost(reading)
    assert not reading.cancelled()


async def test_abort_ends_the_other_end_too(ends):
    reading = asyncio.ensure_future(collect(ends.other))
    ends.one.abort()
    async with timeout(WITHIN_S):
        await reading
    assert await lost(ends.other.receive())


@pytest.mark.parametrize("who", ["one", "other"])
async def test_abort_frees_a_sender_that_is_blocked(ends, who):
    async def flood():
        while True:
            await ends.one.send([bytes(ends.one.max_frame_bytes)])

    sending = asyncio.ensure_future(flood())
    # The first frame has arrived: the flood is on.
    async with timeout(WITHIN_S):
        await ends.other.receive()
    getattr(ends, who).abort()
    async with timeout(WITHIN_S):
        with pytest.raises(LinkLost):
            await sending


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_both_ends_may_end_it_at_once_and_again(ends, how):
    for _ in range(2):
        if how == "close":
            await finished(ends.one.close(), ends.other.close())
        else:
            ends.one.abort()
            ends.other.abort()
    assert await lost(ends.one.receive())
    assert await lost(ends.other.receive())


async def test_close_takes_bounded_time_if_the_other_end_reads_nothing(ends):
    sending = asyncio.ensure_future(ends.one.send([bytes(ends.one.max_frame_bytes)]))
    flood = [asyncio.ensure_future(_flood(ends.one, sending))]
    async with timeout(WITHIN_S):
        await sending
    start = time.monotonic()
    await ends.one.close()
    assert time.monotonic() - start < 5
    async with timeout(WITHIN_S):
        await asyncio.wait(flood)
    assert isinstance(flood[0].exception(), LinkLost)


async def _flood(connection, after):
    await after
    while True:
        await connection.send([bytes(connection.max_frame_bytes)])


async def test_a_cancelled_receive_followed_by_abort_leaves_nothing(ends):
    reading = asyncio.ensure_future(ends.one.receive())
    await ends.one.send([b"go"])
    async with timeout(WITHIN_S):
        await ends.other.receive()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    ends.one.abort()
    assert await lost(ends.one.receive())
    async with timeout(WITHIN_S):
        await collect(ends.other)


async def test_a_connection_nobody_ended_is_ended_by_the_end_of_accept(network):
    async def accept(connection):
        await connection.send([b"hello"])

    listener = await network.transport.listen(network.free, accept)
    connection = await network.transport.dial(listener.address, WITHIN_S)
    async with timeout(WITHIN_S):
        assert await collect(connection) == [b"hello"]
    await connection.close()
    await listener.close()


async def test_an_accept_that_raises_ends_its_own_connection_only(network, caplog):
    async def accept(connection):
        await connection.send([await connection.receive()])
        if bytes(await connection.receive()) == b"fail":
            raise ZeroDivisionError("in accept")
        await connection.send([b"well"])

    listener = await network.transport.listen(network.free, accept)
    first, second = [await network.transport.dial(listener.address, WITHIN_S) for _ in range(2)]
    async with timeout(WITHIN_S):
        for connection in (first, second):
            await connection.send([b"?"])
            assert bytes(await connection.receive()) == b"?"
        await first.send([b"fail"])
        assert await collect(first) == []
        await second.send([b"go on"])
        assert await collect(second) == [b"well"]
        third = await network.transport.dial(listener.address, WITHIN_S)
        await third.send([b"!"])
        assert bytes(await third.receive()) == b"!"
    for connection in (first, second, third):
        connection.abort()
        await connection.close()
    await listener.close()
    assert "in accept" in caplog.text


# --- listening and dialling --------------------------------------------------


async def test_dialling_nobody_fails_fast_and_names_the_address(network):
    start = time.monotonic()
    with pytest.raises(PeerUnreachable, match=re.escape(network.nobody)):
        await network.transport.dial(network.nobody, WITHIN_S)
    assert time.monotonic() - start < 3


async def test_dialling_a_peer_that_accepts_and_says_nothing_ends_in_time(network):
    if not network.over_tcp:
        pytest.skip("this transport dials no TCP port")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = network.over_tcp.format(port=silent.getsockname()[1])
        start = time.monotonic()
        with pytest.raises(PeerUnreachable, match=re.escape(address)):
            await network.transport.dial(address, 0.3)
        assert 0.2 < time.monotonic() - start < 3


async def test_a_cancelled_dial_leaves_nothing(network):
    if not network.over_tcp:
        pytest.skip("this transport dials no TCP port")
    loop = asyncio.get_running_loop()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.setblocking(False)
        dialling = asyncio.ensure_future(
            network.transport.dial(network.over_tcp.format(port=silent.getsockname()[1]), WITHIN_S)
        )
        async with timeout(WITHIN_S):
            half_open, _ = await loop.sock_accept(silent)
        with half_open:
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling


async def test_two_listeners_at_one_address_are_refused(network):
    async with meeting(network) as (dialled, accepted, listener):
        with pytest.raises(UsageError, match="listen"):
            await network.transport.listen(listener.address, _until_the_end)
        await dialled.send([b"still here"])
        assert bytes(await accepted.receive()) == b"still here"


async def test_an_address_is_free_again_after_its_listener_closed(network):
    listener = await network.transport.listen(network.free, _until_the_end)
    await listener.close()
    with pytest.raises(PeerUnreachable):
        await network.transport.dial(listener.address, 2)
    again = await network.transport.listen(listener.address, _until_the_end)
    assert again.address == listener.address
    connection = await network.transport.dial(again.address, WITHIN_S)
    await connection.close()
    await listener.close()
    connection = await network.transport.dial(again.address, WITHIN_S)
    await connection.close()
    await again.close()


async def test_listeners_that_take_a_free_place_differ(network):
    listeners = [await network.transport.listen(network.free, _until_the_end) for _ in range(3)]
    assert len({listener.address for listener in listeners}) == 3
    assert all(listener.address.startswith(f"{network.transport.scheme}://") for listener in listeners)
    for listener in listeners:
        await listener.close()


async def test_addresses_that_cannot_be_parsed_are_usage_errors(network):
    for address in network.bad:
        with pytest.raises(UsageError, match="address"):
            await network.transport.dial(address, 1)
        with pytest.raises(UsageError, match="address"):
            await network.transport.listen(address, _until_the_end)


async def test_closing_a_listener_ends_its_connections_served_or_not(network):
    served = asyncio.Event()

    async def accept(connection):
        served.set()
        await asyncio.Event().wait()

    listener = await network.transport.listen(network.free, accept)
    connections = [await network.transport.dial(listener.address, WITHIN_S) for _ in range(3)]
    reading = [asyncio.ensure_future(collect(connection)) for connection in connections]
    async with timeout(WITHIN_S):
        await served.wait()
    late = await network.transport.dial(listener.address, WITHIN_S)
    start = time.monotonic()
    await listener.close()
    await listener.close()
    assert time.monotonic() - start < 3
    async with timeout(WITHIN_S):
        await asyncio.gather(*reading)
        await collect(late)
    for connection in (*connections, late):
        await connection.close()


async def test_many_connections_at_once_keep_apart(network):
    async def echo(connection):
        try:
            while True:
                await connection.send([await connection.receive()])
        except LinkLost:
            pass

    listener = await network.transport.listen(network.free, echo)

    async def talk(name):
        connection = await network.transport.dial(listener.address, WITHIN_S)
        for i in range(5):
            await connection.send([f"{name}.{i}".encode()])
        replies = [bytes(await connection.receive()).decode() for _ in range(5)]
        await connection.close()
        return replies == [f"{name}.{i}" for i in range(5)]

    assert all(await finished(*(talk(name) for name in range(50))))
    await listener.close()


async def test_connections_over_loopback_say_so(network, ends):
    for end in ends:
        assert end.loopback
        assert (end.principal is not None) == (end.certificate != b"") == network.proves
        assert end.address


# --- gRPC only ---------------------------------------------------------------


@pytest.mark.parametrize(
    "message", [b"", b"\x12\x01x", b"\x0a\x05ab", b"\x0a\x02abc", b"\x0a" + b"\xff" * 11]
)
async def test_a_grpc_message_that_is_no_frame_is_a_protocol_error(message):
    import grpc as grpc_package

    async with grpc() as network:
        caught: asyncio.Queue[BaseException] = asyncio.Queue()

        async def accept(connection):
            try:
                await connection.receive()
            except ProtocolError as error:
                caught.put_nowait(error)

        listener = await network.transport.listen(network.free, accept)
        async with grpc_package.aio.insecure_channel(listener.address.removeprefix("grpc://")) as channel:
            stream: Any = channel.stream_stream("/collab.v1.Link/Connect")()
            await stream.write(message)
            async with timeout(WITHIN_S):
                assert "Frame" in str(await caught.get()) or message == b"\x0a" + b"\xff" * 11
            stream.cancel()
        await listener.close()


async def test_the_address_of_a_wildcard_listener_can_be_dialled():
    async with grpc() as network:
        for wildcard in ("grpc://0.0.0.0:0", "grpc://[::]:0"):
            listener = await network.transport.listen(wildcard, _until_the_end)
            assert "0.0.0.0" not in listener.address
            assert "[::]" not in listener.address
            connection = await network.transport.dial(listener.address, WITHIN_S)
            await connection.close()
            await listener.close()
