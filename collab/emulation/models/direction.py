"""One direction of a link: its parts in the order in which a packet meets them.

Queue, radio, outage, active queue management, serialisation; then, on the air, loss, delay,
reordering and duplication.  What is lost there has used its share of the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from collab.emulation.base import Drop, Fate
from collab.emulation.models.chance import Chance
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

    server: Server
    delay: Delay
    overhead_bytes: int = 0
    """Of framing around each packet."""
    queue: Backlog | None = None
    codel: CoDel | None = None
    """Needs a queue."""
    radio: Radio | None = None
    gate: Gate | None = None
    loss: Chance | None = None
    reorder: Chance | None = None
    reorder_us: float = 0.0
    """What a reordered packet is held back, while later ones overtake it."""
    duplicate: Chance | None = None


class Direction:
    """A `LinkModel` of parts."""

    def __init__(self, parts: Parts, arrived_us: float = -inf) -> None:
        self._parts = parts
        self._serve = parts.server.serve
        self._draw = parts.delay.draw
        self.arrived_us = arrived_us
        """When the last packet so far arrives."""

    @property
    def parts(self) -> Parts:
        """What it is made of."""
        return self._parts

    def offer(self, now_us: float, size_bytes: int) -> Fate:
        """See `LinkModel.offer`."""
        left = self._send(now_us, size_bytes)
        if isinstance(left, Fate):
            return left
        parts = self._parts
        if parts.loss is not None and parts.loss.happens():
            return _DROPPED["loss"]
        at = left + self._draw(left)
        if parts.reorder is not None and parts.reorder.happens():
            at += parts.reorder_us
        elif at < self.arrived_us:
            at = self.arrived_us
        else:
            self.arrived_us = at
        if parts.duplicate is not None and parts.duplicate.happens():
            return Fate((at, at))
        return Fate((at,))

    def _send(self, now_us: float, size_bytes: int) -> float | Fate:
        """When the packet's last bit leaves, or why it does not."""
        parts = self._parts
        queue, radio, gate = parts.queue, parts.radio, parts.gate
        ahead = 0
        if queue is not None:
            if not queue.room(now_us, size_bytes):
                return _DROPPED["queue"]
            ahead = queue.waiting_bytes
        ready = max(now_us if radio is None else radio.ready(now_us), parts.server.free_us)
        if gate is not None:
            opens = gate.opens(ready)
            if opens > ready and not gate.holds:
                return _DROPPED["outage"]
            ready = opens
        if parts.codel is not None and parts.codel.drops(ready, ready - now_us, ahead):
            return _DROPPED["aqm"]
        left = self._serve(now_us, ready, (size_bytes + parts.overhead_bytes) * 8)
        if queue is not None:
            queue.add(left, size_bytes)
        if radio is not None:
            radio.busy(left)
        return left
