"""What requesters counted since the last look, as the gate sees it.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from collab.updates.health.gate import Bounds, Compared, Failed, Observation, Served
from collab.updates.health.trial import Counts

MOST_OBSERVED: Final = 10_000
"""Of one look: more decide nothing that so many do not, and the figures are the requesters' own."""


def observations(new: Counts, bounds: Bounds) -> Iterator[Observation]:
    """Observations that stand for what is new; those that end a trial first.

    Counts say no order, so what is bad among the others is spread evenly: a run of it would look
    worse to a sequential test than its share is.
    """
    if new.failed:
        yield Failed(new.reason or f"{new.failed} requests failed")
    if new.not_finite:
        yield Served(False) if new.phase == "probation" else _compared(bounds, finite=False)
    if new.phase == "probation":
        for _ in range(min(new.served, MOST_OBSERVED)):
            yield Served()
        return
    compared = max(new.compared - new.not_finite, 0)
    count = min(compared, MOST_OBSERVED)
    for i in range(count):
        yield _compared(
            bounds,
            agrees=not _is_bad(i, new.disagreed, compared),
            slow=_is_bad(i, new.slow, compared),
        )


def _is_bad(index: int, bad: int, of: int) -> bool:
    """Whether one of the bad falls on an index, where they are spread evenly."""
    bad = min(bad, of)
    return (index + 1) * bad // of > index * bad // of


def _compared(bounds: Bounds, *, agrees: bool = True, finite: bool = True, slow: bool = False) -> Compared:
    """Times are told as too long or not: the requester has compared them."""
    return Compared(agrees, finite, 1.0, 2 * bounds.slow_factor if slow else 1.0)
