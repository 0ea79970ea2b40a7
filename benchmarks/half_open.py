"""What 1,000 half-open connections cost a node's real requests: latency with them over latency without.

Each kind of attacker opens connections and says nothing more, or half of what it should;
turns with and without them alternate within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import resource
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.figures import Figure, run
from collab.assembly import transports
from collab.client.control import Control
from collab.client.hub import ClientHub
from collab.coordinator.local import LocalNodes
from collab.core.ids import NodeName
from collab.link.hello import Identity
from collab.link.links import Links
from collab.transport.base import split_address, split_host_port

COUNT = 1000
TARGET = "<= 2.0"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""A client's preface and empty settings (RFC 9113 3.4)."""
CLIENT_HELLO = bytes.fromhex("16030100f8010000f40303") + bytes(32)
"""The begin of a ClientHello that announces more than comes (RFC 8446 4.1.2)."""
CSM = bytes((0x00, 0xE1))
"""An empty Capabilities and Settings message (RFC 8323 5.3)."""
KINDS = {
    "silence": ("grpc", b""),
    "half a ClientHello": ("grpc", CLIENT_HELLO),
    "gRPC preface": ("grpc", PREFACE),
    "coap+tcp, silence": ("coap+tcp", b""),
    "coap+tcp, CSM": ("coap+tcp", CSM),
}


class HalfOpen:
    """Connections that say something and then nothing, as a context manager."""

    def __init__(self, address: str, said: bytes, count: int = COUNT) -> None:
        self._where = split_host_port(split_address(address)[1])
        self._said = said
        self._count = count
        self._open: list[socket.socket] = []
        self.connected = 0
        """Connections that came about; who attacks may be refused some."""

    async def __aenter__(self) -> HalfOpen:
        raise_limit(self._count)
        for _ in range(self._count):
            await self._one()
        return self

    async def _one(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        self._open.append(sock)
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.sock_connect(sock, self._where), 5)
            if self._said:
                await loop.sock_sendall(sock, self._said)
            self.connected += 1
        except (OSError, TimeoutError, asyncio.TimeoutError):
            pass

    async def __aexit__(self, *error: object) -> None:
        for sock in self._open:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def raise_limit(connections: int) -> None:
    """Let this process hold so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, connections + 1024)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


Request = Callable[[], Awaitable[object]]


async def median_ms(request: Request, count: int) -> float:
    """Median time of requests, one after the other."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        await request()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


async def interleaved(
    request: Request, attack: Callable[[], HalfOpen], turns: int, count: int
) -> tuple[float, float]:
    """Medians without and with an attack, in ms, in turn."""
    without, within = [], []
    for _ in range(turns):
        without.append(await median_ms(request, count))
        async with attack():
            within.append(await median_ms(request, count))
    return statistics.median(without), statistics.median(within)


def client_links(name: str) -> Links:
    """Links of a client without an identity."""
    return Links(Identity(NodeName(name), "client"), transports(), ClientHub())


async def newcomer_ms(address: str) -> float:
    """How long somebody honest who comes anew takes to get in and an answer."""
    start = time.perf_counter()
    async with client_links("newcomer") as links:
        for turn in range(20):
            try:
                await Control(await links.connect(address)).describe()
                break
            except Exception:
                if turn == 19:
                    raise
    return (time.perf_counter() - start) * 1000


async def measure(options: argparse.Namespace) -> list[Figure]:
    """All kinds against one node."""
    turns, count = (3, 50) if options.quick else (7, 200)
    figures = []
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="collab-half-open-"))
        listen = ("127.0.0.1:0", "coap+tcp://127.0.0.1:0")
        nodes = await stack.enter_async_context(LocalNodes(["n"], Path(folder), listen=listen))
        links = await stack.enter_async_context(client_links("client"))
        link = await links.connect(nodes.endpoints[0])
        control = Control(link)
        endpoints = {split_address(at)[0]: at for at in (await control.describe()).endpoints}
        for kind, (scheme, said) in KINDS.items():
            print(f"{COUNT} of {kind}", file=sys.stderr)
            address = endpoints[scheme]
            attack = functools.partial(HalfOpen, address, said)
            without, within = await interleaved(control.describe, attack, turns, count)
            async with HalfOpen(address, said):
                newcomer = await newcomer_ms(address)
            how = f"{within:.3g} ms with, {without:.3g} ms without; a newcomer is served in {newcomer:.0f} ms"
            figures.append(Figure(f"{COUNT} half-open, {kind}", within / without, "x", TARGET, without, how))
    return figures


if __name__ == "__main__":
    run(measure, __doc__)
