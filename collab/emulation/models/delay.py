"""How long a packet is under way after its last bit has left: shapes of jitter, and what draws them.

A shape is an inverse survival function: the delay that a share of ``rank`` of packets
exceeds.  So quantiles are known without drawing, and a rank may be independent from packet
to packet or follow the one before.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import erfc, sqrt
from statistics import NormalDist
from typing import Final, Protocol

_LEAST_RANK: Final = 1e-12
"""The rank 0 would be an infinite delay."""
_SQRT_HALF: Final = sqrt(0.5)

Shape = Callable[[float], float]
"""From a rank in (0, 1] to a delay in µs; falls as the rank grows."""


class Delay(Protocol):
    """The time on the way."""

    def draw(self, at_us: float) -> float:
        """Delay in µs of a packet whose last bit leaves at ``at_us``; ask in ascending order."""
        ...


def constant(delay_us: float) -> Shape:
    """Always the same."""
    return lambda rank: delay_us


def normal(mean_us: float, deviation_us: float) -> Shape:
    """A normal distribution, with what would be below zero at zero."""
    inverse = NormalDist(mean_us, deviation_us).inv_cdf
    return lambda rank: max(inverse(1.0 - rank), 0.0) if rank < 1.0 else 0.0


def pareto(least_us: float, extra_us: float, tail: float) -> Shape:
    """Lomax: ``least_us`` and a tail of mean ``extra_us``; the smaller ``tail`` (> 1), the heavier."""
    scale, power = extra_us * (tail - 1.0), -1.0 / tail
    return lambda rank: least_us + scale * (rank**power - 1.0)


def quantiles(points: Sequence[tuple[float, float]], base_us: float = 0.0) -> Shape:
    """Straight between (probability, µs), flat beyond the first and the last."""
    shares = [share for share, _ in points]
    values = [base_us + value for _, value in points]

    def inverse(rank: float) -> float:
        share = 1.0 - rank
        i = bisect_left(shares, share)
        if i == 0:
            return values[0]
        if i == len(shares):
            return values[-1]
        part = (share - shares[i - 1]) / (shares[i] - shares[i - 1])
        return values[i - 1] + part * (values[i] - values[i - 1])

    return inverse


class ConstantDelay:
    """No jitter, so nothing is drawn."""

    def __init__(self, delay_us: float) -> None:
        self._delay_us = delay_us

    def draw(self, at_us: float) -> float:
        """See `Delay.draw`."""
        return self._delay_us


class Jitter:
    """Every packet draws for itself."""

    def __init__(self, rng: random.Random, shape: Shape) -> None:
        self._random = rng.random
        self._shape = shape

    def draw(self, at_us: float) -> float:
        """See `Delay.draw`."""
        return self._shape(max(1.0 - self._random(), _LEAST_RANK))


class CorrelatedJitter:
    """Packets close to each other have like delays; those two ``time_us`` apart know nothing of each other.

    Between instants ``time_us`` apart, each with a normal value of its own, the value goes
    smoothly from one to the next, scaled so that it is normal everywhere.  Packets back to
    back so keep their order and rate, and the distribution over longer times is the shape's.
    """

    def __init__(self, rng: random.Random, shape: Shape, time_us: float) -> None:
        self._gauss = rng.gauss
        self._shape = shape
        self._time_us = time_us
        self._begin_us = 0.0
        self._from, self._to = rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0)

    def draw(self, at_us: float) -> float:
        """See `Delay.draw`."""
        part = (at_us - self._begin_us) / self._time_us
        if part >= 1.0:
            steps = part // 1.0
            self._from = self._to if steps == 1.0 else self._gauss(0.0, 1.0)
            self._to = self._gauss(0.0, 1.0)
            self._begin_us += steps * self._time_us
            part -= steps
        rest = 1.0 - part
        value = (rest * self._from + part * self._to) / sqrt(rest * rest + part * part)
        return self._shape(max(0.5 * erfc(value * _SQRT_HALF), _LEAST_RANK))
