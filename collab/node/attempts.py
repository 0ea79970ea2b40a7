"""The attempts that a node knows: those in flight here, and tombstones of those that are over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from collab.client.wheel import Wheel, earliest
from collab.core.ids import Epoch, NodeName, PlanName
from collab.core.token import Key, Token
from collab.node.deployments import LoadedPlan
from collab.node.join import Join
from collab.node.lanes import Lanes
from collab.node.limits import Counters, SessionLimits

DEADLINE_GRAIN_US: Final = 1_000
GRAVE_GRAIN_US: Final = 1_000_000


class Shelf(IntEnum):
    """Where an attempt is kept."""

    NEW = 0
    LIVE = 1
    """Some stage waits or computes here."""
    OVER = 2
    """No stage does: a tombstone, until its time has come or a newer one needs the room."""
    GONE = 3


class AttemptState:
    """One attempt on one node."""

    __slots__ = (
        "admitted",
        "closed",
        "deadline_us",
        "failures",
        "joins",
        "key",
        "lanes",
        "loaded",
        "passed",
        "priority",
        "requester",
        "route",
        "settled",
        "shelf",
        "trace",
    )

    def __init__(self, token: Token, loaded: LoadedPlan, lanes: Lanes, deadline_us: int) -> None:
        self.key = token.key
        self.requester = token.requester
        self.route = token.route
        self.trace = token.trace
        self.priority = token.priority
        self.loaded = loaded
        self.lanes = lanes
        self.deadline_us = deadline_us
        self.joins: dict[int, Join] = {}
        """By stage; only those that wait or compute."""
        self.settled = 0
        """Bit by stage: its out-edges have got their tokens."""
        self.passed = 0
        """Bit by stage: a cancel has gone on from it."""
        self.closed = False
        """Cancelled or failed: nothing more is done for it here."""
        self.admitted = False
        """It took one of its requester's credits on this node."""
        self.failures: frozenset[NodeName] = frozenset()
        """Nodes whose failure has been passed upstream."""
        self.shelf = Shelf.NEW


class Attempts:
    """Finds attempts by key and keeps their number bounded."""

    def __init__(self, limits: SessionLimits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._known: dict[Key, AttemptState] = {}
        self._live_by_requester: dict[NodeName, int] = {}
        self._over: OrderedDict[AttemptState, None] = OrderedDict()
        self._deadlines: Wheel[AttemptState] = Wheel(DEADLINE_GRAIN_US)
        self._graves: Wheel[AttemptState] = Wheel(GRAVE_GRAIN_US)
        self.live = 0
        self.get = self._known.get

    def __iter__(self) -> Iterator[AttemptState]:
        """Every known attempt; the caller may settle and forget them meanwhile."""
        return (state for state in list(self._known.values()) if state.shelf is not Shelf.GONE)

    @property
    def tombstones(self) -> int:
        """Attempts that are remembered though nothing is done for them here."""
        return len(self._over)

    def full(self, loaded: LoadedPlan, requester: NodeName) -> str | None:
        """The bound that one more live attempt would break, if any.

        A room holds an attempt with all its joins on this node, so a join that has
        begun always has the room to be filled.
        """
        limits = self._limits
        if loaded.live >= limits.rooms_per_credit * loaded.credits:
            return f"all {loaded.live} rooms of the plan are taken"
        if loaded.live_by_requester.get(requester, 0) >= loaded.credits:
            return (
                f"requester {requester!r} has {loaded.credits} attempts here, as many as the plan's credits"
            )
        if self.live >= limits.attempts:
            return f"limits.attempts of {limits.attempts} is reached"
        if self._live_by_requester.get(requester, 0) >= limits.attempts_per_requester:
            return f"limits.attempts_per_requester of {limits.attempts_per_requester} is reached"
        return None

    def open(self, token: Token, loaded: LoadedPlan, lanes: Lanes, now_us: int) -> AttemptState:
        """Know an attempt from now on; call `file` once its first token has been dealt with."""
        deadline_us = min(max(token.deadline_us, now_us), now_us + self._limits.budget_us)
        state = self._known[token.key] = AttemptState(token, loaded, lanes, deadline_us)
        return state

    def admit(self, state: AttemptState) -> None:
        """Let an attempt take one of its requester's credits while it is in flight here."""
        if not state.admitted:
            state.admitted = True
            if state.shelf is Shelf.LIVE:
                _add(state.loaded.admitted, state.requester, 1)

    def file(self, state: AttemptState) -> None:
        """Put an attempt where it belongs after something happened to it."""
        shelf = Shelf.LIVE if state.joins else Shelf.OVER
        if shelf is state.shelf:
            return
        self._take_out(state)
        state.shelf = shelf
        if shelf is Shelf.LIVE:
            self._count(state, 1)
            self._deadlines.add(state.deadline_us, state)
            return
        self._over[state] = None
        self._graves.add(state.deadline_us + self._limits.linger_us, state)
        if len(self._over) > self._limits.tombstones:
            self._counters.evicted += 1
            self.forget(next(iter(self._over)))

    def forget(self, state: AttemptState) -> None:
        """Know an attempt no longer."""
        if state.shelf is not Shelf.GONE:
            self._take_out(state)
            state.shelf = Shelf.GONE
            state.joins.clear()
            del self._known[state.key]

    def of(self, plan: PlanName, epoch: Epoch) -> list[AttemptState]:
        """Every known attempt of one epoch."""
        return [state for state in self if state.key.plan == plan and state.key.epoch == epoch]

    def expired(self, now_us: int) -> list[AttemptState]:
        """Live attempts whose deadline has passed; the caller settles and files them."""
        return self._deadlines.due(now_us)

    def bury(self, now_us: int) -> None:
        """Forget the tombstones whose time has come."""
        for state in self._graves.due(now_us):
            self.forget(state)

    def next_us(self) -> int | None:
        """When `expired` or `bury` have something to do."""
        return earliest(self._deadlines.next_us(), self._graves.next_us())

    def _take_out(self, state: AttemptState) -> None:
        if state.shelf is Shelf.LIVE:
            self._count(state, -1)
            self._deadlines.discard(state.deadline_us, state)
        elif state.shelf is Shelf.OVER:
            del self._over[state]
            self._graves.discard(state.deadline_us + self._limits.linger_us, state)

    def _count(self, state: AttemptState, change: int) -> None:
        self.live += change
        state.loaded.live += change
        _add(self._live_by_requester, state.requester, change)
        _add(state.loaded.live_by_requester, state.requester, change)
        if state.admitted:
            _add(state.loaded.admitted, state.requester, change)


def _add(counts: dict[NodeName, int], name: NodeName, change: int) -> None:
    left = counts.get(name, 0) + change
    if left:
        counts[name] = left
    else:
        del counts[name]
