"""Whether an epoch of a plan is sound: what its first lives show, and what follows.  Pure.

A life of an epoch is the time that one process has it loaded.  It ends well when the process goes
down in order, badly when the process is gone without a word.  An epoch that ends its lives badly
before it has proven itself is not loaded again.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from collab.core.ids import Epoch, NodeName
from collab.core.plan import Plan

MAX_LIVES: Final = 3
"""Lives that an epoch may end badly."""
PROVEN_ANSWERS: Final = 20
"""Results in one life that prove an epoch."""
SETTLED_S: Final = 30.0
"""So long after its first result an epoch is proven, however few there were; one that nobody asks rests."""


class KeptPlan(msgspec.Struct, frozen=True):
    """An epoch of a plan on the disk.

    ``lives`` are those that have begun and not ended well, this one included; None once it is proven.
    """

    plan: Plan
    epoch: Epoch
    lives: int | None = None


class Left(msgspec.Struct, frozen=True):
    """The epoch that a node has gone back from, and how many lives it ended."""

    epoch: Epoch
    lives: int

    def __str__(self) -> str:
        return f"epoch {self.epoch} ended the process {self.lives} times"


class Kept(msgspec.Struct, frozen=True):
    """What the disk has of one plan.

    Attributes:
        current: what was committed last.
        before: what it came from, until it is proven.
        left: set once ``current`` is what the node went back to.
    """

    current: KeptPlan
    before: KeptPlan | None = None
    left: Left | None = None

    @property
    def newest(self) -> Epoch:
        """The last epoch that was committed here."""
        return self.current.epoch if self.left is None else self.left.epoch


Start = Literal["load", "count", "go back", "leave"]


def at_start(kept: Kept, node: NodeName) -> Start:
    """What a node that starts does with a plan: load it, load it once that is counted, or not at all."""
    lives = kept.current.lives
    if lives is None:
        return "load"
    if lives < MAX_LIVES:
        return "count"
    return "go back" if may_go_back(kept, node) else "leave"


def uncounted(kept: Kept, node: NodeName) -> Start:
    """The same where a life cannot be written down: ``go back`` is for this life alone then."""
    if not may_go_back(kept, node) or kept.before is None or kept.before.lives is not None:
        return "leave"
    return "go back"


def may_go_back(kept: Kept, node: NodeName) -> bool:
    """Whether the epoch before may be served again without asking anybody.

    That is so where no other node has a part in the plan, and the plan stands in for no other one:
    elsewhere two versions would meet.
    """
    return kept.before is not None and all(
        one.primary is None and all(stage.nodes == (node,) for stage in one.stages)
        for one in (kept.current.plan, kept.before.plan)
    )


Verdict = Literal["wait", "proven", "rest"]


class Trial:
    """The present life of an epoch that is not proven.

    An epoch that rests has a life that does not count: nobody asks it, so power cuts say nothing of
    it.  Its next request begins the life again.
    """

    def __init__(self) -> None:
        self.resting = False
        self._results = 0
        self._first_s: float | None = None

    def computed(self, now_s: float) -> Verdict:
        """One of its stages gave a result."""
        self._results += 1
        if self._first_s is None:
            self._first_s = now_s
        enough = self._results >= PROVEN_ANSWERS or now_s - self._first_s >= SETTLED_S
        return "proven" if enough else "wait"

    def looked_at(self, now_s: float, busy: bool) -> Verdict:
        """Called every `SETTLED_S`; ``busy`` says whether requests are under way on it."""
        if self._first_s is None:
            return "wait" if busy or self.resting else "rest"
        return "proven" if now_s - self._first_s >= SETTLED_S else "wait"
