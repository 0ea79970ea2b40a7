"""When to send, and when to believe that something was lost; no clock, no socket.

Times are seconds of any monotonic clock.  Windows count datagrams, which hold up to
one block each.  Round trips and probe timeouts follow RFC 9002 (5 and 6.2), the
window grows by slow start and then by CUBIC (RFC 9438).  Loss below two in a hundred
of a round does not shrink it: over radio links it says nothing of congestion
(the threshold is that of BBR, draft-ietf-ccwg-bbr 5.5.10).
"""

from __future__ import annotations

from typing import Final

INITIAL_WINDOW: Final = 32
"""Datagrams; RFC 9002 7.2 has 10, RFC 9177 7.2 sends MAX_PAYLOADS 10 in one go."""
MINIMUM_WINDOW: Final = 8
"""Datagrams; RFC 9002 7.2 has 2."""
MAXIMUM_WINDOW: Final = 4096
LOSS_TOLERATED: Final = 0.02
_LOSSES_TOLERATED: Final = 2
"""So many in one round are never congestion: small windows cannot tell."""
_BETA: Final = 0.7
_C: Final = 0.4
_RENO_ALPHA: Final = 3 * (1 - _BETA) / (1 + _BETA)
"""RFC 9438 4.1, 4.2 and 4.6."""
_RISE_S: Final = (0.004, 0.016)
_RISE_SAMPLES: Final = 8
"""Least and most rise of the round trip that ends slow start, and samples it takes (RFC 9406 4.3)."""

INITIAL_RTT_S: Final = 0.333
GRANULARITY_S: Final = 0.001
"""RFC 9002 6.2.2 and 6.1.2."""
ACK_DELAY_S: Final = 0.005
"""Longest that our receivers keep an acknowledgement back."""
_MAX_PTO_S: Final = 2.0


class RoundTrip:
    """Estimate of the round trip time (RFC 9002 5)."""

    def __init__(self) -> None:
        self.smoothed_s = INITIAL_RTT_S
        self.variation_s = INITIAL_RTT_S / 2
        self.latest_s = 0.0

    def sample(self, rtt_s: float) -> None:
        """Take in one measurement."""
        rtt_s = max(rtt_s, 1e-6)
        if not self.latest_s:
            self.smoothed_s, self.variation_s = rtt_s, rtt_s / 2
        else:
            self.variation_s += (abs(self.smoothed_s - rtt_s) - self.variation_s) / 4
            self.smoothed_s += (rtt_s - self.smoothed_s) / 8
        self.latest_s = rtt_s

    def probe_s(self, tries: int) -> float:
        """How long to wait for an answer before probing again (RFC 9002 6.2.1)."""
        base = self.smoothed_s + max(4 * self.variation_s, GRANULARITY_S) + 2 * ACK_DELAY_S
        return min(base * (1 << min(tries, 10)), _MAX_PTO_S)

    @property
    def reordering_s(self) -> float:
        """Age at which what was overtaken counts as lost (RFC 9002 6.1.2)."""
        return max(9 / 8 * max(self.smoothed_s, self.latest_s), GRANULARITY_S)


class Congestion:
    """How many datagrams may be under way."""

    def __init__(self) -> None:
        self.window = float(INITIAL_WINDOW)
        self._threshold = float("inf")
        self._peak = self._start = self._reno = 0.0
        self._epoch: float | None = None
        self._recovering_since = float("-inf")
        self._before: tuple[float, float] | None = None
        """Window and threshold before the last loss."""
        self._round_end = 0
        self._round_lost = 0
        self._round_rtts: list[float] = []
        self._last_round_rtt = float("inf")

    @property
    def in_slow_start(self) -> bool:
        """Whether the window still doubles each round."""
        return self.window < self._threshold

    def measured(self, rtt_s: float, number: int, next_number: int) -> None:
        """A datagram was answered after ``rtt_s``; ends slow start when queues build up (RFC 9406)."""
        if number >= self._round_end:
            self._round_end = next_number
            self._round_lost = 0
            if self._round_rtts:
                self._last_round_rtt = min(self._round_rtts)
            self._round_rtts.clear()
        if len(self._round_rtts) < _RISE_SAMPLES:
            self._round_rtts.append(rtt_s)
            rise = min(max(self._last_round_rtt / 8, _RISE_S[0]), _RISE_S[1])
            if (
                self.in_slow_start
                and len(self._round_rtts) == _RISE_SAMPLES
                and min(self._round_rtts) >= self._last_round_rtt + rise
            ):
                self._threshold = self.window

    def acknowledged(self, count: int, under_way: int, now: float, rtt_s: float) -> None:
        """``count`` datagrams arrived, ``under_way`` had been on their way before."""
        if under_way < self.window / 2:
            return  # RFC 9002 7.8: what is not used does not grow
        if self.in_slow_start:
            self.window = min(self.window + count, MAXIMUM_WINDOW)
            return
        if self._epoch is None:
            self._epoch = now
            self._peak = max(self._peak, self.window)
            self._start = self._reno = self.window
        self._reno += _RENO_ALPHA * count / self.window
        root = ((self._peak - self._start) / _C) ** (1 / 3)
        cubic = self._peak + _C * (now - self._epoch + rtt_s - root) ** 3
        target = min(max(cubic, self.window), 1.5 * self.window)
        grown = self.window + (target - self.window) * count / self.window
        self.window = min(max(grown, self._reno), MAXIMUM_WINDOW)

    def lost(self, count: int, newest_sent_at: float, now: float) -> None:
        """``count`` datagrams were lost, the newest of which was sent at a time."""
        self._round_lost += count
        if newest_sent_at <= self._recovering_since:
            return
        if self._round_lost <= max(_LOSSES_TOLERATED, LOSS_TOLERATED * self.window):
            return
        self._recovering_since = now
        self._before = self.window, self._threshold
        self._round_lost = 0
        self._peak = self.window
        self.window = max(self.window * _BETA, MINIMUM_WINDOW)
        self._peak = max(self._peak, self.window)
        self._threshold = self._start = self._reno = self.window
        self._epoch = now

    def undo(self) -> None:
        """The last loss was none, only reordering."""
        if self._before is not None:
            window, self._threshold = self._before
            self.window = max(window, self.window)
            self._before = self._epoch = None

    def collapse(self) -> None:
        """Nothing was heard for several probes: start again (RFC 9002 7.6)."""
        self._threshold = max(self.window * _BETA, INITIAL_WINDOW)
        self.window = MINIMUM_WINDOW
        self._epoch = None


class Pacer:
    """Spreads datagrams over the round trip instead of sending a window at once (RFC 9002 7.7)."""

    BURST: Final = 32

    def __init__(self) -> None:
        self._tokens = float(self.BURST)
        self._at = float("-inf")
        self._rate = 1.0

    def allowed(self, now: float, window: float, rtt_s: float, slow_start: bool) -> int:
        """How many datagrams may leave now."""
        self._rate = (2.0 if slow_start else 1.25) * window / max(rtt_s, 1e-6)
        # A timer fires a millisecond late at best, so a burst holds at least four of them.
        most = max(self.BURST, 0.004 * self._rate)
        if self._at == float("-inf"):
            self._at = now
        self._tokens = min(self._tokens + (now - self._at) * self._rate, most)
        self._at = now
        return int(self._tokens)

    def took(self, count: int) -> None:
        """``count`` datagrams left."""
        self._tokens -= count

    def ready_at(self, now: float) -> float:
        """When a few datagrams may leave again."""
        return now + max(4.0 - self._tokens, 0.0) / self._rate
