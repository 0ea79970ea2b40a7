"""MQTT sessions over a real mosquitto: restarts, access rules, foreign packets, slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import subprocess
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from collab.errors import LinkLost, PeerUnreachable, ProtocolError, Refused, UsageError
from collab.link.secure import secure
from collab.transport.aio import timeout
from collab.transport.base import Connection
from collab.transport.mqtt.address import parse_address
from collab.transport.mqtt.broker import Broker
from collab.transport.mqtt.client import FixedProperties
from collab.transport.mqtt.hub import HubConfig
from collab.transport.mqtt.packet import FROM_DIALLER, Kind, Terms, head
from collab.transport.mqtt.session import SessionConfig
from collab.transport.mqtt.transport import MqttTransport
from tests.identities import Identities
from tests.mosquitto import Mosquitto, mosquitto, mosquitto_tls

WITHIN_S = 30.0
QUICK = HubConfig(session=SessionConfig(silence_limit_s=2.0, absent_limit_s=1.0, ping_s=0.3, half_open_s=1.0))


@pytest.fixture
def broker():
    with mosquitto() as running:
        yield running


@pytest.fixture(scope="module")
def guarded():
    with mosquitto_tls(acl=True) as running:
        yield running


@asynccontextmanager
async def meeting(
    at: str, near: MqttTransport, far: MqttTransport, query: str = ""
) -> AsyncIterator[tuple[Any, Any]]:
    accepted: asyncio.Queue[Connection] = asyncio.Queue()
    done = asyncio.Event()

    async def accept(connection: Connection) -> None:
        accepted.put_nowait(connection)
        await done.wait()

    listener = await far.listen(at, accept)
    try:
        async with timeout(WITHIN_S):
            dialled = await near.dial(listener.address + query, WITHIN_S)
            try:
                yield dialled, await accepted.get()
            finally:
                done.set()
                await dialled.close()
    finally:
        await listener.close()


def at(broker: Mosquitto, scheme: str = "mqtt") -> str:
    return f"{scheme}://127.0.0.1:{broker.port}"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_broker_restart_in_mid_stream_loses_and_repeats_nothing(broker, how, qos):
    near, far = MqttTransport("near"), MqttTransport("far")
    async with meeting(at(broker), near, far, f"?qos={qos}") as (one, other):
        count, size = 300, 50_000
        halfway = [asyncio.Event(), asyncio.Event()]

        async def send_all(end):
            for i in range(count):
                await end.send([i.to_bytes(4, "little"), bytes(size)])

        async def read_all(end, reached):
            numbers: list[int] = []
            while len(numbers) < count:
                frame = await end.receive()
                assert len(frame) == size + 4
                numbers.append(int.from_bytes(frame[:4], "little"))
                if len(numbers) == count // 4:
                    reached.set()
                    await asyncio.sleep(0)
            return numbers

        async def restart():
            for event in halfway:
                await event.wait()
            await broker.restarted(how)

        results = await asyncio.gather(
            send_all(one), send_all(other), read_all(other, halfway[0]), read_all(one, halfway[1]), restart()
        )
        assert results[2] == results[3] == list(range(count))
        assert one.kind == other.kind == {0: "mqtt-qos0", 1: "mqtt", 2: "mqtt-qos2"}[qos]


async def test_an_idle_session_survives_a_restart_and_its_close_is_still_told(broker):
    async with meeting(at(broker), MqttTransport("near"), MqttTransport("far")) as (one, other):
        for how in (signal.SIGTERM, signal.SIGKILL):
            await broker.restarted(how)
            await one.send([b"there?"])
            assert bytes(await other.receive()) == b"there?"
        await other.close()
        with pytest.raises(LinkLost, match="closed it"):
            await one.receive()


async def test_a_listener_can_be_dialled_again_after_a_restart(broker):
    far, near = MqttTransport("far"), MqttTransport("near")

    async def accept(connection: Connection) -> None:
        await connection.send([b"hello"])

    listener = await far.listen(at(broker), accept)
    await broker.restarted(signal.SIGKILL)
    async with timeout(WITHIN_S):
        while True:
            try:
                connection = await near.dial(listener.address, 5)
                break
            except PeerUnreachable:  # the listener is not back yet
                await asyncio.sleep(0.01)
        assert bytes(await connection.receive()) == b"hello"
    await connection.close()
    await listener.close()


async def test_a_broker_that_stays_away_ends_the_session_at_the_limit(broker):
    async with meeting(
        at(broker), MqttTransport("near", config=QUICK), MqttTransport("far", config=QUICK)
    ) as (
        one,
        other,
    ):
        await asyncio.to_thread(broker.stop, signal.SIGKILL)
        for end in (one, other):
            with pytest.raises(LinkLost, match="no sign of life"):
                await end.receive()


async def test_a_peer_whose_process_is_gone_is_noticed(broker):
    near, far = MqttTransport("near", config=QUICK), MqttTransport("far", config=QUICK)
    async with meeting(at(broker), near, far) as (one, _):
        [hub] = far._hubs.values()
        hub.broker._client.drop()  # as the kernel does for a process that is killed
        hub.broker._closing.set()
        hub.broker._lost.set()
        with pytest.raises(LinkLost):
            await one.receive()


async def test_frames_over_the_brokers_packet_limit_are_cut_unseen():
    with mosquitto(extra="max_packet_size 20000\n") as running:
        async with meeting(at(running), MqttTransport("near"), MqttTransport("far")) as (one, other):
            frame = bytes(range(256)) * 4096
            assert one.max_frame_bytes == len(frame)
            await one.send([frame[:100_001], frame[100_001:]])
            assert bytes(await other.receive()) == frame
            assert one._board.broker.packet_bytes == 20_000


async def test_one_broker_connection_is_shared_and_closed_after_its_last_user(broker):
    transport = MqttTransport("near")

    async def accept(connection: Connection) -> None:
        await connection.receive()

    listener = await transport.listen(at(broker), accept)
    connections = [await transport.dial(listener.address, 5) for _ in range(5)]
    [hub] = transport._hubs.values()
    assert hub.broker.users == 11
    for connection in connections:
        await connection.close()
    await listener.close()
    assert hub.broker.users == 0
    assert hub.broker.ended


async def test_a_slow_reader_stops_the_sender_and_memory_stays_bounded(broker):
    async with meeting(at(broker), MqttTransport("near"), MqttTransport("far")) as (one, other):
        tracemalloc.start()
        try:
            sent = 0
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                async with timeout(1.0):
                    while True:
                        await one.send([bytes(1 << 20)])
                        sent += 1
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert 1 <= sent <= 16
        assert held < 64 << 20
        for _ in range(sent):
            await other.receive()


# --- identities, access rules ---------------------------------------------------


async def test_a_certificate_is_the_user_name_and_rules_bind_it(guarded):
    running, certificates = guarded
    near = MqttTransport("near", certificates.security("near"))
    far = MqttTransport("far", certificates.security("far"))
    async with meeting(at(running, "mqtts"), near, far) as (one, other):
        await one.send([b"ping"])
        assert bytes(await other.receive()) == b"ping"
        # Somebody with a certificate of the cluster, but another's name in the topic.
        heard: list[tuple[str, bytes]] = []
        [hub] = far._hubs.values()
        receive = hub._received

        def listening(topic: str, data: Any, properties: Any) -> None:
            heard.append((topic, bytes(data)))
            receive(topic, data, properties)

        hub.broker._received = listening
        rogue = Broker(
            parse_address(at(running, "mqtts")).broker,
            "rogue",
            certificates.security("rogue").context(server_side=False),
            lambda *_: None,
        )
        rogue.acquire()
        await rogue.ready()
        reasons: asyncio.Queue[int] = asyncio.Queue()
        forged = head(Kind.ABORT, FROM_DIALLER, one.session.id)
        topic = f"collab/in/far/near/{hub.broker.instance}/{one._board.broker.instance}"
        rogue.publish(topic, forged, 1, None, reasons.put_nowait)
        assert await reasons.get() == 0x87
        rogue.publish(
            f"collab/in/far/rogue/{hub.broker.instance}/{'0' * 16}", forged, 1, None, reasons.put_nowait
        )
        assert await reasons.get() == 0
        await one.send([b"still here"])
        assert bytes(await other.receive()) == b"still here"
        assert not [topic for topic, data in heard if data == forged and "/near/" in topic]
        rogue.release()
        await rogue.closed()


async def test_a_name_that_is_not_the_certificates_cannot_be_used(guarded):
    running, certificates = guarded
    far = MqttTransport("far", certificates.security("far"))
    liar = MqttTransport("far2", certificates.security("liar"))
    async with meeting(at(running, "mqtts"), MqttTransport("near", certificates.security("near")), far):
        with pytest.raises(PeerUnreachable):
            await liar.dial(f"{at(running, 'mqtts')}/far", 2)


async def test_a_broker_of_another_authority_is_refused(guarded):
    running, _ = guarded
    with mosquitto_tls() as (_, others):
        stranger = MqttTransport("near", others.security("near"))
        with pytest.raises(Refused, match="certificate"):
            await stranger.dial(f"{at(running, 'mqtts')}/far", 5)


async def test_a_broker_with_another_host_name_is_refused(guarded):
    running, certificates = guarded
    near = MqttTransport("near", certificates.security("near"))
    with pytest.raises(Refused, match="certificate"):
        await near.dial(f"mqtts://localhost:{running.port}/far", 5)


async def test_passwords_work_and_are_never_shown(tmp_path):
    passwords = tmp_path / "passwords"
    for name in ("near", "far"):
        flags = ["-b"] if passwords.exists() else ["-b", "-c"]
        await asyncio.to_thread(
            subprocess.run, ["mosquitto_passwd", *flags, str(passwords), name, f"secret-{name}"], check=True
        )
    with mosquitto(password_file=str(passwords), acl=True) as running:
        far = MqttTransport("far")
        done = asyncio.Event()

        async def accept(connection: Connection) -> None:
            await done.wait()

        listener = await far.listen(f"mqtt://far:secret-far@127.0.0.1:{running.port}", accept)
        assert listener.address == f"{at(running)}/far"
        near = MqttTransport("near", credentials=("near", "secret-near"))
        connection = await near.dial(listener.address, 5)
        assert "secret" not in connection.address
        done.set()
        await connection.close()
        await listener.close()
        with pytest.raises(Refused, match="refuses 'near'") as caught:
            await MqttTransport("near").dial(f"mqtt://near:wrong-secret@127.0.0.1:{running.port}/far", 5)
        assert "secret" not in str(caught.value)


# --- foreign packets --------------------------------------------------------------


async def _published(broker: Mosquitto, name: str, messages: list[tuple[str, bytes, Any]]) -> list[int]:
    client = Broker(parse_address(at(broker)).broker, name, None, lambda *_: None)
    client.acquire()
    await client.ready()
    reasons: asyncio.Queue[int] = asyncio.Queue()
    for topic, data, properties in messages:
        client.publish(topic, data, 1, properties, reasons.put_nowait)
    answers = [await reasons.get() for _ in messages]
    client.release()
    await client.closed()
    return answers


async def test_malformed_packets_and_connects_disturb_nobody(broker, caplog):
    near, far = MqttTransport("near"), MqttTransport("far")
    async with meeting(at(broker), near, far) as (one, other):
        [hub] = far._hubs.values()
        inbox = f"collab/in/far/rogue/{hub.broker.instance}/{'0' * 16}"
        dial = "collab/in/far/rogue/dial"
        session = bytes(16)
        connect = head(Kind.CONNECT, FROM_DIALLER, session) + Terms(1 << 20, 10, 1 << 20, 1).pack()
        elsewhere = FixedProperties(ResponseTopic=f"collab/in/victim/far/{'0' * 16}", CorrelationData=session)
        good = FixedProperties(ResponseTopic=f"collab/in/rogue/far/{'0' * 16}", CorrelationData=session)
        swapped = FixedProperties(ResponseTopic=f"collab/in/rogue/far/{'0' * 16}", CorrelationData=bytes(8))
        await _published(
            broker,
            "rogue",
            [
                (inbox, b"", None),
                (inbox, b"\xff" * 100, None),
                (inbox, bytes(1 << 20), None),
                (inbox, head(Kind.DATA, FROM_DIALLER, one.session.id, 1) + b"injected", None),
                (inbox, head(Kind.ABORT, FROM_DIALLER, one.session.id), None),
                (dial, b"", None),
                (dial, connect, None),
                (dial, connect, elsewhere),
                (dial, connect, swapped),
                (dial, connect[:-3], good),
                (dial, head(Kind.CONNECT, FROM_DIALLER, session) + Terms(0, 0, 0, 9).pack(), good),
            ],
        )
        await one.send([b"undisturbed"])
        assert bytes(await other.receive()) == b"undisturbed"
        assert len(hub._sessions) == 1
    assert "no packet" in caplog.text


async def test_half_open_sessions_are_bounded_and_go_away(broker, caplog):
    far = MqttTransport("far", config=HubConfig(session=QUICK.session, half_open_per_peer=5, half_open=8))
    near = MqttTransport("near")
    async with meeting(at(broker), near, far) as (one, other):
        [hub] = far._hubs.values()
        messages: list[tuple[str, bytes, Any]] = []
        for rogue in ("rogue1", "rogue2"):
            reply = f"collab/in/{rogue}/far/{'0' * 16}"
            terms = Terms(1 << 20, 10, 1 << 20, 1).pack()
            sessions = [bytes([i]) * 8 + rogue.encode() + b"..." for i in range(20)]
            messages = [
                (
                    f"collab/in/far/{rogue}/dial",
                    head(Kind.CONNECT, FROM_DIALLER, session[:16]) + terms,
                    FixedProperties(ResponseTopic=reply, CorrelationData=session[:16]),
                )
                for session in sessions
            ]
            await _published(broker, rogue, messages)
        await one.send([b"?"])
        await other.receive()
        assert len(hub._sessions) <= 1 + 8
        async with timeout(WITHIN_S):
            for rogue_end in [end for end in hub._sessions.values() if end.peer.startswith("rogue")]:
                await rogue_end.over.wait()
        # A connect that is played again does not come back to life.
        await _published(broker, rogue, messages[:1])
        await one.send([b"?"])
        await other.receive()
    assert "half-open" in caplog.text
    assert "stale" in caplog.text


async def test_what_the_peer_may_not_send_is_a_protocol_error(broker):
    async with meeting(at(broker), MqttTransport("near"), MqttTransport("far")) as (one, other):
        one._board.broker.publish(
            one._board._topic(one), head(Kind.ACK, FROM_DIALLER, one.session.id, 0, 99, 99), 1, None
        )
        with pytest.raises(ProtocolError, match="not sent"):
            await other.receive()
        with pytest.raises(LinkLost):
            await one.receive()


# --- addresses ----------------------------------------------------------------------


def test_addresses_have_default_ports_and_hide_passwords():
    parsed = parse_address("mqtts://me:p%40ss@[fe80::1]/node-1?qos=2")
    assert parsed.broker.credentials == ("me", "p@ss")
    assert str(parsed) == "mqtts://[fe80::1]:8883/node-1?qos=2"
    assert "p@ss" not in repr(parsed)
    with pytest.raises(UsageError) as caught:
        parse_address("mqtt://me:hidden@host:99999/n")
    assert "hidden" not in str(caught.value)


async def test_listening_under_another_name_is_a_usage_error():
    with pytest.raises(UsageError, match="'me'"):
        await MqttTransport("me").listen("mqtt://127.0.0.1:1/you", None)


async def test_dialling_a_broker_without_a_name_is_a_usage_error():
    with pytest.raises(UsageError, match="NAME"):
        await MqttTransport("me").dial("mqtt://127.0.0.1:1", 1)


async def test_identities_of_a_cluster_open_its_broker_and_prove_themselves_inside(tmp_path):
    cluster = await asyncio.to_thread(Identities, tmp_path)
    certificate, key = await asyncio.to_thread(cluster.authority.issue_server, ["127.0.0.1"])
    near, far = [await asyncio.to_thread(cluster.of, name) for name in ("near", "far")]
    files = {"authority": near.pem().authority, "certificate": certificate, "key": key}
    for name, pem in files.items():
        (tmp_path / name).write_bytes(pem)
    with mosquitto(acl=True, **{name: str(tmp_path / name) for name in files}) as running:
        transports = [MqttTransport(end.principal.name, end) for end in (near, far)]
        async with meeting(at(running, "mqtts"), *transports) as (one, other):
            inside, beyond = await asyncio.gather(
                secure(one, near, server_side=False, timeout_s=10),
                secure(other, far, server_side=True, timeout_s=10),
            )
            assert (inside.principal, beyond.principal) == (far.principal, near.principal)
            await inside.send([bytes(1000)])
            assert bytes(await beyond.receive()) == bytes(1000)
