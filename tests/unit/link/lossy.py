"""A detector over a simulated lossy path, seeded, with a clock of its own.

``python -m tests.unit.link.lossy`` prints the time to notice a peer that stops and the false alarms.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from statistics import median

from collab.link.suspicion import Became, Detector, Health, Probe, SuspicionConfig

PING_US = 2_000_000
LIMIT_US = 10_000_000
RTO_US = 200_000
FOREVER_US = 1 << 60


@dataclass
class Datagrams:
    """Each message is lost by itself, and nobody repeats it."""

    rng: random.Random
    delay_us: float
    loss: float
    jitter: float = 0.2

    def arrives_us(self, now_us: float) -> float | None:
        """When a message sent now is there; None if never."""
        if self.rng.random() < self.loss:
            return None
        return now_us + self.delay_us * (1 + self.jitter * self.rng.random())


@dataclass
class Stream(Datagrams):
    """As TCP with nothing but its time-out: what is lost holds up all behind it, 0.2 s, 0.4 s, 0.8 s, ….

    Real TCP repeats sooner while more is sent, so this is the worst case.
    """

    held_until_us: float = 0.0

    def arrives_us(self, now_us: float) -> float | None:
        sent_us, timeout_us = max(now_us, self.held_until_us), RTO_US + 2 * self.delay_us
        while self.rng.random() < self.loss:
            sent_us += timeout_us
            timeout_us *= 2
        self.held_until_us = sent_us if sent_us > now_us else self.held_until_us
        return sent_us + self.delay_us * (1 + self.jitter * self.rng.random())


@dataclass
class Path:
    """What one end's detector says about a peer at the other end, event by event."""

    there: Datagrams
    back: Datagrams
    awaited: Callable[[int], bool] = lambda now_us: True
    config: SuspicionConfig = SuspicionConfig()
    stopped_us: float = FOREVER_US
    """When the peer freezes; what arrives then waits until `resumed_us`."""
    resumed_us: float = FOREVER_US
    stalls: tuple[tuple[int, int], ...] = ()
    """Times at which this end does not run, as begin and end."""
    think_us: Callable[[int], float] = lambda now_us: 0.0
    """How long the peer takes to answer."""
    now_us: int = 0
    pings: int = 0
    changes: list[tuple[int, Health]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.detector = Detector(0, PING_US, LIMIT_US, self.config)
        self._serial = count()
        self._events: list[tuple[float, int, str, int]] = []

    def _at(self, when_us: float, what: str, value: int = 0) -> None:
        for begin_us, end_us in self.stalls:
            if what in ("pong", "tick") and begin_us <= when_us < end_us:
                when_us = end_us
        heapq.heappush(self._events, (when_us, next(self._serial), what, value))

    def run(self, until_us: float) -> Path:
        """Go on until a time, or until the peer is taken for dead."""
        self._at(self.detector.due_us, "tick")
        while self._events and self._events[0][0] <= until_us:
            when_us, _, what, value = heapq.heappop(self._events)
            self.now_us = int(when_us)
            if what == "ping":
                self._answer(when_us, value)
            elif what == "pong":
                self._take(self.detector.heard(16, self.now_us))
                self.detector.pong(value, self.now_us)
            elif when_us >= self.detector.due_us:
                self._take(self.detector.tick(self.now_us, awaited=self.awaited(self.now_us)))
                if self.detector.health is Health.DEAD:
                    break
                self._at(self.detector.due_us, "tick")
        self.now_us = int(until_us)
        return self

    def _answer(self, when_us: float, value: int) -> None:
        if self.stopped_us <= when_us < self.resumed_us:
            if self.resumed_us < FOREVER_US:
                self._at(self.resumed_us, "ping", value)
            return
        back_us = self.back.arrives_us(when_us + self.think_us(int(when_us)))
        if back_us is not None:
            self._at(back_us, "pong", value)

    def _take(self, actions: list[Probe | Became]) -> None:
        for action in actions:
            if isinstance(action, Became):
                self.changes.append((self.now_us, action.health))
            else:
                self.pings += 1
                there_us = self.there.arrives_us(self.now_us)
                if there_us is not None:
                    self._at(there_us, "ping", action.value)

    def times(self, health: Health) -> list[int]:
        """When the peer's health became so."""
        return [at_us for at_us, became in self.changes if became is health]


def path(kind: type[Datagrams], seed: int, rtt_us: float, loss: float, **more: object) -> Path:
    """A path that loses the same share in both directions."""
    rng = random.Random(seed)
    return Path(kind(rng, rtt_us / 2, loss), kind(rng, rtt_us / 2, loss), **more)


def noticed_us(kind: type[Datagrams], seed: int, rtt_us: float, loss: float, warm_us: float) -> int:
    """From the peer's freezing to its being suspected, or dead."""
    stopped_us = warm_us + random.Random(seed).random() * 1e6
    run = path(kind, seed, rtt_us, loss, stopped_us=stopped_us).run(stopped_us + 2 * LIMIT_US)
    if run.changes and run.changes[-1][0] > stopped_us:
        bad = [
            at for at, health in run.changes if health in (Health.SUSPECTED, Health.DEAD) and at > stopped_us
        ]
        return int(bad[0] - stopped_us) if bad else 0
    return 0


def false_alarms(
    kind: type[Datagrams], seed: int, rtt_us: float, loss: float, span_us: float
) -> tuple[int, bool]:
    """Suspicions of a peer that lives throughout, and whether it was even taken for dead."""
    run = path(kind, seed, rtt_us, loss).run(span_us)
    return len(run.times(Health.SUSPECTED)), bool(run.times(Health.DEAD))


def main() -> None:
    """Print the table."""
    span_us, seeds = 600e6, range(20)
    sys.stdout.write(
        "path       rtt ms  loss  noticed s: median     max   false alarms per hour   given up per hour\n"
    )
    for kind in (Datagrams, Stream):
        for rtt_us in (300, 20_000, 200_000):
            for loss in (0.0, 0.05, 0.2):
                noticed = [noticed_us(kind, seed, rtt_us, loss, 30e6) / 1e6 for seed in range(50)]
                runs = [false_alarms(kind, seed, rtt_us, loss, span_us) for seed in seeds]
                hours = len(seeds) * span_us / 3.6e9
                alarms, dead = (sum(column) / hours for column in zip(*runs, strict=True))
                sys.stdout.write(
                    f"{kind.__name__:9} {rtt_us / 1000:7.1f} {loss:5.0%} {median(noticed):18.3f} "
                    f"{max(noticed):7.3f} {alarms:22.2f} {dead:20.2f}\n"
                )


if __name__ == "__main__":
    main()
