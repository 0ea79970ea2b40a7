"""Round trips of a message over each transport, beside the bare library and blocking TCP sockets.

Client and server are two processes on loopback; everything is measured in turn in one
run.  A ratio is our median divided by the bare library's.  The last part sends 1 MiB over
CoAP/UDP beside block-wise transfer in lock-step (RFC 7959, aiocoap), on loopback and over
a hop of 20 ms round trip and 0.1 % loss.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

from benchmarks.bare import CoapEcho, PahoEcho, TcpEcho
from benchmarks.echo import EchoClient
from benchmarks.figures import Figure, run
from benchmarks.lossy import LossyHop
from benchmarks.ours import OurEcho
from collab.coordinator.broker import LocalBroker
from collab.node.memory import keep_large_buffers
from collab.security.authority import Authority, enrol_here

SIZES = {"1 KiB": 1 << 10, "64 KiB": 1 << 16, "1 MiB": 1 << 20, "8 MiB": 8 << 20}
REPETITIONS = {"1 KiB": 300, "64 KiB": 150, "1 MiB": 30, "8 MiB": 8}
UDP_LIMIT = 1 << 20
"""Largest message over CoAP/UDP here."""
LOCK_STEP_LIMIT = 1 << 16
"""Largest message of the comparison in turns: aiocoap takes seconds for more."""
TARGET = "<= 1.3"
BARE = {"grpc": "grpc.aio", "mqtt": "paho", "coap+tcp": "aiocoap tcp", "coap+udp": "aiocoap udp"}
"""The bare library of each transport."""
HOP = (10.0, 0.001)
"""Delay each way in ms, and the share of datagrams that are lost."""


class _Client(Protocol):
    async def round_trip(self, message: bytes) -> object: ...

    async def stream(self, message: bytes, count: int) -> object: ...


async def _time(client: _Client, message: bytes) -> float:
    start = time.perf_counter()
    await client.round_trip(message)
    return (time.perf_counter() - start) * 1000


async def _medians(clients: dict[str, _Client], message: bytes, count: int) -> dict[str, float]:
    """Median round trips in ms, everything in turn."""
    print(f"{len(message) >> 10} KiB over {', '.join(clients)}", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in clients}
    for turn in range(count + 2):
        for name, client in clients.items():
            taken = await _time(client, message)
            if turn >= 2:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


async def _rates(clients: dict[str, _Client], message: bytes, seconds_ms: float) -> dict[str, float]:
    """Mbit/s each way with messages in flight, the best of three turns, everything in turn."""
    rates: dict[str, float] = dict.fromkeys(clients, 0.0)
    for _ in range(3):
        for name, client in clients.items():
            count = max(4, min(2000, int(seconds_ms / await _time(client, message))))
            start = time.perf_counter()
            await client.stream(message, count)
            taken = time.perf_counter() - start
            rates[name] = max(rates[name], 8 * len(message) * count / taken / 1e6)
    return rates


def _rate_ratios(size: str, rates: dict[str, float]) -> list[Figure]:
    """How many times the library's throughput is ours."""
    made = []
    for ours, library in BARE.items():
        if ours in rates and library in rates:
            how = (
                f"{rates[ours]:.4g} Mbit/s beside {rates[library]:.4g} of {library}, "
                f"{rates['tcp']:.4g} of blocking sockets"
            )
            name = f"{ours}, {size}, throughput, library by ours"
            made.append(Figure(name, rates[library] / rates[ours], "x", TARGET, rates[library], how))
    return made


def _ratios(size: str, length: int, times: dict[str, float]) -> list[Figure]:
    """Our transports beside their libraries; plain sockets for comparison."""
    made = []
    for ours, library in BARE.items():
        if ours in times and library in times:
            how = (
                f"{times[ours]:.3g} ms beside {times[library]:.3g} ms of {library}, "
                f"{times['tcp']:.3g} of blocking sockets; {2 * length / times[ours] / 125:.0f} Mbit/s"
            )
            ratio = times[ours] / times[library]
            made.append(
                Figure(f"{ours}, {size}, times the bare library", ratio, "x", TARGET, times[library], how)
            )
    return made


async def _plain(stack: AsyncExitStack, broker: str, quick: bool) -> list[Figure]:
    """Every transport without TLS beside its library."""
    enter = stack.enter_async_context
    clients: dict[str, _Client] = {
        "tcp": await enter(TcpEcho()),
        "grpc.aio": await enter(EchoClient()),
        "grpc": await enter(OurEcho("127.0.0.1:0")),
        "paho": await enter(PahoEcho(broker)),
        "mqtt": await enter(OurEcho(broker)),
        "aiocoap tcp": await enter(CoapEcho("tcp")),
        "coap+tcp": await enter(OurEcho("coap+tcp://127.0.0.1:0")),
        "aiocoap udp": await enter(CoapEcho("udp")),
        "coap+udp": await enter(OurEcho("coap+udp://127.0.0.1:0")),
    }
    figures = []
    for size, length in SIZES.items():
        limits = {"aiocoap udp": LOCK_STEP_LIMIT, "coap+udp": UDP_LIMIT}
        taking = {name: c for name, c in clients.items() if length <= limits.get(name, length)}
        count = REPETITIONS[size] // (5 if quick else 1) + 1
        if length == LOCK_STEP_LIMIT:
            count = min(count, 20)  # lock-step takes 0.1 s for each
        figures += _ratios(size, length, await _medians(taking, bytes(length), count))
        figures += _rate_ratios(size, await _rates(taking, bytes(length), 100 if quick else 500))
    return figures


