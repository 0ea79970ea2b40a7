"""What one requester does in the trials of a plan, decided without I/O.

It is told what nodes know of a trial (`Witness.told`), asked what to do with each request
(`Witness.route`), and hears what came of it (`Witness.saw`); `Witness.counts` is what it reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from numpy.typing import NDArray

from collab.core.plan import Plan
from collab.errors import (
    BackendError,
    CollabError,
    DeadlineExceeded,
    ModelError,
    NotLoaded,
    StageFailed,
    StoreError,
    TensorError,
)
from collab.updates.health.agreement import agree, finite
from collab.updates.health.gate import Bounds, Compared, Failed, Served, copy_is_due, may_touch
from collab.updates.health.sequential import Tally
from collab.updates.health.trial import FIGURES, MAX_REASON, Counts, Trial, TrialPhase

Way = Literal["old", "open", "copy", "first", "alone"]
"""Of a request in a trial: the plan answers it; the same, and the candidate is opened with it, or gets
a copy; the candidate answers first; what was committed answers and is counted."""

AGAIN_S: Final = 5.0
"""After a candidate could not be opened by no fault of its own."""

Seen = Compared | Failed | Served | None
"""What came of a request; None where nothing can be learnt from it."""


class Ask(msgspec.Struct, frozen=True):
    """What to do with a request, and for which trial and phase."""

    way: Way
    number: int
    phase: TrialPhase
    bounds: Bounds


class Witness:
    """One requester's part in the trials of one plan."""

    def __init__(self) -> None:
        self.active = False
        """Whether there is a trial that requests are part of."""
        self.trial: Trial | None = None
        """The newest that is known, with its candidate; it may be over."""
        self._forgotten = False
        self._figures = dict.fromkeys(FIGURES, 0)
        self._reason = ""
        self._stopped = False
        self._busy = False
        self._opened: str | None = None
        """Digest of the candidate's plan that can be asked."""
        self._not_before_s = 0.0

    # --- what nodes say ---------------------------------------------------------------

    def told(self, trial: Trial | None) -> None:
        """What a node knows: one that lags behind changes nothing, one that knows of none ends it."""
        if trial is None:
            # A node that was started anew may have forgotten it, and may hear of it again.
            self.active, self._forgotten = False, True
            return
        seen = self.trial
        if seen is not None and trial.rank < seen.rank and not self._forgotten:
            return
        if seen is None or trial.rank != seen.rank:
            if trial.phase and trial.candidate is None:
                return
            self.trial = trial
            self._figures = dict.fromkeys(FIGURES, 0)
            self._reason, self._stopped, self._not_before_s = "", False, 0.0
        self.active, self._forgotten = trial.phase != "", False

    # --- the candidate ------------------------------------------------------------------

    @property
    def wants(self) -> Plan | None:
        """The candidate's plan that requests are to be sent to by now."""
        if not self.active or self._stopped or self.trial is None or self.trial.phase == "probation":
            return None
        return self.trial.candidate

    def opened(self, candidate: Plan) -> None:
        """The candidate can be asked from here on."""
        self._busy, self._opened = False, candidate.digest

    def closed(self) -> None:
        """The candidate cannot be asked any more."""
        self._opened = None

    def postponed(self, now_s: float) -> None:
        """The candidate could not be opened, by no fault of its own."""
        self._busy, self._not_before_s = False, now_s + AGAIN_S

    # --- requests -------------------------------------------------------------------------

    def route(self, now_s: float) -> Ask | None:
        """What to do with the next request, which it counts; None while there is no trial."""
        trial = self.trial
        if not self.active or trial is None:
            return None
        self._figures["requests"] += 1
        way = self._way(trial, now_s)
        self._busy = self._busy or way in ("open", "copy", "first")
        self._figures["touched"] += way == "first"
        return Ask(way, trial.number, trial.phase, trial.bounds)

    def _way(self, trial: Trial, now_s: float) -> Way:
        if trial.phase == "probation":
            return "alone"
        if self._stopped or self._busy or now_s < self._not_before_s:
            return "old"
        requests, touched = self._figures["requests"], self._figures["touched"]
        shadow = trial.phase == "shadow"
        due = copy_is_due(trial.bounds, requests) if shadow else may_touch(trial.bounds, requests, touched)
        if not due or trial.candidate is None:
            return "old"
        if self._opened != trial.candidate.digest:
            return "open"
        return "copy" if shadow else "first"

    def is_new(self, plan: Plan) -> bool:
        """Whether a plan has the models that the trial is about."""
        candidate = self.trial.candidate if self.trial is not None else None
        return candidate is not None and _models(plan) == _models(candidate)

    def saw(self, ask: Ask, seen: Seen) -> None:
        """What came of a request that was part of the trial; of an earlier phase nothing is counted."""
        if ask.way == "old":
            return
        self._busy = self._busy and ask.way == "alone"
        trial = self.trial
        if trial is None or (ask.number, ask.phase) != (trial.number, trial.phase) or seen is None:
            return
        figures = self._figures
        if isinstance(seen, Failed):
            figures["failed"] += 1
            self._reason = self._reason or seen.reason[:MAX_REASON]
            self._stopped = True
            return
        figures["not_finite"] += not seen.finite
        self._stopped = self._stopped or not seen.finite
        if isinstance(seen, Served):
            figures["served"] += seen.finite
            return
        figures["compared"] += 1
        figures["disagreed"] += not seen.agrees
        figures["slow"] += seen.new_ms > trial.bounds.slow_factor * seen.old_ms
        self._stopped = self._stopped or self._is_worse(trial.bounds)

    def _is_worse(self, bounds: Bounds) -> bool:
        compared = self._figures["compared"]
        answers = Tally(compared, self._figures["disagreed"]).verdict(bounds.disagreement)
        times = Tally(compared, self._figures["slow"]).verdict(bounds.slowness)
        return "worse" in (answers, times)

    @property
    def counts(self) -> Counts | None:
        """What was seen so far of the phase at hand; None while there is no trial."""
        if not self.active or self.trial is None:
            return None
        number, phase = self.trial.number, self.trial.phase
        return Counts(number=number, phase=phase, reason=self._reason, **self._figures)


def _models(plan: Plan) -> list[str]:
    return sorted(model.sha256 for model in plan.models)


# --- what answers say of a candidate ------------------------------------------------------


def blame(error: CollabError) -> Failed | None:
    """Whether an error is the model's own: of nodes and links that are lost nothing follows."""
    if isinstance(error, (StageFailed, NotLoaded, BackendError, StoreError, TensorError, ModelError)):
        return Failed(str(error))
    return None


def judged(
    old: Sequence[NDArray[Any]],
    old_ms: float,
    new: Sequence[NDArray[Any]] | CollabError,
    new_ms: float,
) -> Seen:
    """What one request says of the candidate; one that gives no answer in time is slow and differs."""
    if isinstance(new, DeadlineExceeded):
        return Compared(False, True, old_ms, float("inf"))
    if isinstance(new, CollabError):
        return blame(new)
    return Compared(agree(old, new), finite(new), old_ms, new_ms)
