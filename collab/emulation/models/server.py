"""Who uses a rate: one direction alone, or all devices of a cell in the order of their packets."""

from __future__ import annotations

from typing import Protocol

from collab.emulation.models.rate import Rate


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
    """One queue for all devices of a cell: who sends more gets more."""

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
