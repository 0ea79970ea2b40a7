"""What a link model is: the fate of each packet that is offered to one direction of a link."""

from __future__ import annotations

import random
from typing import Final, Literal, Protocol

import msgspec

Drop = Literal["queue", "aqm", "outage", "loss"]
"""Why a packet is gone: no room in the queue, active queue management, an outage, lost on the air."""


class Fate(msgspec.Struct, frozen=True, gc=False):
    """When copies of a packet arrive, in µs: none of a dropped one, two of a duplicated one."""

    times_us: tuple[float, ...]
    drop: Drop | None = None
    harm: int = 0
    """Of a corrupted one: a number that says which bit of its payload was turned, in every copy."""


WAITING: Final = Fate(())
"""Of a packet in a cell that shares fairly: its fate comes from the cell when it is settled."""


class LinkModel(Protocol):
    """One direction of one link.

    A model reads no clock and draws only from the random sources that it was given, so the
    same seed and the same offers give the same fates.
    """

    def offer(self, now_us: float, size_bytes: int, packet: object = None) -> Fate:
        """Decide about a packet that reaches the link's end now; O(1) amortised, raises nothing.

        The answer is `WAITING` only where a fair cell serves the link; the cell then hands
        out ``packet`` and its fate when it is settled.

        ``now_us`` may not fall from one call to the next, over all links that share a part,
        such as a cell or both directions of a link.  Arrival times do not
        fall from one packet to the next but for packets that reordering holds back.
        """
        ...


SEPARATOR: Final = "\x1f"


def stream(seed: int, *names: str) -> random.Random:
    """A random source of its own for each part, the same in every process.

    Parts that share one would change each other's draws: the times of outages would depend
    on how many packets are sent.
    """
    return random.Random(SEPARATOR.join((str(seed), *names)))
