"""Policies: clauses that are true, false or unknown, and rules of what to do when one is true."""

from __future__ import annotations

from typing import Final, Literal, Union

from collab.core.decoding import prepare
from collab.core.plan import Frozen
from collab.updates.policies.measures import Flag, Measure

MAX_DEPTH: Final = 8
MAX_CLAUSES: Final = 128
MAX_RULES: Final = 32
MAX_HOURS: Final = 24.0 * 366
MAX_HOLD_S: Final = 30 * 86_400.0

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class AllOf(Frozen, frozen=True, tag="all", tag_field="kind", kw_only=True):
    """True when every clause is; false when one is, whatever is unknown."""

    of: tuple[Clause, ...]


class AnyOf(Frozen, frozen=True, tag="any", tag_field="kind", kw_only=True):
    """True when one clause is, whatever is unknown; false when every one is."""

    of: tuple[Clause, ...]


class Not(Frozen, frozen=True, tag="not", tag_field="kind", kw_only=True):
    """The opposite; unknown stays unknown."""

    of: Clause


class First(Frozen, frozen=True, tag="first", tag_field="kind", kw_only=True):
    """What the first clause says that is not unknown."""

    of: tuple[Clause, ...]


class Always(Frozen, frozen=True, tag="always", tag_field="kind"):
    """True: the last of a ``first``, say."""


class Every(Frozen, frozen=True, tag="every", tag_field="kind", kw_only=True):
    """True when so long has passed since the device last looked for a release, or it never did.

    ``faster`` and ``slower`` rules divide and multiply the time, within the two bounds.
    """

    hours: float
    jitter: float = 0.1
    """Share by which the time is longer or shorter, drawn from the device's name and its last look."""
    fastest_hours: float = 1.0
    slowest_hours: float = MAX_HOURS


class Window(Frozen, frozen=True, tag="window", tag_field="kind", kw_only=True, rename={"start": "from"}):
    """True from one time of the day to another, in the device's time zone."""

    start: str
    """Such as ``01:30``."""
    to: str
    """At or before ``from``: on the next day."""
    days: tuple[Day, ...] = ()
    """On which it opens; none means each."""
    spread: float = 0.0
    """Share of the window within which devices begin, each at a place of its own."""


class Level(Frozen, frozen=True, tag="level", tag_field="kind", kw_only=True):
    """True when a measure is at a bound or beyond it, with hysteresis: it ends at another bound."""

    measure: Measure
    at_least: Union[float, None] = None
    """Give this or ``at_most``."""
    at_most: Union[float, None] = None
    until: Union[float, None] = None
    """It stays true until the measure is past this; the bound itself if left out."""
    hold_s: float = 0.0
    """A change, either way, counts only after it has lasted so long."""


class Is(Frozen, frozen=True, tag="is", tag_field="kind", kw_only=True):
    """True when a flag is."""

    flag: Flag


class Worse(Frozen, frozen=True, tag="worse", tag_field="kind", kw_only=True):
    """True when labelled answers prove that accuracy fell by ``drop`` from what the release promised.

    It ends when the evidence is gone, not at the threshold.
    """

    drop: float = 0.05
    alpha: float = 0.01
    """False alarms for each period of the feedback, at most."""


Clause = Union[AllOf, AnyOf, Not, First, Always, Every, Window, Level, Is, Worse]

Action = Literal["check", "install", "round", "rollback", "wait"]
"""Look for a release, take the one that is offered, ask for a federated round, go back, do nothing yet."""
Pace = Literal["faster", "slower"]


class Rule(Frozen, frozen=True, kw_only=True):
    """What to do when a clause is true."""

    then: Union[Action, Pace]
    when: Clause
    by: float = 2.0
    """Of ``faster`` and ``slower``: the factor."""


class Policy(Frozen, frozen=True, kw_only=True):
    """Rules in order: those of pace all count, of the others the first that holds is done."""

    name: str
    rules: tuple[Rule, ...]


prepare(Policy)
