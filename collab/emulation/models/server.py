"""Who may use a rate: one direction alone, or all devices of a cell, in order or fairly."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Protocol

from collab.emulation.models.rate import FluidRate, Rate


class Server(Protocol):
    """One direction's access to a rate; its packets leave in the order in which they come."""

    free_us: float
    """When the last packet of this direction has left."""

    def serve(self, now_us: float, ready_us: float, bits: float) -> float:
        """Book a packet that came now and may start at ``ready_us``; when its last bit has left.

        ``ready_us`` is never before ``now_us`` and ``free_us``.
        """
        ...


class Line:
    """A rate of one direction alone."""

    def __init__(self, rate: Rate, free_us: float = 0.0) -> None:
        self._rate = rate
        self.free_us = free_us

    def serve(self, now_us: float, ready_us: float, bits: float) -> float:
        """See `Server.serve`."""
        self.free_us = self._rate.finish(ready_us, bits)
        return self.free_us


class FifoCell:
    """One queue for all: who sends more gets more."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.free_us = 0.0

    def member(self) -> Server:
        """Access for one more direction."""
        return _FifoMember(self)


class _FifoMember:
    def __init__(self, cell: FifoCell) -> None:
        self._cell = cell
        self._left_us = 0.0

    @property
    def free_us(self) -> float:
        return max(self._cell.free_us, self._left_us)

    @free_us.setter
    def free_us(self, value: float) -> None:
        self._left_us = value

    def serve(self, now_us: float, ready_us: float, bits: float) -> float:
        """See `Server.serve`; a packet that is held elsewhere blocks nobody meanwhile."""
        cell = self._cell
        start = max(cell.free_us, now_us)
        cell.free_us = cell.rate.finish(start, bits)
        self._left_us = max(cell.free_us, ready_us + (cell.free_us - start))
        return self._left_us


class FairCell:
    """Equal shares for all that have something to send.

    Generalised processor sharing (Parekh and Gallager 1993): ``_progress`` is how many bits
    each busy member has been given, ``_ends`` where each one's backlog ends on that scale.
    A packet is promised the time at which it would leave if no member sent anything more.
    Later packets of others do not take that back; they find the shares as they are, so
    sums and shares are exact over times longer than the backlog.
    """

    def __init__(self, rate: FluidRate) -> None:
        self._rate = rate
        self._progress = 0.0
        self._ends: list[float] = []
        self._at_us = 0.0
        self._period = 0

    def member(self) -> Server:
        """Access for one more direction."""
        return _FairMember(self)

    def book(self, now_us: float, member: _FairMember, bits: float) -> float:
        """Append to a member's backlog; when that is done."""
        self._advance(now_us)
        if member.period == self._period and member.end > self._progress:
            del self._ends[bisect_left(self._ends, member.end)]
            member.end += bits
        else:
            member.period, member.end = self._period, self._progress + bits
        insort(self._ends, member.end)
        sooner = bisect_left(self._ends, member.end)
        work = sum(self._ends[:sooner]) + (len(self._ends) - sooner) * member.end
        return self._rate.finish(now_us, work - len(self._ends) * self._progress)

    def _advance(self, now_us: float) -> None:
        """Give the busy members what the rate had for them since the last packet."""
        bits = self._rate.between(self._at_us, now_us) if self._ends else 0.0
        self._at_us = now_us
        while self._ends:
            busy = len(self._ends)
            needed = (self._ends[0] - self._progress) * busy
            if needed > bits:
                self._progress += bits / busy
                return
            bits -= needed
            self._progress = self._ends.pop(0)
        # All idle: begin at zero again, where sums are the most exact.
        self._progress = 0.0
        self._period += 1


class _FairMember:
    """``end`` is where its backlog ends on the cell's scale, in the busy period ``period``."""

    def __init__(self, cell: FairCell) -> None:
        self._cell = cell
        self.period = -1
        self.end = 0.0
        self.free_us = 0.0

    def serve(self, now_us: float, ready_us: float, bits: float) -> float:
        """See `Server.serve`."""
        self.free_us = max(self._cell.book(now_us, self, bits), self.free_us, ready_us)
        return self.free_us
