"""The back end of kernels with netem: veth pairs, bridges, and a queueing discipline for each leg.

It carries more than `collab.emulation.userspace` and can express less; `inexpressible` says
what.  Its losses are the kernel's own, so a seed does not repeat them.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from contextlib import ExitStack
from math import ceil
from typing import Any, Final

from collab.emulation.backend import Backend, Control
from collab.emulation.counters import DirectionCounts, EmulatorCounts
from collab.emulation.namespaces import DEVICE, configure, entered, fresh_namespace
from collab.emulation.network import Leg, Network
from collab.emulation.profile import DirectionProfile, LinkProfile
from collab.errors import BackendError, ConfigError

MOST_PACKETS: Final = 100_000
"""netem's limit where the profile has none."""

# linux/netlink.h, linux/rtnetlink.h, linux/pkt_sched.h
_NEWQDISC: Final = 36
_REQUEST_ACK_CREATE: Final = 0x0001 | 0x0004 | 0x0400
_ERROR: Final = 2
_TCA_KIND: Final = 1
_ROOT: Final = 0xFFFFFFFF


def kernel_has_netem() -> bool:
    """Ask the kernel, in a namespace of its own, for a netem without options, which it refuses by name."""
    with fresh_namespace() as namespace:
        os.close(namespace)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
            kind = struct.pack("HH8s", 4 + 6, _TCA_KIND, b"netem")
            message = struct.pack("BxxxiIII", 0, 1, 0, _ROOT, 0) + kind
            route.send(
                struct.pack("IHHII", 16 + len(message), _NEWQDISC, _REQUEST_ACK_CREATE, 1, 0) + message
            )
            answer = route.recv(4096)
    (what,) = struct.unpack_from("H", answer, 4)
    (error,) = struct.unpack_from("i", answer, 16)
    return bool(what != _ERROR or error != -errno.ENOENT)


def inexpressible(network: Network) -> list[str]:
    """What of a network netem cannot do; empty if it can do all of it."""
    found = []
    if network.behind_nat:
        found.append("nat")
    if network.cells:
        found.append("cells that share a rate")
    places = {name for link in network.links for name in (link.one, link.other)}
    hosts = set(network.hosts)
    if any({link.one, link.other} <= hosts for link in network.links):
        found.append("links from host to host")
    elif any(sum(host in (link.one, link.other) for link in network.links) > 1 for host in hosts):
        found.append("hosts with several links")
    elif len(network.links) > len(places) - 1:
        found.append("rings of junctions")
    parts = {f"{link.name}: {part}" for link in network.links for part in inexpressible_parts(link.profile)}
    return found + sorted(parts)


def inexpressible_parts(profile: LinkProfile) -> list[str]:
    """Fields of a profile that netem, as pyroute2 sets it, has no parameter for."""
    found = [
        name
        for name, is_used in (
            ("outages", bool(profile.outages or profile.outage_every_s is not None)),
            ("idle_after_ms", profile.idle_after_ms is not None),
        )
        if is_used
    ]
    for where, part in (("up", profile.up), ("down", profile.down)):
        used = (
            ("trace", part.trace is not None),
            ("burst_bytes", bool(part.burst_bytes)),
            ("queue: codel", part.queue == "codel"),
            (f"jitter: {part.jitter}", part.jitter != "none"),
            ("loss_burst", part.loss_burst is not None),
            ("reorder", bool(part.reorder)),
            # netem turns bits too, but the checksum tells.
            ("corrupt", bool(part.corrupt)),
        )
        found += [f"{where}.{name}" for name, is_used in used if is_used]
    return found


def netem_parameters(profile: DirectionProfile, mtu: int) -> dict[str, Any]:
    """What netem is told, in pyroute2's words and units: µs, percent, bytes a second."""
    found: dict[str, Any] = {
        "delay": round(profile.delay_ms * 1000),
        "loss": profile.loss * 100,
        "duplicate": profile.duplicate * 100,
        "limit": MOST_PACKETS,
    }
    if profile.rate_mbit_s is not None:
        bytes_s = profile.rate_mbit_s * 125_000
        found["rate"] = max(1, round(bytes_s))
        # netem counts frames, so Ethernet's header is taken away again.
        found["packet_overhead"] = profile.overhead_bytes - 14
        # Its limit is in packets, and also holds for what is under way.
        waiting = min(profile.queue_packets or MOST_PACKETS, ceil((profile.queue_bytes or 1e12) / mtu))
        under_way = ceil(bytes_s * profile.delay_ms / 1000 / mtu)
        found["limit"] = min(MOST_PACKETS, waiting + under_way)
    return found


