"""What a node knows of trials of its plans: their announcements, and what requesters have seen.

Nothing of it is kept over restarts: who runs a trial announces it again to a node that has
forgotten it, and ends it everywhere.  One that nobody asks for any more ends by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from collab.codec.pb import control_pb2 as pb
from collab.core.ids import PlanName
from collab.errors import Conflict, InputError, LimitExceeded, NotLoaded
from collab.node.verbs import Caller, Implementation
from collab.updates.health.trial import Counts, Trial
from collab.updates.health.trial_messages import counts_message, counts_of, trial_of

MAX_TRIALS: Final = 64
MAX_REQUESTERS: Final = 256
"""Whose counts are kept for a trial; of others they are not."""
SILENT_S: Final = 60.0
"""A trial is over when its coordinator has not asked for so long: nobody decides it any more."""

_DECIDES: Final = frozenset({"operator", "controller"})


@dataclass
class _Known:
    trial: Trial
    message: pb.Trial
    """As it was announced."""
    asked_s: float
    """When its coordinator last asked."""
    counts: dict[str, Counts] = field(default_factory=dict)


class Trials:
    """The verbs of trials, and their bounded state.

    Args:
        is_current: whether a plan of a name is current on this node.
        clock: monotonic seconds.
    """

    def __init__(self, is_current: Callable[[PlanName], bool], clock: Callable[[], float]) -> None:
        self._is_current, self._clock = is_current, clock
        self._known: dict[PlanName, _Known] = {}

    def implementations(self) -> dict[str, Implementation]:
        """Methods by verb."""
        table: dict[str, Callable[[Caller, Any], Awaitable[Any]]] = {
            "PutTrial": self.put,
            "Observe": self.observe,
            "GetTrial": self.get,
        }
        return table

    def phase(self, plan: PlanName) -> str:
        """Of the plan's trial; empty where none is under way."""
        known = self._find(plan)
        return known.trial.phase if known is not None else ""

    def forget(self, plan: PlanName) -> None:
        """A plan is gone, and so is its trial."""
        self._known.pop(plan, None)

    async def put(self, _: Caller, request: pb.PutTrialRequest) -> pb.PutTrialReply:
        """Take an announcement; the same again changes nothing."""
        trial = trial_of(request.trial)
        if trial is None:
            raise InputError("PutTrial.number: 0 stands for none; number trials from 1 on")
        if trial.phase and trial.candidate is None:
            raise InputError("PutTrial.candidate: it is missing; only a trial that ends has none")
        if not self._is_current(trial.plan):
            raise NotLoaded(f"PutTrial: no plan {trial.plan!r} is current here")
        known = self._find(trial.plan)
        if known is not None and trial.rank < known.trial.rank:
            was = known.trial
            raise Conflict(
                f"PutTrial: trial {was.number} of plan {trial.plan!r} is {was.phase or 'over'}, "
                f"which trial {trial.number} {trial.phase or 'over'} comes before; "
                f"take a number above {was.number}"
            )
        if known is not None and known.trial.rank == trial.rank:
            known.asked_s = self._clock()
            return pb.PutTrialReply()
        self._make_room(trial.plan)
        self._known[trial.plan] = _Known(trial, _as_announced(request.trial, trial), self._clock())
        return pb.PutTrialReply()

    async def observe(self, caller: Caller, request: pb.ObserveRequest) -> pb.ObserveReply:
        """Keep what a requester has seen, and say what it is to do."""
        known = self._find(PlanName(request.plan))
        if known is None:
            return pb.ObserveReply()
        trial = known.trial
        if request.HasField("counts"):
            counts = counts_of(request.counts)
            if (counts.number, counts.phase) == (trial.number, trial.phase):
                self._keep(known, caller.name, counts)
        if (request.known_number, request.known_phase) == (trial.number, trial.phase):
            return pb.ObserveReply(trial=_in_short(trial))
        return pb.ObserveReply(trial=known.message)

    async def get(self, caller: Caller, request: pb.GetTrialRequest) -> pb.GetTrialReply:
        """The trial of a plan, and what each requester has seen in its phase."""
        known = self._find(PlanName(request.plan))
        if known is None:
            return pb.GetTrialReply()
        if caller.role in _DECIDES:
            known.asked_s = self._clock()
        counts = [
            pb.RequesterCounts(requester=requester, counts=counts_message(counts))
            for requester, counts in known.counts.items()
        ]
        return pb.GetTrialReply(trial=_in_short(known.trial), counts=counts)

    def _find(self, plan: PlanName) -> _Known | None:
        known = self._known.get(plan)
        if known is not None and known.trial.phase and self._clock() - known.asked_s > SILENT_S:
            del self._known[plan]
            return None
        return known

    def _keep(self, known: _Known, requester: str, counts: Counts) -> None:
        before = known.counts.get(requester)
        if before is not None:
            known.counts[requester] = before.latest(counts)
        elif len(known.counts) < MAX_REQUESTERS:
            known.counts[requester] = counts

    def _make_room(self, plan: PlanName) -> None:
        """One that is over, or that nobody asks for, makes room for another plan's."""
        if plan in self._known or len(self._known) < MAX_TRIALS:
            return
        for name in tuple(self._known):
            known = self._find(name)
            if known is None or not known.trial.phase:
                self._known.pop(name, None)
                return
        raise LimitExceeded(f"PutTrial: {MAX_TRIALS} trials are under way on this node; end one first")


def _in_short(trial: Trial) -> pb.Trial:
    return pb.Trial(plan=trial.plan, number=trial.number, phase=trial.phase)


def _as_announced(message: pb.Trial, trial: Trial) -> pb.Trial:
    """Nothing but what was checked, and of one that is over only that it is."""
    kept = _in_short(trial)
    if trial.phase:
        kept.candidate, kept.bounds = message.candidate, message.bounds
    return kept
