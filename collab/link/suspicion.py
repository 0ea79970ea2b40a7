"""Whether a peer lives, is slow, silent or dead, from when it was heard: a phi-accrual detector.

After Hayashibara et al., "The phi accrual failure detector", SRDS 2004: phi is minus the
decimal logarithm of the probability that a peer that lives is silent for so long.  Their
normal distribution does not fit a lossy link: there retransmission doubles its time-out each
time (RFC 6298 5.5), so silences have a Pareto tail.  Here silence counts in doublings, and
the link's answers teach the probability of the first one and of each further one, as the
hazard of a survival curve; longer silences than any seen go on like the longest.

Does no I/O and reads no clock.  All times are in µs on the caller's monotonic clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from math import log2, log10
from typing import Final

_PROBES: Final = 256
"""Unanswered pings that are remembered."""
_BULK_BYTES: Final = 64 * 1024
"""What is as long as this takes time on a slow link."""
_OUTAGE: Final = 2.0
"""A silence so many times as long as the one that was suspected was no loss: that would have ended sooner."""
_SLOW_LINK: Final = 1.0
"""Bytes per µs of a link that nothing is known of."""


class Health(Enum):
    """What is known of a peer."""

    ALIVE = "alive"
    SLOW = "slow"
    """It answers far later than it did."""
    SUSPECTED = "suspected"
    """It is silent longer than loss explains: frozen, or cut off; the connection does not tell which."""
    DEAD = "dead"
    """The connection has ended, or it was silent up to the limit."""


@dataclass(frozen=True)
class SuspicionConfig:
    """How soon a silent peer is suspected."""

    phi: float = 4.0
    """Suspect when silence has a probability of 10^-phi."""
    least_silence_us: int = 300_000
    """Never suspect before; what a scheduler or a collector of garbage may take."""
    probe_us: int = 50_000
    """At least between two pings of a peer that somebody waits for."""
    probe_round_trips: int = 4
    """Round trips between two such pings; one only while an answer is overdue."""
    suspected_probe_us: int = 250_000
    """At least between two pings of a suspected peer."""
    retransmit_us: int = 200_000
    """Shortest time-out of retransmissions below (Linux's; RFC 6298 2.4 has a second)."""
    first_us: int = 1_000_000
    """When an answer is late, before the first one was seen (RFC 6298 2.1)."""
    memory: int = 512
    """Answers after which what was learned has faded to 37 %."""
    warm_up: int = 12
    """Answers that are asked for at once on a new link, to learn what it is like."""


@dataclass(frozen=True)
class Probe:
    """Send a ping with this value."""

    value: int


@dataclass(frozen=True)
class Became:
    """The peer's health has changed."""

    health: Health
    silent_us: int = 0


Action = Probe | Became


class Silences:
    """How long a link's peer is silent while it lives, as the link has shown so far."""

    _LATE_PRIOR: Final = (0.4, 4.0)
    """Answers of which a link is assumed to have been late on, and of how many."""
    _DOUBLING_PRIOR: Final = 12.0
    """Silences that weigh as much as the assumption that they go on like shorter ones."""
    _DOUBLINGS: Final = 8

    def __init__(self, config: SuspicionConfig) -> None:
        self._config = config
        self.round_trip_us = 0.0
        """The median lately."""
        self._deviation_us = 0.0
        self._rounds = 0.0
        self._reached = [0.0] * self._DOUBLINGS
        """Answers whose silence had that many doublings, counted from 1 and rounded."""

    @property
    def on_time_us(self) -> float:
        """An answer within this is on time (four deviations, as RFC 6298 2.3 has it)."""
        return self.round_trip_us + 4 * self._deviation_us if self.round_trip_us else self._config.first_us

    @property
    def _step_us(self) -> float:
        return max(float(self._config.retransmit_us), self.on_time_us)

    def _steps(self) -> list[float]:
        """By how much each doubling raises phi; what was never seen goes on like what was."""
        late, rounds = self._LATE_PRIOR
        odds = (self._reached[0] + late) / (self._rounds + rounds)
        steps = [-log10(min(odds, 0.99))]
        prior = self._DOUBLING_PRIOR
        for before, reached in pairwise(self._reached):
            odds = (reached + odds * prior) / (before + prior)
            steps.append(-log10(min(odds, 0.99)))
        return steps

    def doublings(self, silent_us: float) -> float:
        """How many time-outs of a retransmission, each twice the one before, a silence explains."""
        return log2(1 + max(0.0, silent_us - self.on_time_us) / self._step_us)

    def phi(self, silent_us: float) -> float:
        """Minus the decimal logarithm of the probability of such a silence."""
        left, phi = self.doublings(silent_us), 0.0
        for step in self._steps():
            phi += step * min(left, 1.0)
            left = max(0.0, left - 1)
        return phi + step * left

    def patience_us(self, phi: float) -> float:
        """The silence at which phi is reached."""
        doublings = 0.0
        for step in self._steps():
            doublings += min(1.0, phi / step)
            phi = max(0.0, phi - step)
        doublings += phi / step
        return self.on_time_us + self._step_us * (float(2 ** min(doublings, 40.0)) - 1)

    def record(self, silent_us: float) -> None:
        """Take the longest silence until an answer came."""
        doublings = round(self.doublings(silent_us))
        keep = 1 - 1 / self._config.memory
        self._rounds = self._rounds * keep + 1
        self._reached = [
            reached * keep + (doublings > number) for number, reached in enumerate(self._reached)
        ]

    def answered(self, sample_us: float) -> None:
        """Take a round trip.

        Tracks medians by small steps (Ma et al., "Frugal streaming", 2013): a mean would follow
        the answers that loss made late, and take lateness for the rule.
        """
        if not self.round_trip_us:
            self.round_trip_us = max(1.0, sample_us)
            self._deviation_us = self.round_trip_us / 2
            return
        away_us = abs(sample_us - self.round_trip_us)
        self._deviation_us = max(1.0, self._deviation_us * _toward(away_us, self._deviation_us))
        self.round_trip_us = max(1.0, self.round_trip_us * _toward(sample_us, self.round_trip_us))


def _toward(sample: float, median: float) -> float:
    """The factor of a median's next step."""
    return 1.1 if sample > median else 1 / 1.1


class _Slowness:
    """Whether answers come far later than they used to."""

    _USUAL: Final = 256
    _LEAST_US: Final = 50_000

    def __init__(self) -> None:
        self._count = 0
        self._lately_us = self._usual_us = 0.0
        self.slow = False

    def answered(self, sample_us: float) -> None:
        self._count = min(self._count + 1, self._USUAL)
        if self._count == 1:
            self._lately_us = self._usual_us = sample_us
        self._lately_us += (sample_us - self._lately_us) / 4
        self._usual_us += (min(sample_us, 2 * self._usual_us + 1) - self._usual_us) / self._count
        factor = 2 if self.slow else 4
        self.slow = self._lately_us > factor * self._usual_us + self._LEAST_US * factor / 4


class _Flow:
    """What large messages in front of a ping, or of its answer, explain of a silence."""

    def __init__(self) -> None:
        self.written = self.proven = 0
        self._since_us = 0
        self.rate = 0.0
        self.transfer_us = 0.0
        """What a large frame of the peer took lately."""

    def wrote(self, position: int, now_us: int) -> None:
        if self.written == self.proven:
            self._since_us = now_us
        self.written = position

    def allowance_us(self, position: int) -> float:
        """The time that bytes up to a position may take, and a frame that the peer may be sending."""
        return max(0, position - self.proven) / (self.rate or _SLOW_LINK) + self.transfer_us

    def prove(self, position: int, now_us: int) -> None:
        """All bytes up to a position have arrived; the rate is the best lately (as BBR's, Cardwell 2016)."""
        size = position - self.proven
        if size >= _BULK_BYTES:
            self.rate = max(self.rate * 0.95, size / max(1, now_us - self._since_us))
        if size > 0:
            self.proven, self._since_us = position, now_us
        self.transfer_us *= 0.98


class Detector:
    """Judges one peer, and says when to ping it.

    `tick` at `due_us`, and earlier whenever somebody begins to wait for the peer while it is
    not `attentive`.  Time that passes because `tick` comes late is not held against the peer:
    this end did not run then.
    """

    def __init__(
        self, now_us: int, ping_us: int, limit_us: int, config: SuspicionConfig = SuspicionConfig()
    ) -> None:
        self.health = Health.ALIVE
        self._overdue = False
        self.attentive = False
        """Whether the peer is pinged every few round trips, not only every ``ping_us``."""
        self.due_us = now_us
        self.silences = Silences(config)
        self._config = config
        self._ping_us = ping_us
        self._limit_us = limit_us
        self._slowness = _Slowness()
        self._flow = _Flow()
        self._heard_us = now_us
        self._since_us = now_us
        """Since when there is silence: the oldest unanswered ping, or what arrived after it."""
        self._probes: deque[tuple[int, int]] = deque()
        """Unanswered pings: when, and behind how many bytes."""
        self._pinged_us = now_us - ping_us
        self._longest_us = 0.0
        self._alarm_us = 0.0
        self._answers = 0
        self._answered_us = now_us

    def phi(self, now_us: int) -> float:
        """How suspect the peer is; 0 while nothing is asked of it."""
        return self.silences.phi(now_us - self._since_us - self._allowance_us()) if self._probes else 0.0

    def _allowance_us(self) -> float:
        return self._flow.allowance_us(self._probes[0][1]) if self._probes else 0.0

    def _stalled_us(self, now_us: int) -> int:
        """For how long this end has not run."""
        return max(0, now_us - self.due_us)

    # --- events ----------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Bytes/µs that large messages reached lately, at best; 0 before there were any."""
        return self._flow.rate

    def wrote(self, position: int, now_us: int) -> None:
        """Messages were handed to the transport, up to so many bytes since the link began."""
        if position != self._flow.written:
            self._flow.wrote(position, now_us)

    def heard(self, size: int, now_us: int) -> list[Action]:
        """A frame arrived, whatever is in it."""
        silent_us = now_us - self._since_us - self._stalled_us(now_us)
        if self._probes and size >= _BULK_BYTES:
            self._flow.transfer_us = max(self._flow.transfer_us, silent_us)
        elif self._probes:
            self._longest_us = max(self._longest_us, silent_us - self._allowance_us())
        self._heard_us = self._since_us = now_us
        if self.health is not Health.SUSPECTED:
            return []
        self.health = Health.ALIVE
        return [Became(Health.ALIVE, silent_us)]

    def pong(self, value: int, now_us: int) -> None:
        """The answer to a ping arrived, after `heard`; others than those that wait are ignored."""
        position = next((position for sent_us, position in self._probes if sent_us == value), None)
        if position is None:
            return
        while self._probes and self._probes[0][0] <= value:
            self._probes.popleft()
        allowance_us = self._flow.allowance_us(position)
        self._flow.prove(position, now_us)
        if value >= self._answered_us:
            self._answered(max(0, now_us - value - self._stalled_us(now_us)), allowance_us)
            self._answered_us = now_us

    def _answered(self, sample_us: int, allowance_us: float) -> None:
        """Learn from an answer, once in a round trip: those to pings behind it say nothing new."""
        longest_us, self._longest_us = self._longest_us, 0.0
        self._answers += 1
        alarm_us, self._alarm_us = self._alarm_us, 0.0
        if longest_us > _OUTAGE * alarm_us > 0:
            return  # An outage is no habit of the link.
        self.silences.record(longest_us)
        if alarm_us:
            return
        self.silences.answered(sample_us)
        self._slowness.answered(max(0.0, sample_us - allowance_us))

    # --- time ------------------------------------------------------------------

    def tick(self, now_us: int, *, awaited: bool) -> list[Action]:
        """Judge the peer; ``awaited`` says whether somebody waits for it beyond what was written."""
        stalled_us = self._stalled_us(now_us)
        self._heard_us = min(now_us, self._heard_us + stalled_us)
        self._since_us = min(now_us, self._since_us + stalled_us)
        actions: list[Action] = []
        self._judge(now_us, actions)
        self._overdue = bool(self._probes) and now_us - self._since_us >= self._expected_us()
        self.attentive = (
            awaited
            or self._overdue
            or self._flow.written > self._flow.proven
            or self._answers < self._config.warm_up
            or self.health is Health.SUSPECTED
        )
        if now_us >= self._pinged_us + self._interval_us():
            actions.append(self._ping(now_us))
        self.due_us = self._next_us(now_us)
        return actions

    def _expected_us(self) -> float:
        return self.silences.on_time_us + self._allowance_us()

    def _patience_us(self) -> float:
        patience_us = self.silences.patience_us(self._config.phi) + self._allowance_us()
        return max(self._config.least_silence_us, patience_us)

    def _judge(self, now_us: int, actions: list[Action]) -> None:
        silent_us = now_us - self._since_us
        before = self.health
        if now_us - self._heard_us > self._limit_us:
            self.health, silent_us = Health.DEAD, now_us - self._heard_us
        elif before is Health.SUSPECTED:
            return
        elif silent_us >= self._config.least_silence_us and self.phi(now_us) >= self._config.phi:
            self.health, self._alarm_us = Health.SUSPECTED, silent_us - self._allowance_us()
        else:
            self.health = Health.SLOW if self._slowness.slow else Health.ALIVE
        if self.health is not before:
            actions.append(Became(self.health, silent_us))

    def _interval_us(self) -> int:
        """Between two pings."""
        config = self._config
        if not self.attentive:
            return self._ping_us
        least_us = config.suspected_probe_us if self.health is Health.SUSPECTED else config.probe_us
        round_trips = 1 if self._overdue else config.probe_round_trips
        wanted_us = int(round_trips * self.silences.round_trip_us)
        return min(max(least_us, wanted_us), self._ping_us)

    def _ping(self, now_us: int) -> Probe:
        if not self._probes:
            self._since_us = now_us
        if len(self._probes) >= _PROBES:
            del self._probes[-1]
        self._probes.append((now_us, self._flow.written))
        self._pinged_us = now_us
        return Probe(now_us)

    def _next_us(self, now_us: int) -> int:
        due_us = min(self._pinged_us + self._interval_us(), self._heard_us + self._limit_us + 1)
        if self._probes and self.health is not Health.SUSPECTED:
            for at_us in (self._expected_us(), self._patience_us()):
                if self._since_us + at_us > now_us:
                    due_us = min(due_us, self._since_us + int(at_us) + 1)
        return max(due_us, now_us + 1)
