"""Carries packets along their ways: which link models they meet, when, and who gets them at last.  Pure.

Time and packets come as arguments, deliveries go to a function that was given, so a test
drives it without a device or a clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Final, cast

from collab.emulation.base import WAITING, Fate, LinkModel
from collab.emulation.corruption import corrupted, corrupted_segment
from collab.emulation.counters import DirectionCounts
from collab.emulation.models.cell import FairCell
from collab.emulation.nat import Nat
from collab.emulation.network import Leg, Network
from collab.emulation.segments import HEADER_BYTES, Large, large, runs

MAX_HELD: Final = 200_000
"""Packets under way; more are dropped and counted, so that a link of long delay fills no memory."""
TOGETHER_US: Final = 250.0
"""Segments of one large packet that arrive within this long arrive at once, with the last."""

Deliver = Callable[[int, bytes, float], None]
"""Called with the number of a host, a packet, and when it was due, in µs."""


class _Line:
    """One direction: its model and what it counts."""

    __slots__ = ("counts", "is_fair", "offer")

    def __init__(self, model: LinkModel, is_fair: bool) -> None:
        self.offer = model.offer
        self.is_fair = is_fair
        """Whether a cell tells fates later."""
        self.counts = DirectionCounts()


@dataclass(frozen=True)
class _Hop:
    """A direction on the way of a packet, and where it goes behind it; several ways for a group."""

    line: _Line
    host: int
    """Who gets the packet there; -1 for nobody."""
    onward: tuple[_Hop, ...]


class Forwarder:
    """Every link of a network.

    Args:
        network: who is joined with whom.
        models: of each direction.
        cells: that share their rate fairly, for each direction that is in one.
        deliver: what to do with a packet that has arrived.
        offload: whether packets begin with a virtio header and may stand for several.
    """

    def __init__(
        self,
        network: Network,
        models: Mapping[Leg, LinkModel],
        cells: Mapping[Leg, FairCell],
        deliver: Deliver,
        *,
        offload: bool = False,
    ) -> None:
        self._deliver = deliver
        self._large = large if offload else None
        self._offset = offset = HEADER_BYTES if offload else 0
        self._lines = {leg: _Line(models[leg], leg in cells) for leg in network.legs()}
        numbers = {host: number for number, host in enumerate(network.hosts)}
        self._ways: list[dict[bytes, tuple[_Hop, ...]]] = [{} for _ in network.hosts]
        ways = network.ways()
        for (source, target), way in ways.items():
            address = network.outside(target).packed
            self._ways[numbers[source]][address] = self._tree(numbers, [way])
        # A NAT lets groups neither out nor in.
        inner = network.behind_nat
        self._groups = [
            self._tree(numbers, [w for (a, b), w in ways.items() if a == host and not inner & {a, b}])
            for host in network.hosts
        ]
        self._nats = {
            numbers[host]: Nat(network.address(host).packed, network.outside(host).packed, offset)
            for host in network.behind_nat
        }
        self._cells = list({id(cell): cell for cell in cells.values()}.values())
        self._held: list[tuple[float, int, _Hop, bytes]] = []
        self._order = count()
        self.now_us = 0.0
        self.stray = self.refused_by_nat = self.given_up = 0

    def _tree(self, numbers: Mapping[str, int], ways: Iterable[tuple[Leg, ...]]) -> tuple[_Hop, ...]:
        """Ways from one host as one tree, so that a packet for many passes a link once."""
        branches: dict[Leg, list[tuple[Leg, ...]]] = {}
        for way in ways:
            if way:
                branches.setdefault(way[0], []).append(way[1:])
        return tuple(
            _Hop(
                self._lines[direction],
                numbers[direction.target] if () in rest else -1,
                self._tree(numbers, rest),
            )
            for direction, rest in branches.items()
        )

    @property
    def counts(self) -> dict[str, DirectionCounts]:
        """What every direction has counted."""
        return {str(direction): line.counts for direction, line in self._lines.items()}

    @property
    def due_us(self) -> float:
        """When there is something to do; infinity while nothing is under way."""
        due_us = self._held[0][0] if self._held else inf
        return min(due_us, *(cell.due_us for cell in self._cells)) if self._cells else due_us

    def replace(self, direction: Leg, model: LinkModel) -> None:
        """Another model for what is offered from now on; what is under way arrives as it was to."""
        self._lines[direction].offer = model.offer

    def take(self, source: int, packet: bytes, now_us: float) -> None:
        """A packet that a host has sent; ``now_us`` never falls.  What is not IPv4 is ignored."""
        if self._cells or (self._held and self._held[0][0] <= now_us):
            self.advance(now_us)
        self.now_us = now_us
        ip = self._offset
        if len(packet) < ip + 20 or packet[ip] >> 4 != 4:
            return
        if packet[ip + 16] >= 224 or packet[ip + 18 : ip + 20] == b"\xff\xff":
            hops = self._groups[source]
        else:
            found = self._ways[source].get(packet[ip + 16 : ip + 20])
            if found is None:
                self.stray += 1
                return
            hops = found
            if source in self._nats:
                changed = self._nats[source].out(packet, now_us)
                if changed is None:
                    self.refused_by_nat += 1
                    return
                packet = changed
        for hop in hops:
            self._offer(hop, packet, now_us)

    def advance(self, now_us: float) -> None:
        """Let arrive what is due by now."""
        held = self._held
        while True:
            due_us = held[0][0] if held else inf
            # Cells and arrivals in the order of time, since packets that arrive may go on into a cell.
            cell = min(self._cells, key=_due_us) if self._cells else None
            if cell is not None and cell.due_us <= min(due_us, now_us):
                self._settle(cell, max(cell.due_us, self.now_us))
                continue
            if due_us > now_us:
                return
            self.now_us = max(self.now_us, due_us)
            due_us, _, hop, packet = heapq.heappop(held)
            if hop.host >= 0:
                self._arrive(hop.host, packet, due_us)
            for onward in hop.onward:
                self._offer(onward, packet, due_us)

    def _settle(self, cell: FairCell, at_us: float) -> None:
        """File what a cell has decided by then."""
        self.now_us = at_us
        for token, fate in cell.take(at_us):
            hop, packet = cast(tuple[_Hop, bytes], token)
            self._file(hop, packet, self._counted(hop.line, fate))

    def _arrive(self, host: int, packet: bytes, due_us: float) -> None:
        if self._nats and host in self._nats:
            inside = self._nats[host].back(packet, due_us)
            if inside is None:
                self.refused_by_nat += 1
                return
            packet = inside
        self._deliver(host, packet, due_us)

    def _offer(self, hop: _Hop, packet: bytes, now_us: float) -> None:
        many = self._large(packet) if self._large is not None else None
        if many is not None:
            self._offer_many(hop, many, now_us)
            return
        size = len(packet) - self._offset
        self._file(hop, packet, self._fate(hop, size, now_us, packet))

    def _offer_many(self, hop: _Hop, many: Large, now_us: float) -> None:
        if hop.line.is_fair:
            # Segments of others may come between these, so they do not travel together.
            for i, size in enumerate(many.sizes):
                self._fate(hop, size, now_us, many.part(i, i + 1))
            return
        fates = [self._fate(hop, size, now_us) for size in many.sizes]
        for index, fate in enumerate(fates):
            if fate.harm:
                many = corrupted_segment(many, index, fate.harm)
                hop.line.counts.corrupted += 1
        for start, stop, at in runs([fate.times_us for fate in fates], TOGETHER_US):
            self._hold(at, hop, many.part(start, stop))

    def _fate(self, hop: _Hop, size: int, now_us: float, packet: bytes = b"") -> Fate:
        """What becomes of it, as far as that is known by now; counted."""
        line = hop.line
        line.counts.packets += 1
        line.counts.bytes += size
        fate = line.offer(now_us, size, (hop, packet)) if line.is_fair else line.offer(now_us, size)
        return fate if fate is WAITING else self._counted(line, fate)

    def _counted(self, line: _Line, fate: Fate) -> Fate:
        counts = line.counts
        counts.copies += len(fate.times_us)
        if fate.drop is not None:
            counts.drops[fate.drop] = counts.drops.get(fate.drop, 0) + 1
        return fate

    def _file(self, hop: _Hop, packet: bytes, fate: Fate) -> None:
        """Hold what comes out of one packet."""
        if fate.harm:
            changed = corrupted(packet, fate.harm, self._offset)
            hop.line.counts.corrupted += changed is not packet
            packet = changed
        for at in fate.times_us:
            self._hold(at, hop, packet)

    def _hold(self, at_us: float, hop: _Hop, packet: bytes) -> None:
        if len(self._held) >= MAX_HELD:
            self.given_up += 1
            return
        heapq.heappush(self._held, (at_us, next(self._order), hop, packet))


def _due_us(cell: FairCell) -> float:
    return cell.due_us
