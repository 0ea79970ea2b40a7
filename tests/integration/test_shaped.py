"""Emulated links: they have the delay and the rate that was asked for, and leave nothing behind."""

from __future__ import annotations

import os
import random
import select
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.shaped import Shape, ShapedNetwork, Way, corrupted

pytestmark = pytest.mark.timed

PORT = 7000

ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("0.0.0.0", 7000))
    print("ready", flush=True)
    while True:
        s.sendto(*s.recvfrom(2048))
"""

PING = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.connect((sys.argv[1], 7000))
    s.settimeout(float(sys.argv[3]))
    for i in range(int(sys.argv[2])):
        start = time.perf_counter()
        s.send(bytes(64))
        s.recv(2048)
        print(1000 * (time.perf_counter() - start))
"""

SINK = """
import socket, time
with socket.create_server(("0.0.0.0", 7000)) as server:
    print("ready", flush=True)
    with server.accept()[0] as s:
        begin, count = 0.0, 0
        while data := s.recv(1 << 20):
            now = time.perf_counter()
            count += len(data)
            if not begin and count > 1_000_000:  # by then TCP has found the rate
                begin, from_count = now, count
    print(8e-6 * (count - from_count) / (now - begin), flush=True)
"""

SOURCE = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000)) as s:
    s.sendall(bytes(int(sys.argv[2])))
"""


def python(net: ShapedNetwork, host: str, code: str, *arguments: object) -> list[str]:
    return [*net.inside(host), sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]


@contextmanager
def serving(net: ShapedNetwork, host: str, code: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(python(net, host, code), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def numbers(net: ShapedNetwork, host: str, code: str, *arguments: object) -> list[float]:
    done = subprocess.run(
        python(net, host, code, *arguments), capture_output=True, text=True, timeout=20, check=True
    )
    return [float(line) for line in done.stdout.split()]


def quartile(values: list[float]) -> float:
    """The first; the fastest quarter is hardly late even on a busy machine."""
    return statistics.quantiles(values)[0]


LATE_MS = 3.0
"""By how much a busy machine may be late with the fastest quarter."""


def test_a_round_trip_takes_both_delays_and_may_change_meanwhile():
    links = {("a", "b"): Shape(10, 100), ("b", "a"): Shape(5, 100), ("a", "c"): Shape(1, 100)}
    with ShapedNetwork(["a", "b", "c"], links) as net, serving(net, "b", ECHO):
        times = numbers(net, "a", PING, net.address("b"), 41, 5)
        assert min(times) >= 15.0
        assert quartile(times) <= 15.0 + LATE_MS
        net.shape("a", "b", delay_ms=2)
        assert 7.0 <= quartile(numbers(net, "a", PING, net.address("b"), 41, 5)) <= 7.0 + LATE_MS
        # 64 bytes with 28 of headers at 16 kbit/s are 46 ms.
        net.shape("b", "a", mbit_s=0.016)
        assert 53.0 <= quartile(numbers(net, "a", PING, net.address("b"), 7, 5)) <= 53.0 + LATE_MS
        with pytest.raises(subprocess.CalledProcessError, match="exit status 1"):
            numbers(net, "c", PING, net.address("b"), 1, 0.1)


def test_tcp_gets_the_rate_of_each_direction():
    links = {("a", "b"): Shape(5, 100), ("b", "a"): Shape(5, 20)}
    with ShapedNetwork(["a", "b"], links) as net:
        for source, target, mbit_s, size in (("a", "b", 100, 20_000_000), ("b", "a", 20, 4_000_000)):
            with serving(net, target, SINK) as sink:
                numbers(net, source, SOURCE, net.address(target), size)
                assert float(sink.stdout.readline()) == pytest.approx(mbit_s, rel=0.08)


def test_nothing_is_left_when_whoever_made_it_is_killed():
    script = f"""
