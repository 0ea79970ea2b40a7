"""What packets pass between two hosts in the simulator: directions of links, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf

from collab.emulation.base import WAITING, Fate
from collab.emulation.clock import Clock
from collab.emulation.models.cell import FairCell
from collab.emulation.models.delay import Jitter
from collab.emulation.models.direction import Direction

Arrivals = list["float | None"]
"""When each packet of a train arrives, in µs; None for one that was dropped."""
Settle = Callable[[Fate], None]


@dataclass(slots=True)
class Counters:
    """What one direction carried."""

    packets: int = 0
    bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """By reason."""


@dataclass(slots=True)
class Train:
    """Packets that leave one after another.

    Of a ``merged`` train the first packet stands alone, and all others are one.
    """

    sizes: list[int]
    """Bytes with headers."""
    times: Arrivals
    """When each is wholly at the next pipe."""
    merged: bool
    packets: int
    full_bytes: int
    """Size of a full packet."""

    def split(self, from_us: float) -> None:
        """Be single packets, all but the first from a time on."""
        if self.merged:
            others = self.packets - 1
            last = self.sizes[1] - (others - 1) * self.full_bytes
            self.sizes = [self.sizes[0], *[self.full_bytes] * (others - 1), last]
            self.times = [self.times[0], *[from_us] * others]
            self.merged = False


class FairGate:
    """A cell that shares its rate fairly: it says when packets have left, and a timer asks it."""

    def __init__(self, clock: Clock, cell: FairCell) -> None:
        self._clock, self._cell = clock, cell
        self._armed_us = inf

    def offered(self) -> None:
        """Something was offered to a member of the cell."""
        due = max(self._cell.due_us, self._clock.now_us)
        if due < self._armed_us:
            self._armed_us = due
            self._clock.at(due, self._ring, due)

    def _ring(self, due_us: float) -> None:
        if due_us == self._armed_us:
            self._armed_us = inf
            for packet, fate in self._cell.take(self._clock.now_us):
                settle: Settle = packet  # type: ignore[assignment]
                settle(fate)
            if self._cell.due_us < inf:
                self.offered()


class Pipe:
    """One direction of one link, shared by all that passes it."""

    def __init__(self, name: str, direction: Direction, usual_us: float, gate: FairGate | None) -> None:
        self.name = name
        self.counters = Counters()
        self.cut = False
        self._gate = gate
        self._last_us = 0.0
        self.set(direction, usual_us)

    def set(self, direction: Direction, usual_us: float) -> None:
        """Behave otherwise from now on; ``usual_us`` is the delay of a small packet."""
        parts = direction.parts
        self.usual_us = usual_us
        self.merges = not (
            self._gate or parts.codel or parts.reorder or parts.duplicate or isinstance(parts.delay, Jitter)
        )
        """Whether packets of a train that follow each other may be offered as one."""
        # Losses are drawn here, packet by packet, whether trains are merged or not.
        self._loss = parts.loss
        self._offer_to = Direction(replace(parts, loss=None, corrupt=None), direction.arrived_us).offer
        self._overhead = parts.overhead_bytes

    def carry(self, train: Train, then: Callable[[], None]) -> None:
        """Offer the packets that are still there; call ``then`` when it is known when they come out.

        The rest of a merged train follows the first packet as it comes in, and its end cannot
        come out sooner than a packet behind its end.
        """
        self.counters.packets += train.packets
        lost = self._losses(train.packets)
        if self._gate is not None and not self.cut:
            self._share(train, lost, self._gate, then)
            return
        if train.merged:
            self._carry_merged(train, lost)
        else:
            train.times = [
                None if at is None else self._offer(at, size)
                for at, size in zip(train.times, train.sizes, strict=True)
            ]
        if lost:
            self._lose(train, lost)
        then()

    def _carry_merged(self, train: Train, lost: list[int]) -> None:
        first, last = train.times[0] or 0.0, train.times[1] or 0.0
        first_out = self._offer(first, train.sizes[0])
        rest = train.sizes[1] + (train.packets - 2) * self._overhead
        last_out = None if lost or first_out is None else self._offer(first, rest)
        if first_out is not None and last_out is not None:
            train.times = [first_out, max(last_out, last + first_out - first)]
            return
        # No room for all of it, or one is lost: one by one.
        train.split(first)
        train.times[1:] = [self._offer(first, size) for size in train.sizes[1:]]
        train.times[0] = first_out

    def _share(self, train: Train, lost: list[int], gate: FairGate, then: Callable[[], None]) -> None:
        """Offer to a fair cell, which settles packets later."""
        train.split(train.times[0] or 0.0)
        left = len(train.sizes) - train.times.count(None)

        def settled(index: int, fate: Fate) -> None:
            nonlocal left
            left -= 1
            train.times[index] = self._noted(fate, train.sizes[index])
            if not left:
                self._lose(train, lost)
                then()

        for index, (at, size) in enumerate(zip(tuple(train.times), train.sizes, strict=True)):
            if at is not None:
                self._last_us = at = max(at, self._last_us)
                fate = self._offer_to(at, size, partial(settled, index))
                if fate is not WAITING:
                    settled(index, fate)
        gate.offered()

    def _losses(self, packets: int) -> list[int]:
        loss = self._loss
        if loss is None or loss.spares(packets):
            return []
        return [i for i in range(packets) if loss.happens()]

    def _lose(self, train: Train, lost: list[int]) -> None:
        for i in lost:
            if train.times[i] is not None:
                self._drop("loss")
            train.times[i] = None

    def _offer(self, at_us: float, size_bytes: int) -> float | None:
        """Trains do not mix: a packet that comes between those of another train goes behind them."""
        self._last_us = at = max(at_us, self._last_us)
        if self.cut:
            self._drop("cut")
            return None
        return self._noted(self._offer_to(at, size_bytes), size_bytes)

    def _noted(self, fate: Fate, size_bytes: int) -> float | None:
        if not fate.times_us:
            self._drop(fate.drop or "loss")
            return None
        self.counters.bytes += size_bytes
        return fate.times_us[0]

    def _drop(self, reason: str) -> None:
        dropped = self.counters.dropped
        dropped[reason] = dropped.get(reason, 0) + 1


class Path:
    """The way from one host to another."""

    def __init__(self, clock: Clock, pipes: Sequence[Pipe]) -> None:
        self._clock = clock
        self.pipes = tuple(pipes)

    @property
    def merges(self) -> bool:
        """Whether trains may be merged on all of the way."""
        for pipe in self.pipes:  # noqa: SIM110 - asked for with every train
            if not pipe.merges:
                return False
        return True

    @property
    def usual_us(self) -> float:
        """How long a small packet takes."""
        total_us = 0.0
        for pipe in self.pipes:
            total_us += pipe.usual_us
        return total_us

    def send(self, train: Train, arrived: Callable[[], None]) -> None:
        """Send a train that is at the first pipe now; then its ``times`` are told, which may lie ahead."""
        if self.pipes:
            self._pass(0, train, arrived)
        else:
            arrived()

    def _pass(self, index: int, train: Train, arrived: Callable[[], None]) -> None:
        self.pipes[index].carry(train, partial(self._passed, index, train, arrived))

    def _passed(self, index: int, train: Train, arrived: Callable[[], None]) -> None:
        if index + 1 == len(self.pipes):
            arrived()
            return
        for at in train.times:
            if at is not None:
                self._clock.at(at, self._pass, index + 1, train, arrived)
                return
        arrived()
