"""Hosts of a test as network namespaces, joined by links of a given delay, rate and harm; needs root and TUN.

A process of its own holds a TUN device in every namespace and carries IPv4 packets
between them, so every protocol crosses it.  It owns the namespaces too: when it ends, or
whoever started it does, it ends what still runs in them, and they are gone.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import heapq
import json
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

MTU: Final = 9000
"""Large packets, so that there are few of them."""
QUEUE_BYTES: Final = 1 << 20
LATER_S: Final = 0.02
"""At most, for packets that are overtaken."""
REMEDY: Final = (
    "this makes network namespaces with TUN devices: run it as root with /dev/net/tun, iproute2 and "
    "util-linux (Debian: apt-get install iproute2 util-linux)"
)
_PATH: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_ANSWER_S: Final = 20.0

# linux/if_tun.h, linux/sched.h, linux/prctl.h
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001
_CLONE_NEWNET: Final = 0x40000000
_PR_SET_TIMERSLACK: Final = 29


@dataclass(frozen=True)
class Shape:
    """One direction between two hosts."""

    delay_ms: float
    mbit_s: float
    """Rate of IP packets, in 10⁶ bit/s."""
    queue_bytes: int = QUEUE_BYTES
    """What may wait for its turn; more is dropped."""
    loss: float = 0.0
    """Share of packets that are dropped, each by itself."""
    duplicate: float = 0.0
    """Share that arrives twice."""
    reorder: float = 0.0
    """Share that is held back for up to `LATER_S`, so that those behind it overtake."""
    corrupt: float = 0.0
    """Share in whose payload one bit is turned, under a checksum that is put right."""

    @property
    def harmless(self) -> bool:
        """Whether every packet arrives once, as it was, in order."""
        return not (self.loss or self.duplicate or self.reorder or self.corrupt)


class Way:
    """One direction as a queue with a rate and a pipe with a delay behind it; times in s.

    The same packets and seed meet the same harm.
    """

    def __init__(self, shape: Shape, seed: str = "") -> None:
        self._free_s = self._last_s = 0.0
        self._chance = random.Random(seed)
        self.reshape(shape)

    def reshape(self, shape: Shape) -> None:
        """Take another shape for what comes from now on."""
        self._shape = shape
        self._delay_s = shape.delay_ms / 1000
        self._byte_s = 8e-6 / shape.mbit_s
        self._longest_s = shape.queue_bytes * self._byte_s

    def arrival(self, now_s: float, size: int) -> float | None:
        """When a packet that enters now comes out; None if the queue is full."""
        start = max(now_s, self._free_s)
        if start - now_s > self._longest_s:
            return None
        self._free_s = start + size * self._byte_s
        # A delay that became shorter lets nothing overtake.
        self._last_s = max(self._last_s, self._free_s + self._delay_s)
        return self._last_s

    def carry(self, now_s: float, packet: bytes) -> list[tuple[float, bytes]]:
        """What comes out of a packet that enters now, and when."""
        arrival_s = self.arrival(now_s, len(packet))
        if arrival_s is None:
            return []
        shape, draw = self._shape, self._chance.random
        if shape.harmless:
            return [(arrival_s, packet)]
        if draw() < shape.loss:
            return []
        if draw() < shape.corrupt:
            packet = corrupted(packet, self._chance)
        if draw() < shape.reorder:
            arrival_s += LATER_S * draw()
        copies = 2 if draw() < shape.duplicate else 1
        return [(arrival_s, packet)] * copies


_TCP: Final = 6
_UDP: Final = 17


def corrupted(packet: bytes, chance: random.Random) -> bytes:
    """An IPv4 packet with one bit of its TCP or UDP payload turned, so that its checksum fits (RFC 1071).

    As it comes out of a broken middlebox.  Packets without payload, and fragments, stay as they are.
    """
    start, kind = 4 * (packet[0] & 15), packet[9]
    if kind not in (_TCP, _UDP) or int.from_bytes(packet[6:8], "big") & 0x3FFF:
        return packet
    at = start + (16 if kind == _TCP else 6)
    payload = start + (4 * (packet[start + 12] >> 4) if kind == _TCP else 8)
    if payload >= len(packet):
        return packet
    changed = bytearray(packet)
    changed[chance.randrange(payload, len(packet))] ^= 1 << chance.randrange(8)
    changed[at : at + 2] = bytes(2)
    covered = packet[12:20] + struct.pack("!HH", kind, len(packet) - start) + changed[start:]
    total = int.from_bytes(covered + bytes(len(covered) % 2), "big") % 0xFFFF
    # In ones' complement both 0 and 0xFFFF are zero, and UDP's 0 means that there is no checksum.
    changed[at : at + 2] = (0xFFFF - total or 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


class ShapedNetwork:
    """Hosts on one subnet, each in a namespace.

    A link holds for both directions where only one of them is listed; pairs that are not
    listed have ``others``, or no connection.  Raises AssertionError with the remedy where
    the machine cannot do it.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        links: Mapping[tuple[str, str], Shape],
        others: Shape | None = None,
        mtu: int = MTU,
        seed: int = 0,
    ) -> None:
        self.hosts = tuple(hosts)
        self._seed = seed
        self._mtu = mtu
        pairs = [(a, b) for a in hosts for b in hosts if a != b]
        found = {pair: links.get(pair) or links.get(pair[::-1]) or others for pair in pairs}
        self.shapes = {pair: shape for pair, shape in found.items() if shape is not None}
        self._process: subprocess.Popen[str] | None = None
        self._namespaces: dict[str, int] = {}

    def __enter__(self) -> ShapedNetwork:
        assert os.geteuid() == 0, REMEDY
        assert Path("/dev/net/tun").exists(), REMEDY
        assert all(shutil.which(tool, path=_PATH) for tool in ("ip", "nsenter")), REMEDY
        root = Path(__file__).parents[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.shaped"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": _PATH, "PYTHONPATH": str(root)},
        )
        try:
            addresses = {host: self.address(host) for host in self.hosts}
            links = [{"from": a, "to": b, **asdict(s)} for (a, b), s in self.shapes.items()]
            setup = {"hosts": addresses, "mtu": self._mtu, "links": links, "seed": self._seed}
            self._namespaces = self._ask(setup)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(_ANSWER_S)
            finally:
                process.kill()
                process.wait()
                process.stdout.close()

    def address(self, host: str) -> str:
        """IPv4 address of a host."""
        return f"10.77.0.{self.hosts.index(host) + 1}"

    def inside(self, host: str) -> tuple[str, ...]:
        """What stands before a command to run it on a host."""
        assert self._process is not None
        return ("nsenter", f"--net=/proc/{self._process.pid}/fd/{self._namespaces[host]}")

    def shape(self, source: str, target: str, **changes: Any) -> None:
        """Change fields of one direction's `Shape`, for what is sent after this returns."""
        shape = replace(self.shapes[source, target], **changes)
        self._ask({"from": source, "to": target, **asdict(shape)})
        self.shapes[source, target] = shape

    def _ask(self, question: Mapping[str, Any]) -> Any:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        readable, _, _ = select.select([process.stdout], [], [], _ANSWER_S)
        line = process.stdout.readline() if readable else ""
        assert line, f"the emulated network does not answer; {REMEDY}"
        return json.loads(line)