import os, subprocess, sys, tests.shaped as shaped
with shaped.ShapedNetwork(["a"], {{}}) as net:
    python = [sys.executable, "-I", "-S", "-c", {ECHO!r}]
    with subprocess.Popen([*net.inside("a"), *python], stdout=subprocess.PIPE, text=True) as left:
        left.stdout.readline()
        print(net._process.pid, left.pid, flush=True)
        sys.stdin.read()
"""
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as maker:
        pids = [int(word) for word in maker.stdout.readline().split()]
        assert len(pids) == 2
        ends = [os.pidfd_open(pid) for pid in pids]
        maker.kill()
        try:
            for end in ends:
                # A descriptor of a process becomes readable when it ends.
                assert ended(end, 20)
        finally:
            for end in ends:
                os.close(end)
    assert maker.returncode == -signal.SIGKILL


def ended(descriptor: int, within_s: float) -> bool:
    return bool(select.select([descriptor], [], [], within_s)[0])


def test_what_finds_the_queue_full_is_lost():
    way = Way(Shape(10, 8, queue_bytes=2000))  # 1000 bytes take 1 ms
    assert [way.arrival(0.0, 1000) for _ in range(4)] == [
        *(pytest.approx(t) for t in (0.011, 0.012, 0.013)),
        None,
    ]
    assert way.arrival(0.0011, 1000) == pytest.approx(0.014)


def test_a_shorter_delay_lets_nothing_overtake():
    way = Way(Shape(50, 8))
    first = way.arrival(0.0, 1000)
    way.reshape(Shape(1, 8))
    assert way.arrival(0.001, 1000) == first == pytest.approx(0.051)
    assert way.arrival(1.0, 1000) == pytest.approx(1.002)


def tcp(payload: bytes) -> bytes:
    """An IPv4 packet with a TCP segment, its checksum left out."""
    head = bytes([0x45, 0, 0, 40 + len(payload), 0, 0, 0, 0, 64, 6, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2])
    return head + bytes([27, 88, 27, 89, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 16, 1, 0, 0, 0, 0, 0]) + payload


def ones_complement(packet: bytes) -> int:
    """Sum over the pseudo header and the segment (RFC 9293 3.1): 0xFFFF where the checksum fits."""
    covered = packet[12:20] + bytes([0, packet[9]]) + (len(packet) - 20).to_bytes(2, "big") + packet[20:]
    covered += bytes(len(covered) % 2)
    total = sum(int.from_bytes(covered[i : i + 2], "big") for i in range(0, len(covered), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_corrupted_packet_has_one_other_bit_of_payload_and_a_checksum_that_fits(size):
    chance = random.Random(size)
    for _ in range(50):
        packet = tcp(chance.randbytes(size))
        harmed = corrupted(packet, chance)
        assert ones_complement(harmed) == 0xFFFF
        assert harmed[:36] == packet[:36]
        turned = [a ^ b for a, b in zip(harmed[38:], packet[38:], strict=True)]
        assert sum(value.bit_count() for value in turned) == 1
        assert not any(turned[:2])
    assert corrupted(tcp(b""), chance) == tcp(b"")


def test_harm_comes_as_often_as_it_was_asked_for_and_again_for_the_same_seed():
    shape = Shape(1, 1000, loss=0.1, duplicate=0.2, reorder=0.3, corrupt=0.1)
    packets = [tcp(number.to_bytes(2, "big")) for number in range(2000)]

    def fates(seed):
        way = Way(shape, seed)
        return [way.carry(number / 1000, packet) for number, packet in enumerate(packets)]

    met = fates("1 a b")
    assert met == fates("1 a b") != fates("2 a b")
    assert 150 <= sum(not fate for fate in met) <= 250
    assert 290 <= sum(len(fate) == 2 for fate in met) <= 430
    arrived = [fate[0] for fate in met if fate]
    assert 350 <= sum(later[0] < sooner[0] for sooner, later in pairwise(arrived)) <= 650
    changed = [fate[0][1] != packet for fate, packet in zip(met, packets, strict=True) if fate]
    assert 120 <= sum(changed) <= 240