class Netem(Backend):
    """A bridge for each junction, a veth pair for each link, netem at both of its ends."""

    kind: str = "netem"
    """The queueing discipline."""

    def __init__(self, network: Network, mtu: int) -> None:
        missing = inexpressible(network)
        if missing:
            raise ConfigError(f"backend: netem cannot do {', '.join(missing)}; use userspace")
        try:
            import pyroute2
        except ImportError as error:
            raise BackendError("netem needs pyroute2: pip install 'collab[emulation]'") from error
        self._route = pyroute2.IPRoute
        self._error = pyroute2.NetlinkError
        self._network, self._mtu = network, mtu
        self.namespaces = {}
        self._places: dict[Leg, tuple[int, int]] = {}
        """For each leg the namespace and the device at its begin."""
        self._zero: dict[Leg, DirectionCounts] = {}
        self._core = -1
        self._begun_s = time.perf_counter()
        with ExitStack() as undo:
            undo.callback(self.close)
            try:
                self._build()
            except (OSError, self._error) as error:
                raise BackendError(f"veth and bridges: {error}; run it as root") from error
            undo.pop_all()

    def _build(self) -> None:
        for host in self._network.hosts:
            with fresh_namespace() as namespace:
                self.namespaces[host] = namespace
        with fresh_namespace() as self._core, self._route() as route:
            bridges = {}
            for number, junction in enumerate(self._network.junctions):
                route.link("add", ifname=f"bridge{number}", kind="bridge")
                bridges[junction] = route.link_lookup(ifname=f"bridge{number}")[0]
                route.link("set", index=bridges[junction], state="up", mtu=self._mtu)
            for number, link in enumerate(self._network.links):
                self._join(route, number, (link.one, link.other), bridges)
        for host, namespace in self.namespaces.items():
            with entered(namespace):
                configure(DEVICE, self._network.address(host), self._mtu)
        for link in self._network.links:
            self.change(link.one, link.other, link.profile)

    def _join(self, route: Any, number: int, ends: tuple[str, str], bridges: dict[str, int]) -> None:
        # The end at a junction is made here, a host's goes into its namespace.
        near, far = ends if ends[0] in bridges else ends[::-1]
        peer: dict[str, Any] = {"ifname": f"far{number}"}
        if far in self.namespaces:
            peer = {"ifname": DEVICE, "net_ns_fd": self.namespaces[far]}
        route.link("add", ifname=f"near{number}", kind="veth", peer=peer)
        device = route.link_lookup(ifname=f"near{number}")[0]
        self._plug(route, device, bridges[near])
        self._places[Leg(near, far)] = (self._core, device)
        if far in self.namespaces:
            with entered(self.namespaces[far]), self._route() as inside:
                end = inside.link_lookup(ifname=DEVICE)[0]
                inside.link("set", index=end, gso_max_segs=1)
            self._places[Leg(far, near)] = (self.namespaces[far], end)
            return
        other = route.link_lookup(ifname=f"far{number}")[0]
        self._plug(route, other, bridges[far])
        self._places[Leg(far, near)] = (self._core, other)

    def _plug(self, route: Any, device: int, bridge: int) -> None:
        # A large packet would be lost, and delayed, as one.
        route.link("set", index=device, master=bridge, mtu=self._mtu, gso_max_segs=1, state="up")

    def run(self, control: Control) -> None:
        """See `Backend.run`."""
        while True:
            select.select([control.fileno()], (), ())
            if not control.serve(self):
                return

    def change(self, one: str, other: str, profile: LinkProfile) -> None:
        """See `Backend.change`; netem empties its queue then."""
        missing = inexpressible_parts(profile)
        if missing:
            raise ConfigError(f"link {one} – {other}: netem cannot do {', '.join(missing)}; use userspace")
        self._network = self._network.changed(one, other, profile)
        link = self._network.link(one, other)
        for leg, part in ((Leg(link.one, link.other), profile.up), (Leg(link.other, link.one), profile.down)):
            namespace, device = self._places[leg]
            with entered(namespace), self._route() as route:
                route.tc("replace", self.kind, device, 0x10000, **self.parameters(part))

    def parameters(self, profile: DirectionProfile) -> dict[str, Any]:
        """What the queueing discipline is told."""
        return netem_parameters(profile, self._mtu)

    def restart(self, seed: int | None = None) -> None:
        """See `Backend.restart`; the kernel's chances have no seed."""
        self._begun_s = time.perf_counter()
        self._zero = self._read()

    def _read(self) -> dict[Leg, DirectionCounts]:
        found = {}
        for leg, (namespace, device) in self._places.items():
            with entered(namespace), self._route() as route:
                rows = [row for row in route.get_qdiscs(device) if row["parent"] == _ROOT]
            basic: Any = rows[0].get_attr("TCA_STATS2") if rows else None
            sent = basic.get_attr("TCA_STATS_BASIC") if basic else {}
            queue = basic.get_attr("TCA_STATS_QUEUE") if basic else {}
            dropped = int(queue.get("drops", 0))
            passed = int(sent.get("packets", 0))
            found[leg] = DirectionCounts(
                packets=passed + dropped,
                bytes=int(sent.get("bytes", 0)),
                copies=passed,
                drops={"netem": dropped},
            )
        return found

    def counts(self) -> EmulatorCounts:
        """See `Backend.counts`; lateness is the kernel's, and unknown."""
        found = self._read()
        for leg, zero in self._zero.items():
            now = found[leg]
            now.packets -= zero.packets
            now.bytes -= zero.bytes
            now.copies -= zero.copies
            now.drops = {why: count - zero.drops.get(why, 0) for why, count in now.drops.items()}
        return EmulatorCounts(
            directions={str(leg): counts for leg, counts in found.items()},
            delivered=sum(counts.copies for counts in found.values()),
            elapsed_s=time.perf_counter() - self._begun_s,
        )

    def close(self) -> None:
        """See `Backend.close`."""
        if self._core >= 0:
            os.close(self._core)
            self._core = -1
        super().close()