# --- the process -------------------------------------------------------------------

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _make_host(address: str, mtu: int) -> tuple[int, int]:
    """Move into a new namespace with a TUN device; descriptors of both."""
    _check(_libc.unshare(_CLONE_NEWNET))
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    for name in ("all", "default"):
        # Router solicitations would only be noise; where this cannot be written they are dropped.
        with suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1", encoding="ascii")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"shaped", _IFF_TUN_NO_PI))
    for command in (
        "link set lo up",
        f"addr add {address}/24 broadcast 10.77.0.255 dev shaped",
        f"link set shaped up multicast on mtu {mtu} txqueuelen 5000",
        "route add default dev shaped",
    ):
        subprocess.run(["ip", *command.split()], check=True, capture_output=True, timeout=10)
    return namespace, tun


class _Emulator:
    def __init__(self, setup: Mapping[str, Any]) -> None:
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        made = {host: _make_host(address, setup["mtu"]) for host, address in setup["hosts"].items()}
        _check(_libc.setns(home, _CLONE_NEWNET))
        os.close(home)
        self.namespaces = {host: namespace for host, (namespace, _) in made.items()}
        self._tuns = {host: tun for host, (_, tun) in made.items()}
        self._hosts = {tun: host for host, tun in self._tuns.items()}
        self._by_address = {socket.inet_aton(a): host for host, a in setup["hosts"].items()}
        self._ways: dict[tuple[str, str], Way] = {}
        self._seed = setup["seed"]
        for link in setup["links"]:
            self.reshape(link)
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def reshape(self, link: Mapping[str, Any]) -> None:
        source, target = link["from"], link["to"]
        shape = Shape(**{name: value for name, value in link.items() if name not in ("from", "to")})
        if (source, target) in self._ways:
            self._ways[source, target].reshape(shape)
        else:
            self._ways[source, target] = Way(shape, f"{self._seed} {source} {target}")

    def run(self) -> None:
        """Carry packets until standard input ends."""
        clock, waiting = time.perf_counter, self._waiting
        sources = [0, *self._hosts]
        unread = b""
        while True:
            left = max(0.0, waiting[0][0] - clock()) if waiting else None
            readable, _, _ = select.select(sources, [], [], left)
            self._deliver(clock())
            for source in readable:
                if source:
                    self._take(source, clock())
                    continue
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    self.reshape(json.loads(line))
                    _answer(True)

    def _take(self, tun: int, now_s: float) -> None:
        """File what a host has sent; a bounded number, so that nothing due waits for a flood."""
        source = self._hosts[tun]
        for _ in range(32):
            try:
                packet = os.read(tun, 65536)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:
                continue
            target = self._by_address.get(packet[16:20])
            # Groups and the broadcast address reach everybody.
            everybody = packet[16] >= 224 or packet[19] == 255
            for host in (target,) if target else self._tuns if everybody else ():
                way = self._ways.get((source, host))
                for arrival_s, out in way.carry(now_s, packet) if way else ():
                    self._count += 1
                    heapq.heappush(self._waiting, (arrival_s, self._count, self._tuns[host], out))

    def _deliver(self, now_s: float) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= now_s:
            _, _, tun, packet = heapq.heappop(waiting)
            with suppress(OSError):  # a device whose queue is full loses packets, as elsewhere
                os.write(tun, packet)

    def end_hosts(self) -> None:
        """End the processes that are left in the namespaces."""
        own = {os.fstat(namespace).st_ino for namespace in self.namespaces.values()}
        for entry in Path("/proc").iterdir():
            # Processes may end meanwhile.
            with suppress(OSError):
                if entry.name.isdigit() and (entry / "ns" / "net").stat().st_ino in own:
                    os.kill(int(entry.name), signal.SIGKILL)


def _precise() -> None:
    """Be woken when asked to, before others, and never pause."""
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)
    gc.disable()


def _answer(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _main() -> None:
    # An interrupt at the terminal is for the one who started this, whose end is seen at standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = b""
    while not first.endswith(b"\n"):
        part = os.read(0, 1)
        if not part:
            return
        first += part
    emulator = _Emulator(json.loads(first))
    try:
        _answer(emulator.namespaces)
        _precise()
        emulator.run()
    finally:
        emulator.end_hosts()


if __name__ == "__main__":
    _main()
