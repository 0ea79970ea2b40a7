"""Somebody between a node and its broker who reads and alters what the broker carries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from collab.assembly import build_cluster
from collab.codec.pb import control_pb2 as pb
from collab.errors import CollabError
from collab.transport.aio import timeout
from tests.identities import Identities
from tests.integration.attacks.conftest import WITHIN_S
from tests.integration.processes import NodeProcess
from tests.mosquitto import Mosquitto, free_port, mosquitto

pytestmark = pytest.mark.timeout(120)

SECRET = b"what nobody in between may read "
PUBLISH = 3
"""Type of a packet that carries a message (MQTT 5 2.1.2)."""
_LONG = 200
"""Payloads from here on are frames of the session, not acknowledgements."""
Meddle = Callable[[bytes], list[bytes]]


class Middle:
    """A proxy before a broker that sees every packet."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.seen = bytearray()
        self.meddled = 0
        self.meddle: Meddle | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            for end in (writer, back):
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                packet = await _packet(reader)
                self.seen += packet
                packets = [packet]
                if packet[0] >> 4 == PUBLISH and len(packet) >= _LONG and self.meddle is not None:
                    packets = self.meddle(packet)
                    self.meddled += 1
                writer.writelines(packets)
                await writer.drain()
        writer.close()


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """One control packet: type, length in base 128 (MQTT 5 1.5.5), rest."""
    head = await reader.readexactly(2)
    size, shift = head[1] & 127, 7
    while head[-1] & 128:
        head += await reader.readexactly(1)
        size |= (head[-1] & 127) << shift
        shift += 7
    return head + await reader.readexactly(size)


def _alter(packet: bytes) -> list[bytes]:
    at = len(packet) - random.Random(len(packet)).randrange(1, 60)
    return [packet[:at] + bytes([packet[at] ^ 1]) + packet[at + 1 :]]


def _swapping() -> Meddle:
    held: list[bytes] = []

    def swap(packet: bytes) -> list[bytes]:
        held.append(packet)
        return [held.pop(), held.pop()] if len(held) == 2 else []

    return swap


def _replaying() -> Meddle:
    old: list[bytes] = []

    def replay(packet: bytes) -> list[bytes]:
        old.append(packet)
        return [packet, old[0]]

    return replay


ATTACKS: dict[str, Callable[[], Meddle]] = {
    "alters": lambda: _alter,
    "replays": _replaying,
    "swaps": _swapping,
    "drops": lambda: lambda packet: [],
    "injects": lambda: lambda packet: [packet, packet[:-80] + random.Random(3).randbytes(80)],
}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[tuple[Identities, Mosquitto, NodeProcess, int]]:
    """A broker, a node that will be told of another port, and that port."""
    identities = Identities(tmp_path).enrol("n").enrol("op", role="operator")
    port = free_port()
    options = ("--identity", str(identities.directory("n")), "--broker", f"mqtt://127.0.0.1:{port}")
    node = NodeProcess("n", tmp_path, "--no-listen", *options)
    with mosquitto() as broker:
        yield identities, broker, node, port
        node.stop()


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_broker_in_the_middle_reads_nothing_and_forges_nothing(scene, attack):
    identities, broker, node, port = scene
    middle = Middle(broker.port)
    server = await asyncio.start_server(middle.serve, "127.0.0.1", port)
    try:
        await asyncio.to_thread(node.start)
        await _attacked(middle, identities, f"mqtt://127.0.0.1:{broker.port}/n", ATTACKS[attack]())
    finally:
        await asyncio.to_thread(node.stop)
        server.close()
        await server.wait_closed()
    assert middle.meddled
    for hidden in (SECRET, b"Describe", b"Probe"):
        assert hidden not in middle.seen


async def _attacked(middle: Middle, identities: Identities, address: str, meddle: Meddle) -> None:
    request = pb.ProbeRequest(body=SECRET * 100, reply_bytes=3000)
    async with build_cluster(security=identities.of("op")) as cluster, timeout(3 * WITHIN_S):
        (name,) = await cluster.reach([address])
        assert (await cluster.control(name).call("Probe", request)).received_bytes == len(request.body)
        middle.meddle = meddle
        for _ in range(4):
            with suppress(CollabError):
                reply = await cluster.control(name).call("Probe", request, timeout_s=1.0)
                assert (reply.received_bytes, reply.body) == (len(request.body), bytes(3000))
        middle.meddle = None
        while True:  # once the man has left, the honest get through again
            with suppress(CollabError):
                (name,) = await cluster.reach([address])
                reply = await cluster.control(name).call("Probe", request, timeout_s=2.0)
                assert (reply.received_bytes, reply.body) == (len(request.body), bytes(3000))
                return
