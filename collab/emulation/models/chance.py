"""What happens to a packet by chance: rare events, and losses in bursts.

Between two events nothing is drawn: the number of packets up to the next one is.
"""

from __future__ import annotations

import random
from math import inf, log, log1p
from typing import Protocol


class Chance(Protocol):
    """Whether something happens to the next packet."""

    def happens(self) -> bool:
        """Ask once for each packet."""
        ...

    def spares(self, packets: int) -> bool:
        """Whether it happens to none of the next packets; if it may, nothing was asked yet."""
        ...


def geometric(rng: random.Random, probability: float) -> float:
    """How many packets pass before one to which an event of this probability happens."""
    if probability >= 1.0:
        return 0
    if probability <= 0.0:
        return inf
    return log(1.0 - rng.random()) // log1p(-probability)


class Independent:
    """To every packet with the same probability, whatever happened before."""

    def __init__(self, rng: random.Random, probability: float) -> None:
        self._rng = rng
        self._probability = probability
        self._pass = geometric(rng, probability)

    def happens(self) -> bool:
        """See `Chance.happens`."""
        if self._pass > 0:
            self._pass -= 1
            return False
        self._pass = geometric(self._rng, self._probability)
        return True

    def spares(self, packets: int) -> bool:
        """See `Chance.spares`."""
        if self._pass < packets:
            return False
        self._pass -= packets
        return True


class Corruption:
    """Turns a bit in packets, in each by itself, with the same probability."""

    def __init__(self, rng: random.Random, probability: float) -> None:
        self._rng = rng
        self._chance = Independent(rng, probability)

    def harm(self) -> int:
        """Ask once for each packet: 0, or what stands for the bit that is turned."""
        return 1 + self._rng.getrandbits(32) if self._chance.happens() else 0


class GilbertElliott:
    """Loss in bursts: a chain of a good and a bad state that takes a step with every packet.

    Gilbert 1960 and Elliott 1963.

    Args:
        rng: where to draw from.
        to_bad: probability of leaving the good state, per packet.
        to_good: of leaving the bad one; a bad spell has 1 / ``to_good`` packets on average.
        in_bad: probability of loss in the bad state; in the good one nothing is lost.
    """

    def __init__(self, rng: random.Random, to_bad: float, to_good: float, in_bad: float = 1.0) -> None:
        self._rng = rng
        self._to_bad = to_bad
        self._to_good = to_good
        self._in_bad = in_bad
        self._bad = rng.random() * (to_bad + to_good) < to_bad
        self._left = self._spell()

    def _spell(self) -> float:
        """Packets in the state that just began: one at least."""
        return 1 + geometric(self._rng, self._to_good if self._bad else self._to_bad)

    def happens(self) -> bool:
        """See `Chance.happens`."""
        if self._left <= 0:
            self._bad = not self._bad
            self._left = self._spell()
        self._left -= 1
        return self._bad and (self._in_bad >= 1.0 or self._rng.random() < self._in_bad)

    def spares(self, packets: int) -> bool:
        """See `Chance.spares`."""
        if self._bad or self._left < packets:
            return False
        self._left -= packets
        return True


def bursts(rng: random.Random, loss: float, spell: float, in_bad: float) -> GilbertElliott:
    """Losses of share ``loss`` in bad spells of ``spell`` packets on average."""
    return GilbertElliott(rng, to_bad(loss, spell, in_bad), 1.0 / spell, in_bad)


def to_bad(loss: float, spell: float, in_bad: float) -> float:
    """The probability of leaving the good state that makes ``loss``; above 1 where none does."""
    bad = loss / in_bad
    return bad / ((1.0 - bad) * spell) if bad < 1.0 else inf
