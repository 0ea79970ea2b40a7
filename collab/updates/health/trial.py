"""A trial of a new model beside a running plan: what is announced, and what requesters have seen.

Requesters count for themselves, from the moment that they take part in a phase, and report what
they have counted so far.  Reports may be lost, repeated, overtake one another and go to several
nodes: of one requester the largest figures are the latest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import msgspec

from collab.core.ids import PlanName
from collab.core.plan import Plan
from collab.updates.health.gate import Bounds

TrialPhase = Literal["shadow", "canary", "probation", ""]
"""Of the gate's phases those in which requesters do something; empty where the trial is over."""

PHASES: Final[tuple[TrialPhase, ...]] = ("shadow", "canary", "probation", "")
"""In their order; a trial never goes back."""

MAX_REASON: Final = 200
"""Characters of a reason."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A new model that proves itself beside a running plan.

    Attributes:
        plan: name of the plan that runs.
        number: grows with every trial of the plan, from 1 on.
        phase: what requesters do.
        candidate: plan of the new model; None where the trial is over, or where it was told before.
        bounds: how good it has to be.
    """

    plan: PlanName
    number: int
    phase: TrialPhase
    candidate: Plan | None = None
    bounds: Bounds = Bounds()

    @property
    def rank(self) -> tuple[int, int]:
        """Grows from trial to trial and from phase to phase."""
        return self.number, PHASES.index(self.phase)


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What one requester, or all of them, has seen in one phase of one trial.

    Attributes:
        number, phase: which.
        requests: of users.
        touched: those that the candidate was to answer.
        compared: those that both answered.
        disagreed: compared ones with another answer.
        slow: compared ones on which the candidate took over ``Bounds.slow_factor`` times as long.
        not_finite: compared or served ones with NaN or infinity in the new model's answer.
        failed: those that the new model could not answer by its own fault.
        served: finite answers of the new model after it was committed.
        reason: of the first failure.
    """

    number: int
    phase: TrialPhase
    requests: int = 0
    touched: int = 0
    compared: int = 0
    disagreed: int = 0
    slow: int = 0
    not_finite: int = 0
    failed: int = 0
    served: int = 0
    reason: str = ""

    def latest(self, other: Counts) -> Counts:
        """The later of two reports of one requester, whichever came first."""
        return self._joined(other, max)

    def plus(self, other: Counts) -> Counts:
        """What two requesters have seen together."""
        return self._joined(other, int.__add__)

    def since(self, before: Counts) -> Counts:
        """What came after ``before``; all of it where that is of another phase."""
        if (before.number, before.phase) != (self.number, self.phase):
            return self
        return self._joined(before, lambda now, then: max(now - then, 0))

    def _joined(self, other: Counts, join: Callable[[int, int], int]) -> Counts:
        figures = {name: join(getattr(self, name), getattr(other, name)) for name in FIGURES}
        reason = self.reason or other.reason
        return Counts(number=self.number, phase=self.phase, reason=reason, **figures)


FIGURES: Final = tuple(name for name in Counts.__struct_fields__ if name not in ("number", "phase", "reason"))
"""The fields of `Counts` that grow."""


def merge(number: int, phase: TrialPhase, nodes: Iterable[Mapping[str, Counts]]) -> Counts:
    """What all requesters have seen of a phase; each may have reported to several nodes."""
    by_requester: dict[str, Counts] = {}
    for told in nodes:
        for requester, counts in told.items():
            if (counts.number, counts.phase) != (number, phase):
                continue
            known = by_requester.get(requester)
            by_requester[requester] = counts if known is None else known.latest(counts)
    total = Counts(number=number, phase=phase)
    for _, counts in sorted(by_requester.items()):
        total = total.plus(counts)
    return total
