"""What packets pass between two hosts in the simulator: directions of links, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from collab.emulation.clock import Clock
from collab.emulation.models.delay import Jitter
from collab.emulation.models.direction import Direction

Arrivals = list["float | None"]
"""When each packet of a train arrives, in µs; None for one that was dropped."""


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


class Pipe:
    """One direction of one link, shared by all that passes it."""

    def __init__(self, name: str, direction: Direction, usual_us: float) -> None:
        self.name = name
        self.counters = Counters()
        self.cut = False
        self._last_us = 0.0
        self.set(direction, usual_us)

    def set(self, direction: Direction, usual_us: float) -> None:
        """Behave otherwise from now on; ``usual_us`` is the delay of a small packet."""
        parts = direction.parts
        self.usual_us = usual_us
        self.merges = not (parts.codel or parts.reorder or parts.duplicate or isinstance(parts.delay, Jitter))
        """Whether packets of a train that follow each other may be offered as one."""
        # Losses are drawn here, packet by packet, whether trains are merged or not.
        self._loss = parts.loss.happens if parts.loss is not None else None
        self._offer_to = Direction(replace(parts, loss=None), direction.arrived_us).offer
        self._overhead = parts.overhead_bytes

    def carry(self, train: Train) -> None:
        """Offer the packets that are still there, and note when they come out.

        The rest of a merged train follows the first packet as it comes in, and its end cannot
        come out sooner than a packet behind its end.
        """
        self.counters.packets += train.packets
        lost = self._losses(train.packets)
        if train.merged:
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
        else:
            train.times = [
                None if at is None else self._offer(at, size)
                for at, size in zip(train.times, train.sizes, strict=True)
            ]
        for i in lost:
            if train.times[i] is not None:
                self._drop("loss")
            train.times[i] = None

    def _losses(self, packets: int) -> list[int]:
        happens = self._loss
        return [] if happens is None else [i for i in range(packets) if happens()]

    def _offer(self, at_us: float, size_bytes: int) -> float | None:
        """Trains do not mix: a packet that comes between those of another train goes behind them."""
        self._last_us = at = max(at_us, self._last_us)
        if self.cut:
            self._drop("cut")
            return None
        fate = self._offer_to(at, size_bytes)
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
        return sum(pipe.usual_us for pipe in self.pipes)

    def send(self, train: Train, arrived: Callable[[Arrivals], None]) -> None:
        """Send a train that is at the first pipe now; ``arrived`` is told times that may lie ahead."""
        if self.pipes:
            self._pass(0, train, arrived)
        else:
            arrived(train.times)

    def _pass(self, index: int, train: Train, arrived: Callable[[Arrivals], None]) -> None:
        self.pipes[index].carry(train)
        first = next((at for at in train.times if at is not None), None)
        if index + 1 == len(self.pipes) or first is None:
            arrived(train.times)
        else:
            self._clock.at(first, self._pass, index + 1, train, arrived)
