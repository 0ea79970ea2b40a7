"""How fast bits leave: constant, token bucket, traced, or by delivery opportunities.

Rates keep state: ask them in ascending order of ``start_us``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import sqrt
from typing import Final, Protocol

OPPORTUNITY_BITS: Final = 1500 * 8
"""Of one delivery opportunity, as mahimahi counts."""


class Rate(Protocol):
    """What serialises bits one after another."""

    mean_mbit_s: float
    """Over a long backlog."""

    def finish(self, start_us: float, bits: float) -> float:
        """When the last of ``bits`` has left that start at ``start_us``, never before it."""
        ...


class ConstantRate:
    """Always the same; infinity is no limit."""

    def __init__(self, mbit_s: float) -> None:
        self.mean_mbit_s = mbit_s

    def finish(self, start_us: float, bits: float) -> float:
        """See `Rate.finish`."""
        return start_us + bits / self.mean_mbit_s


class TokenBucket:
    """``mbit_s`` in the long run; after a pause up to ``burst_bits`` pass at ``peak_mbit_s``."""

    def __init__(self, mbit_s: float, burst_bits: float, peak_mbit_s: float) -> None:
        self.mean_mbit_s = mbit_s
        self._burst = burst_bits
        self._peak = peak_mbit_s
        self._tokens = burst_bits
        self._at_us = 0.0

    def finish(self, start_us: float, bits: float) -> float:
        """See `Rate.finish`; bits beyond the burst leave as their tokens come."""
        tokens = min(self._burst, self._tokens + (start_us - self._at_us) * self.mean_mbit_s)
        fastest = start_us + bits / self._peak
        if tokens >= bits:
            self._tokens, self._at_us = tokens - bits, start_us
            return fastest
        self._tokens, self._at_us = 0.0, start_us + (bits - tokens) / self.mean_mbit_s
        return max(fastest, self._at_us)


class TracedRate:
    """A rate that changes as a trace says, over and over again.

    Args:
        times_us: ascending, the first is the trace's begin; the last value lasts as long as
            the one before it.
        mbit_s: at each time; one at least is above zero.
        interpolate: change evenly from one value to the next, rather than in steps.
        offset_us: how far into the trace time 0 is.
    """

    def __init__(
        self, times_us: Sequence[float], mbit_s: Sequence[float], *, interpolate: bool, offset_us: float = 0.0
    ) -> None:
        last = times_us[-1] - times_us[-2] if len(times_us) > 1 else 1e6
        self._times = [at - times_us[0] for at in times_us] + [times_us[-1] - times_us[0] + last]
        self._rates = list(mbit_s)
        ends = [*mbit_s[1:], mbit_s[0]] if interpolate else mbit_s
        spans = [stop - start for start, stop in pairwise(self._times)]
        self._slopes = [(end - begin) / span for begin, end, span in zip(mbit_s, ends, spans, strict=True)]
        areas = [(begin + end) / 2 * span for begin, end, span in zip(mbit_s, ends, spans, strict=True)]
        self._bits = list(accumulate(areas, initial=0.0))
        self._offset = offset_us
        self.mean_mbit_s = self._bits[-1] / self._times[-1]

    def finish(self, start_us: float, bits: float) -> float:
        """See `Rate.finish`."""
        total = self._bits[-1]
        target = self._before(start_us) + bits
        rounds, rest = divmod(target, total)
        if rest == 0.0:  # just reached at the end of a round, not at the first bit of the next
            rounds, rest = rounds - 1, total
        i = max(bisect_left(self._bits, rest) - 1, 0)
        rest -= self._bits[i]
        rate, slope = self._rates[i], self._slopes[i]
        root = sqrt(max(rate * rate + 2 * slope * rest, 0.0))
        within = 2 * rest / (rate + root) if rest > 0 else 0.0
        at = rounds * self._times[-1] + min(self._times[i] + within, self._times[i + 1]) - self._offset
        return max(at, start_us)

    def _before(self, at_us: float) -> float:
        """Bits from the trace's begin to ``at_us``."""
        rounds, at = divmod(at_us + self._offset, self._times[-1])
        i = min(bisect_right(self._times, at) - 1, len(self._rates) - 1)
        at -= self._times[i]
        return rounds * self._bits[-1] + self._bits[i] + at * (self._rates[i] + self._slopes[i] * at / 2)


class OpportunityRate:
    """Bits leave only at given instants, 1,500 bytes at each, over and over again.

    As in mahimahi a packet may use a part of an opportunity or several; what nobody waits
    for is wasted.

    Args:
        ms: ascending, not negative, the last above zero: the trace begins anew then.
        offset_us: how far into the trace time 0 is.
    """

    def __init__(self, ms: Sequence[int], *, offset_us: float = 0.0) -> None:
        self._times: list[float] = []
        self._counts = [0]
        for count, at in enumerate(ms, 1):
            if self._times and self._times[-1] == at * 1000.0:
                self._counts[-1] = count
            else:
                self._times.append(at * 1000.0)
                self._counts.append(count)
        self._offset = offset_us
        self._used = 0.0
        self.mean_mbit_s = self._counts[-1] * OPPORTUNITY_BITS / self._times[-1]

    def finish(self, start_us: float, bits: float) -> float:
        """See `Rate.finish`."""
        period, count = self._times[-1], self._counts[-1]
        rounds, at = divmod(start_us + self._offset, period)
        gone = rounds * count + self._counts[bisect_left(self._times, at)]
        if at == 0.0 and rounds:
            # The end of the last round and the begin of this one are the same instant.
            gone = (rounds - 1) * count + self._counts[bisect_left(self._times, period)]
        self._used = max(self._used, gone * OPPORTUNITY_BITS) + bits
        needed = -(-self._used // OPPORTUNITY_BITS)
        rounds, rest = divmod(needed, count)
        if rest == 0.0:
            rounds, rest = rounds - 1, count
        left = rounds * period + self._times[bisect_left(self._counts, rest) - 1] - self._offset
        return max(left, start_us)
