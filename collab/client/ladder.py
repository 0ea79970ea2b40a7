"""Which plan a request goes to: the primary, an alternative, or the whole model here.  No I/O.

Rung 0 is the primary, the others are its alternatives in the plan's order; `LOCAL` comes
after all of them.  Times are integers of microseconds on a clock that the caller reads.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from collab.client.budget import RetryBudget
from collab.client.policy import RETRYABLE
from collab.client.standing import Standing
from collab.core.ids import NodeName
from collab.errors import InputError, LinkLost, NodeLost, Overloaded, PeerUnreachable

LOCAL: Final = -1
"""In place of a rung: the whole model in this process."""
WAIT: Final = -2
"""In place of a rung: none serves now; ask again soon."""
AGAIN_S: Final = 0.02
"""How soon."""

PATHS: Final = ("primary", "alternative", "local")
"""Who may be asked for by name: the plan itself, one of its alternatives, the whole model here."""

_LOST: Final = frozenset(("", *(e.code for e in (NodeLost, LinkLost, PeerUnreachable))))
"""Failures that end when nodes are back, or none so far."""


@dataclass(slots=True)
class Climb:
    """One request on its way, until it is answered or given up."""

    deadline_us: int
    patient_until_us: int = 0
    """Until when it waits for nodes to come back."""
    attempts: int = 0
    """Started so far, on all rungs."""
    tried: set[int] = field(default_factory=set)
    """Rungs that failed it."""
    code: str = ""
    """Of the last failure."""
    only: str = ""
    """The one of `PATHS` that it may take; empty for any."""

    def may_take(self, rung: int) -> bool:
        """Whether it may be answered by a rung, or by `LOCAL`."""
        return self.only in ("", "local" if rung == LOCAL else "alternative" if rung else "primary")


class Ladder:
    """Chooses rungs for requests, and remembers which of them failed lately.

    A rung that failed is shunned for a while where another serves, then one request at a
    time tries it: the nodes of a plan may be back before the links between them are.
    """

    def __init__(self, rungs: int, max_attempts: int, budget: RetryBudget, *, local: bool) -> None:
        self.unpaid = 0
        """Further attempts that the budget had nothing left for."""
        self._count = rungs
        self._max_attempts = max_attempts
        self._budget = budget
        self._local = local
        self._standing = Standing()
        self._load = [0] * rungs

    def next(self, climb: Climb, serving: Collection[int], now_us: int) -> int | None:
        """Where a request goes now; None if it ends with its last failure, or because nobody is there.

        ``serving`` are the rungs whose nodes are there.  Only what other nodes may not meet
        is tried again, before the deadline, and a further attempt is paid for.  A primary that
        is full is no reason to load its nodes by another plan.
        """
        if climb.code and (climb.code not in RETRYABLE or now_us >= climb.deadline_us):
            return None
        if climb.code == Overloaded.code and climb.tried == {0}:
            return self._locally(climb)
        rung = self._rung(climb, serving, now_us)
        if rung is None:
            return self._locally(climb) or self._patiently(climb, now_us)
        if climb.attempts >= self._max_attempts:
            return self._locally(climb)
        if climb.attempts and not self._budget.take(now_us):
            self.unpaid += 1
            return self._locally(climb)
        return rung

    def check_path(self, only: str) -> None:
        """Raise `InputError` for a path that there is none of here."""
        if (only == "alternative" and self._count == 1) or (only == "local" and not self._local):
            raise InputError(f"path {only!r}: this plan has none here; ask without a path")

    def _rung(self, climb: Climb, serving: Collection[int], now_us: int) -> int | None:
        allowed = [i for i in range(self._count) if climb.may_take(i)]
        left = [i for i in allowed if i in serving and i not in climb.tried]
        for index in left:
            if self._standing.flawless or not self._shunned(index, now_us):
                return index
        return left[0] if left else None

    def _locally(self, climb: Climb) -> int | None:
        return LOCAL if self._local and climb.may_take(LOCAL) and LOCAL not in climb.tried else None

    def _patiently(self, climb: Climb, now_us: int) -> int | None:
        """Wait, and then try what has failed before again, as far as attempts are left."""
        if now_us >= min(climb.patient_until_us, climb.deadline_us) or climb.code not in _LOST:
            return None
        if climb.attempts >= self._max_attempts:
            return None
        climb.tried.clear()
        return WAIT

    def _shunned(self, rung: int, now_us: int) -> bool:
        return self._standing.shunned(_name(rung), self._load[rung], now_us)

    def started(self, rung: int) -> None:
        """A request is on this rung."""
        if rung != LOCAL:
            self._load[rung] += 1

    def answered(self, rung: int, started_us: int) -> None:
        """One that was started on a rung at a time is answered."""
        if rung != LOCAL:
            self._load[rung] -= 1
            self._standing.succeeded(_name(rung), started_us)

    def withdrawn(self, rung: int) -> None:
        """A request on a rung is no longer wanted."""
        if rung != LOCAL:
            self._load[rung] -= 1

    def failed(self, climb: Climb, rung: int, code: str, attempts: int, now_us: int) -> None:
        """A request ended on a rung without an answer, after so many attempts there."""
        climb.tried.add(rung)
        climb.code, climb.attempts = code, climb.attempts + attempts
        if rung != LOCAL:
            self._load[rung] -= 1
            if code in RETRYABLE and code != Overloaded.code:
                self._standing.failed(_name(rung), now_us)


def _name(rung: int) -> NodeName:
    """A rung as its standing is kept, like a node's."""
    return NodeName(str(rung))