async def _secured(stack: AsyncExitStack, folder: Path, broker: str, quick: bool) -> list[Figure]:
    """What TLS costs: outside, by the transport, and inside the connection."""
    authority = await asyncio.to_thread(Authority.create, folder / "authority", "bench")
    for name in ("client", "server"):
        await asyncio.to_thread(enrol_here, authority, folder / name, name, "node")
    identities = (folder / "client", folder / "server")
    enter = stack.enter_async_context
    ways: dict[str, tuple[_Client, _Client]] = {}
    for name, address, inside in (
        ("grpc, TLS outside", "127.0.0.1:0", False),
        ("grpc, TLS inside", "127.0.0.1:0", True),
        ("mqtt, TLS inside", broker, True),
        ("coap+tcp, TLS outside", "coaps+tcp://127.0.0.1:0", False),
        ("coap+udp, TLS inside", "coap+udp://127.0.0.1:0", True),
    ):
        plain = address.replace("coaps+tcp", "coap+tcp")
        ways[name] = (
            await enter(OurEcho(plain)),
            await enter(OurEcho(address, identities, inside)),
        )
    figures = []
    for size in ("1 KiB", "1 MiB"):
        for name, (plain_way, tls_way) in ways.items():
            count = REPETITIONS[size] // (5 if quick else 2) + 1
            times = await _medians({"plain": plain_way, "tls": tls_way}, bytes(SIZES[size]), count)
            how = f"{times['tls']:.3g} ms beside {times['plain']:.3g} ms without"
            figures.append(
                Figure(
                    f"{name}, {size}, times without",
                    times["tls"] / times["plain"],
                    "x",
                    "",
                    times["plain"],
                    how,
                )
            )
    return figures


class FarEcho(OurEcho):
    """Our connection over a hop that delays and loses datagrams."""

    def __init__(self, stack: AsyncExitStack) -> None:
        super().__init__("coap+udp://127.0.0.1:0")
        self._stack = stack

    async def route(self, contact: str) -> str:
        """The hop's address, in front of the server's."""
        port = int(contact.rpartition(":")[2])
        hop = await self._stack.enter_async_context(LossyHop(port, *HOP))
        return f"coap+udp://127.0.0.1:{hop.port}"


async def _lock_step(stack: AsyncExitStack, quick: bool) -> list[Figure]:
    """1 MiB over CoAP/UDP beside blocks in lock-step."""
    enter = stack.enter_async_context
    length = 1 << 18 if quick else 1 << 20
    message = bytes(length)
    ours: _Client = await enter(OurEcho("coap+udp://127.0.0.1:0"))
    theirs: _Client = await enter(CoapEcho("udp"))
    times = await _medians({"ours": ours, "theirs": theirs}, message, 2 if quick else 3)
    figures = [_faster("loopback", length, times, 10)]
    far = await enter(FarEcho(stack))
    slow = CoapEcho("udp")
    await enter(slow)
    slow.through = (await enter(LossyHop(slow.port, *HOP))).port
    ours_ms = statistics.median([await _time(far, message) for _ in range(5)])
    theirs_ms = await _time(slow, message)
    figures.append(_faster("20 ms, 0.1 % loss", length, {"ours": ours_ms, "theirs": theirs_ms}, 50))
    return figures


def _faster(where: str, length: int, times: dict[str, float], target: int) -> Figure:
    how = f"{times['ours']:.4g} ms for {length >> 10} KiB and back beside {times['theirs']:.4g} ms"
    value = times["theirs"] / times["ours"]
    return Figure(
        f"coap+udp, {where}, times faster than lock-step", value, "x", f">= {target}", times["theirs"], how
    )


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Everything in one run."""
    keep_large_buffers()
    figures = []
    with tempfile.TemporaryDirectory(prefix="collab-bench-") as made:
        folder = Path(made)
        # The bare library sends a message as one packet, whatever its size.
        async with LocalBroker(folder, packet_bytes=16 << 20) as broker:
            async with AsyncExitStack() as stack:
                figures += await _plain(stack, broker.address, options.quick)
            async with AsyncExitStack() as stack:
                figures += await _secured(stack, folder, broker.address, options.quick)
        async with AsyncExitStack() as stack:
            figures += await _lock_step(stack, options.quick)
    return figures


if __name__ == "__main__":
    run(measure, __doc__)
