"""One direction of a link: its parts in the order in which a packet meets them.

Queue, radio, outage, active queue management, serialisation; then, on the air, loss,
corruption, delay, reordering and duplication.  What is lost there has used its share of the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from collab.emulation.base import WAITING, Drop, Fate
from collab.emulation.models.cell import FairMember, Waiting
from collab.emulation.models.chance import Chance, Corruption
from collab.emulation.models.delay import Delay
from collab.emulation.models.outages import Gate
from collab.emulation.models.queue import Backlog, CoDel
from collab.emulation.models.radio import Radio
from collab.emulation.models.server import Server

_DROPPED: Final[dict[Drop, Fate]] = {
    "queue": Fate((), "queue"),
    "aqm": Fate((), "aqm"),
    "outage": Fate((), "outage"),
    "loss": Fate((), "loss"),
}


@dataclass(frozen=True)
class Parts:
    """What a direction is made of; None is a part that does nothing."""

    server: Server | FairMember
    delay: Delay
    overhead_bytes: int = 0
    """Of framing around each packet."""
    queue: Backlog | None = None
    codel: CoDel | None = None
    """Needs a queue."""
    radio: Radio | None = None
    gate: Gate | None = None
    loss: Chance | None = None
    corrupt: Corruption | None = None
    reorder: Chance | None = None
    reorder_us: float = 0.0
    """What a reordered packet is held back, while later ones overtake it."""
    duplicate: Chance | None = None


class Direction:
    """A `LinkModel` of parts."""

    def __init__(self, parts: Parts, arrived_us: float = -inf) -> None:
        self.parts = parts
        self.arrived_us = arrived_us
        """When the last packet so far arrives."""
        self._draw = parts.delay.draw
        if isinstance(parts.server, FairMember):
            parts.server.customer = self

    def offer(self, now_us: float, size_bytes: int, packet: object = None) -> Fate:
        """See `LinkModel.offer`."""
        parts = self.parts
        ahead = 0
        if parts.queue is not None:
            if not parts.queue.room(now_us, size_bytes):
                return _DROPPED["queue"]
            ahead = parts.queue.waiting_bytes
        ready = now_us if parts.radio is None else parts.radio.ready(now_us)
        bits = (size_bytes + parts.overhead_bytes) * 8
        server = parts.server
        if isinstance(server, FairMember):
            if parts.queue is not None:
                parts.queue.add(inf, size_bytes)
            server.cell.put(now_us, server, Waiting(packet, size_bytes, bits, now_us, ready, ahead))
            return WAITING
        ready = max(ready, server.free_us)
        if parts.gate is not None:
            if not parts.gate.holds and parts.gate.opens(ready) > ready:
                return _DROPPED["outage"]
            ready = parts.gate.opens(ready)
        if parts.codel is not None and parts.codel.drops(ready, ready - now_us, ahead):
            return _DROPPED["aqm"]
        left = server.serve(now_us, ready, bits)
        if parts.queue is not None:
            parts.queue.add(left, size_bytes)
        return self._air(left)

    def opens(self, at_us: float) -> float:
        """See `Customer.opens`."""
        gate = self.parts.gate
        return at_us if gate is None or not gate.holds else gate.opens(at_us)

    def begin(self, at_us: float, waiting: Waiting) -> Fate | None:
        """See `Customer.begin`."""
        parts = self.parts
        fate = None
        if parts.gate is not None and parts.gate.opens(at_us) > at_us:
            fate = _DROPPED["outage"]
        elif parts.codel is not None and parts.codel.drops(
            at_us, at_us - waiting.came_us, waiting.ahead_bytes
        ):
            fate = _DROPPED["aqm"]
        if fate is not None and parts.queue is not None:
            parts.queue.pop()
        return fate

    def end(self, left_us: float, waiting: Waiting) -> Fate:
        """See `Customer.end`."""
        if self.parts.queue is not None:
            self.parts.queue.pop()
        return self._air(left_us)

    def _air(self, left_us: float) -> Fate:
        """What happens to a packet that has left."""
        parts = self.parts
        if parts.radio is not None:
            parts.radio.busy(left_us)
        if parts.loss is not None and parts.loss.happens():
            return _DROPPED["loss"]
        harm = 0 if parts.corrupt is None else parts.corrupt.harm()
        at = left_us + self._draw(left_us)
        if parts.reorder is not None and parts.reorder.happens():
            at += parts.reorder_us
        elif at < self.arrived_us:
            at = self.arrived_us
        else:
            self.arrived_us = at
        if parts.duplicate is not None and parts.duplicate.happens():
            return Fate((at, at), None, harm)
        return Fate((at,), None, harm)
