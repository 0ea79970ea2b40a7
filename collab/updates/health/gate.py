"""The health gate: what happens with a candidate, decided from what is seen of it.

A state machine without I/O.  Observations and the time go in, orders come out; whoever runs it
carries them out (`collab.updates.health.runner`).  `HANDLERS` is the table of its transitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from collab.core.decoding import prepare
from collab.updates.health.sequential import Rates, Tally

Phase = Literal["staged", "golden", "shadow", "canary", "probation", "healthy", "dropped", "rolled back"]
Way = Literal["old", "copy", "first"]
"""Who answers a request: the old one; it, and a copy goes to the candidate; the candidate, then checked."""

FINAL: Final[frozenset[Phase]] = frozenset({"healthy", "dropped", "rolled back"})


class Bounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How good a candidate has to be.

    Attributes:
        disagreement: share of answers that differ from the old one's.
        slowness: share of answers that take over ``slow_factor`` times as long as the old one's.
        memory_factor: most memory, in times of the old one's,
        memory_slack_bytes: and that much on top.
        copies: share of requests that it gets copies of.
        touched: most of the requests that it answers before it is judged.
        canaries: at least so many requests that it answers.
        golden_s, shadow_s, canary_s: longest time in each phase; undecided is dropped.
        probation: answers without a failure after which it counts as healthy.
    """

    disagreement: Rates = Rates(fine=0.02, worse=0.10)
    slowness: Rates = Rates(fine=0.10, worse=0.50)
    slow_factor: float = 1.5
    memory_factor: float = 1.5
    memory_slack_bytes: int = 8 << 20
    copies: float = 0.2
    touched: float = 0.01
    canaries: int = 10
    golden_s: float = 120.0
    shadow_s: float = 86_400.0
    canary_s: float = 86_400.0
    probation: int = 100


# --- observations --------------------------------------------------------------


class Staged(msgspec.Struct, frozen=True):
    """There is a candidate."""


class Loaded(msgspec.Struct, frozen=True):
    """It is loaded beside the old one; memory of both, 0 where it is unknown."""

    new_bytes: int = 0
    old_bytes: int = 0


class GoldenRan(msgspec.Struct, frozen=True):
    """Its golden inputs were run; 0 compared if it has none."""

    compared: int
    wrong: int


class Compared(msgspec.Struct, frozen=True):
    """Both answered one request."""

    agrees: bool
    finite: bool
    old_ms: float
    new_ms: float


class Served(msgspec.Struct, frozen=True):
    """It answered a request alone, after it was committed."""

    finite: bool = True


class Failed(msgspec.Struct, frozen=True):
    """It could not be loaded, or could not compute."""

    reason: str


class Tick(msgspec.Struct, frozen=True):
    """Time went on."""


Observation = Staged | Loaded | GoldenRan | Compared | Served | Failed | Tick


# --- orders ----------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True):
    """Load the candidate beside the old one."""


class RunGolden(msgspec.Struct, frozen=True):
    """Run its golden inputs."""


class Commit(msgspec.Struct, frozen=True):
    """Activate it; it answers all requests from here on."""


class Drop(msgspec.Struct, frozen=True):
    """Unload it and do without it."""

    reason: str


class MarkHealthy(msgspec.Struct, frozen=True):
    """It has proved itself."""


class RollBack(msgspec.Struct, frozen=True):
    """Activate what ran before it."""

    reason: str


Order = Load | RunGolden | Commit | Drop | MarkHealthy | RollBack


def copy_is_due(bounds: Bounds, requests: int) -> bool:
    """Whether the last of so many requests is one that is copied; evenly spread."""
    return math.floor(requests * bounds.copies) > math.floor((requests - 1) * bounds.copies)


def may_touch(bounds: Bounds, requests: int, touched: int) -> bool:
    """Whether the candidate may answer the last of so many requests, of which it has answered some."""
    return touched + 1 <= bounds.touched * requests


