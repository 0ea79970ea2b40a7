"""A cell that shares its rate fairly: a queue for each direction, served in turn.

Deficit round robin (Shreedhar and Varghese, SIGCOMM 1995).  When a packet leaves depends on
who else sends until then, so fates are not known at once: a caller asks for them at ``due_us``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from collab.emulation.base import Fate
from collab.emulation.models.rate import Rate

_QUANTUM_BITS: Final = 1538 * 8
"""What a turn adds: a full packet with its framing."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A packet in a member's queue."""

    packet: object
    size_bytes: int
    bits: float
    came_us: float
    ready_us: float
    ahead_bytes: int
    """What was in front of it in its queue when it came."""


class Customer(Protocol):
    """What a direction does with its packets around their sending."""

    def opens(self, at_us: float) -> float:
        """When there is service, at ``at_us`` or later."""
        ...

    def begin(self, at_us: float, waiting: Waiting) -> Fate | None:
        """A packet is at the head and would be sent now; a fate if it is dropped instead."""
        ...

    def end(self, left_us: float, waiting: Waiting) -> Fate:
        """A packet's last bit has left."""
        ...


class FairMember:
    """One direction in a fair cell."""

    def __init__(self, cell: FairCell) -> None:
        self.cell = cell
        self.waiting: deque[Waiting] = deque()
        self.deficit = 0.0
        self.customer: Customer
        """Who sets itself here when it takes the membership."""

    def ready(self, at_us: float) -> float:
        """When the packet in front may be sent, at ``at_us`` or later."""
        return self.customer.opens(max(self.waiting[0].ready_us, at_us))


class FairCell:
    """Equal shares for all that have something to send.

    The caller keeps one timer at ``due_us``, which changes with every `take` and with
    packets that are offered to its members, and calls `take` when it is reached.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._ring: deque[FairMember] = deque()
        self._sending: tuple[FairMember, Waiting] | None = None
        self._step_us = inf
        self._settled: list[tuple[object, Fate]] = []

    @property
    def due_us(self) -> float:
        """When `take` has something to do; infinity while there is nothing to wait for."""
        return -inf if self._settled else self._step_us

    def member(self) -> FairMember:
        """Access for one more direction."""
        return FairMember(self)

    def put(self, now_us: float, member: FairMember, waiting: Waiting) -> None:
        """A packet joins its member's queue."""
        self._run(now_us)
        member.waiting.append(waiting)
        if len(member.waiting) == 1:
            self._ring.append(member)
        if self._sending is None:
            self._next(now_us)

    def take(self, now_us: float) -> list[tuple[object, Fate]]:
        """Packets whose fates are settled by now, in order; as exact when it is called late."""
        self._run(now_us)
        settled, self._settled = self._settled, []
        return settled

    def _run(self, now_us: float) -> None:
        """All that happens up to now, each at its time."""
        while self._step_us <= now_us and self._step_us != inf:
            at = self._step_us
            if self._sending is not None:
                member, waiting = self._sending
                self._settled.append((waiting.packet, member.customer.end(at, waiting)))
            self._next(at)

    def _next(self, at_us: float) -> None:
        """Send the next packet of whose turn it is, or wait for the first that may be sent."""
        self._sending = None
        self._step_us = inf
        held, ring = 0, self._ring
        while held < len(ring):
            member = ring[0]
            ready = member.ready(at_us)
            if ready > at_us:
                self._step_us = min(self._step_us, ready)
                held += 1
                ring.rotate(-1)
                continue
            waiting = member.waiting[0]
            if member.deficit < waiting.bits:
                member.deficit += _QUANTUM_BITS
                ring.rotate(-1)
                held = 0
                continue
            member.waiting.popleft()
            member.deficit -= waiting.bits
            if not member.waiting:
                ring.popleft()
            fate = member.customer.begin(at_us, waiting)
            if fate is None:
                self._sending = member, waiting
                self._step_us = self._rate.finish(at_us, waiting.bits)
                return
            self._settled.append((waiting.packet, fate))
