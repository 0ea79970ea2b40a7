"""Maintenance windows in a device's own time zone, as instants: clocks that are put forward or back included.

A time that does not exist (clocks go forward) is taken as much later as clocks jump; a window that this
leaves empty keeps its length.  Of a time that comes twice the first opens a window and the second closes it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Final
from zoneinfo import ZoneInfo

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_AHEAD: Final = 8
"""Days looked through for the next opening: one of each weekday, and today's again."""


@functools.lru_cache(maxsize=64)
def zone(name: str) -> ZoneInfo | None:
    """A time zone by its IANA name; None where this machine knows no such."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def minutes_of(text: str) -> int | None:
    """Minutes since midnight of ``HH:MM``, up to 23:59; None for anything else."""
    hours, mark, minutes = text.partition(":")
    digits = len(hours) == len(minutes) == 2 and (hours + minutes).isascii() and (hours + minutes).isdigit()
    if not mark or not digits or int(hours) > 23 or int(minutes) > 59:
        return None
    return int(hours) * 60 + int(minutes)


def openings(
    now_s: float, place: ZoneInfo, days: Collection[str], start: int, stop: int
) -> Iterator[tuple[float, float]]:
    """Windows ``[opens, closes)`` in seconds since 1970, from yesterday's on, in order.

    Args:
        days: on which they open, of `DAYS`; none means each.
        start: minutes since midnight; ``stop`` at or before it is on the next day.
    """
    today = datetime.fromtimestamp(now_s, place).date()
    for ahead in range(-1, _AHEAD + 1):
        day = today + timedelta(days=ahead)
        if not days or DAYS[day.weekday()] in days:
            yield _window(day, place, start, stop)


@functools.lru_cache(maxsize=4_096)
def _window(day: date, place: ZoneInfo, start: int, stop: int) -> tuple[float, float]:
    opens = _instant(day, start, place, fold=0)
    closes = _instant(day + timedelta(days=stop <= start), stop, place, fold=1)
    if closes <= opens:
        closes = opens + (stop - start) % (24 * 60) * 60
    return opens, closes


def _instant(day: date, minute: int, place: ZoneInfo, fold: int) -> float:
    wall = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=place, fold=fold)
    there = wall.astimezone(timezone.utc)
    # A wall time in a gap does not come back as itself; the offset before the jump moves it forward.
    if there.astimezone(place).replace(tzinfo=None) != wall.replace(tzinfo=None):
        there = wall.replace(fold=0).astimezone(timezone.utc)
    return there.timestamp()