class Gate:
    """One candidate's way; `phase` says where it is.

    Args:
        bounds: how good it has to be.
        now: monotonic seconds.
        first: there is no release to compare it with, nor one to go back to.
        committed: it was committed before the process started.
    """

    def __init__(self, bounds: Bounds, now: float, *, first: bool = False, committed: bool = False) -> None:
        self.phase: Phase = "probation" if committed else "staged"
        self.reason = ""
        """Why it was dropped or rolled back."""
        self.requests = 0
        """Requests in the phase that it is in."""
        self.touched = 0
        """Those of them that it answered."""
        self.answers = Tally()
        self.times = Tally()
        self._bounds, self._since, self._alone, self._is_first = bounds, now, 0, first

    def route(self) -> Way:
        """Who answers the next request; counts it."""
        self.requests += 1
        if self.phase == "shadow":
            return "copy" if copy_is_due(self._bounds, self.requests) else "old"
        if self.phase == "canary" and may_touch(self._bounds, self.requests, self.touched):
            self.touched += 1
            return "first"
        return "first" if self.phase in ("probation", "healthy") else "old"

    def routed(self, requests: int, touched: int) -> None:
        """Others have given so many requests of this phase out, and so many of them to the candidate."""
        self.requests, self.touched = requests, touched

    def observe(self, seen: Observation, now: float) -> list[Order]:
        """What to do now; what a phase does not wait for changes nothing."""
        handler = HANDLERS.get((self.phase, type(seen)))
        return [] if handler is None else handler(self, seen, now)

    def abandon(self, reason: str) -> None:
        """Give up: it could not be committed, or somebody else decided."""
        self.phase, self.reason = "dropped", reason

    # --- the table's entries ---------------------------------------------------

    def _load(self, seen: Staged, now: float) -> list[Order]:
        return [Load()]

    def _golden(self, seen: Loaded, now: float) -> list[Order]:
        most = self._bounds.memory_factor * seen.old_bytes + self._bounds.memory_slack_bytes
        if seen.old_bytes and seen.new_bytes > most:
            return self._drop(f"memory: {seen.new_bytes} bytes are over {most:.0f}")
        self._enter("golden", now)
        return [RunGolden()]

    def _shadow(self, seen: GoldenRan, now: float) -> list[Order]:
        if seen.wrong:
            return self._drop(f"golden inputs: {seen.wrong} of {seen.compared} answers are wrong")
        self._enter("probation" if self._is_first else "shadow", now)
        return [Commit()] if self._is_first else []

    def _compared(self, seen: Compared, now: float) -> list[Order]:
        if not seen.finite:
            return self._drop(f"{self.phase}: an answer has numbers that are not finite")
        slow = seen.new_ms > self._bounds.slow_factor * seen.old_ms
        self.answers, self.times = self.answers.add(not seen.agrees), self.times.add(slow)
        answers = self.answers.verdict(self._bounds.disagreement)
        times = self.times.verdict(self._bounds.slowness)
        if answers == "worse":
            return self._drop(f"{self.phase}: {_of(self.answers)} answers differ from the old release's")
        if times == "worse":
            factor = self._bounds.slow_factor
            return self._drop(f"{self.phase}: {_of(self.times)} answers took over {factor:g} times as long")
        if answers == "undecided" or times == "undecided":
            return []
        if self.phase == "shadow":
            self._enter("canary", now)
            return []
        if self.touched < self._bounds.canaries:
            return []
        self._enter("probation", now)
        return [Commit()]

    def _served(self, seen: Served, now: float) -> list[Order]:
        if not seen.finite:
            return self._back("an answer has numbers that are not finite")
        self._alone += 1
        if self._alone < self._bounds.probation:
            return []
        self.phase = "healthy"
        return [MarkHealthy()]

    def _failed(self, seen: Failed, now: float) -> list[Order]:
        return self._drop(f"{self.phase}: {seen.reason}")

    def _failed_alone(self, seen: Failed, now: float) -> list[Order]:
        return self._back(seen.reason)

    def _late(self, seen: Tick, now: float) -> list[Order]:
        most = {
            "staged": self._bounds.golden_s,
            "golden": self._bounds.golden_s,
            "shadow": self._bounds.shadow_s,
            "canary": self._bounds.canary_s,
        }[self.phase]
        if now - self._since < most:
            return []
        return self._drop(f"{self.phase}: undecided after {most:g} s and {self.answers.seen} comparisons")

    # --- what they share -----------------------------------------------------------

    def _drop(self, reason: str) -> list[Order]:
        self.phase, self.reason = "dropped", reason
        return [Drop(reason)]

    def _back(self, reason: str) -> list[Order]:
        if self._is_first:
            return []
        self.phase, self.reason = "rolled back", f"probation: {reason}"
        return [RollBack(self.reason)]

    def _enter(self, phase: Phase, now: float) -> None:
        self.phase, self._since = phase, now
        self.requests, self.touched = 0, 0
        self.answers, self.times = Tally(), Tally()


def _of(tally: Tally) -> str:
    return f"{tally.bad} of {tally.seen}"


_Handler = Callable[[Any, Any, float], list[Order]]

HANDLERS: Final[Mapping[tuple[Phase, type[Any]], _Handler]] = {
    ("staged", Staged): Gate._load,
    ("staged", Loaded): Gate._golden,
    ("staged", Failed): Gate._failed,
    ("staged", Tick): Gate._late,
    ("golden", GoldenRan): Gate._shadow,
    ("golden", Failed): Gate._failed,
    ("golden", Tick): Gate._late,
    ("shadow", Compared): Gate._compared,
    ("shadow", Failed): Gate._failed,
    ("shadow", Tick): Gate._late,
    ("canary", Compared): Gate._compared,
    ("canary", Failed): Gate._failed,
    ("canary", Tick): Gate._late,
    ("probation", Served): Gate._served,
    ("probation", Failed): Gate._failed_alone,
}
"""What each phase does with what it sees; no entry means nothing."""


prepare(Bounds)
