"""What one stage holds for one attempt, and the table of what may happen to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, Final

from collab.client.wiring import StageWiring
from collab.core.plan import Edge
from collab.core.token import Kind, Token


class Phase(IntEnum):
    """Where a stage is in one attempt."""

    WAITING = 0
    COMPUTING = 1
    SETTLED = 2
    """Its out-edges have got their tokens; nothing more comes of it."""


class Event(IntEnum):
    """What happens to a stage."""

    HOLD = 0
    """A token came, and more are needed."""
    FIRE = 1
    """Enough values are in."""
    ABSENT = 2
    """It can no longer fire, and nothing went wrong."""
    ERROR = 3
    """It can no longer fire since something went wrong, its deadline included."""
    RESULT = 4
    """Its worker is done."""
    STOP = 5
    """The attempt was cancelled or has failed."""


TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = {
    (Phase.WAITING, Event.HOLD): Phase.WAITING,
    (Phase.WAITING, Event.FIRE): Phase.COMPUTING,
    (Phase.WAITING, Event.ABSENT): Phase.SETTLED,
    (Phase.WAITING, Event.ERROR): Phase.SETTLED,
    (Phase.WAITING, Event.STOP): Phase.SETTLED,
    (Phase.COMPUTING, Event.RESULT): Phase.SETTLED,
    (Phase.COMPUTING, Event.ERROR): Phase.SETTLED,
    (Phase.COMPUTING, Event.STOP): Phase.SETTLED,
}
"""Everything that may happen; what is not listed is dropped and counted.

A stage of which nothing is known is WAITING: the first token of an attempt makes its
join.  A settled stage keeps no join, only a bit in its attempt.
"""

_VALUE, _ERROR = Kind.VALUE, Kind.ERROR
_HOLD, _FIRE, _ABSENT_OUT, _ERROR_OUT = Event.HOLD, Event.FIRE, Event.ABSENT, Event.ERROR


class Join:
    """The tokens that one stage has got in one attempt."""

    __slots__ = ("errors", "fires_at_us", "last", "missing", "phase", "tokens", "values")

    def __init__(self, stage: StageWiring) -> None:
        self.phase = Phase.WAITING
        self.tokens: list[Token | None] = [None] * len(stage.in_edges)
        self.missing = len(stage.in_edges)
        self.values = 0
        self.errors = 0
        self.last: Token | None = None
        """The value that came last: the end of the critical path."""
        self.fires_at_us = 0
        """From when on it needs no more than a quorum; set by the first value."""

    def take(self, token: Token, slot: int, stage: StageWiring, now_us: int) -> Event:
        """File the first token of an in-edge, and say what follows."""
        self.tokens[slot] = token
        self.missing -= 1
        if token.kind is _VALUE:
            if self.last is None:
                self.fires_at_us = now_us + stage.wait_us
            self.values += 1
            self.last = token
        elif token.kind is _ERROR:
            self.errors += 1
        return self.decide(stage, now_us)

    def decide(self, stage: StageWiring, now_us: int) -> Event:
        """The firing rule: `all` needs every value, `any` one, a quorum ``k`` and some patience."""
        if self.values >= stage.need and (not self.missing or now_us >= self.fires_at_us):
            return _FIRE
        if self.values + self.missing < stage.need:
            return _ERROR_OUT if self.errors else _ABSENT_OUT
        return _HOLD

    def payloads(self, edges: Iterable[Edge]) -> list[Any]:
        """What each in-edge brought: None where nothing came, () where a member had no finite numbers."""
        return [
            ()
            if token is not None
            and token.kind is Kind.ABSENT
            and edge.guard
            and edge.guard.measure == "finite"
            else token and token.payload
            for token, edge in zip(self.tokens, edges, strict=True)
        ]

    def step(self, event: Event) -> None:
        """Go to the next phase; KeyError would be a fault of this package."""
        self.phase = TRANSITIONS[self.phase, event]

    def first(self, kind: Kind) -> Token:
        """The token of a kind that came on the lowest edge."""
        return next(token for token in self.tokens if token is not None and token.kind is kind)
