"""When starts of a process count as a crash loop."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class CrashRule(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was started so often without being called healthy does not work.

    Attributes:
        starts: that many.
        within_s: as long back as a start counts.
    """

    starts: int = 3
    within_s: float = 600.0


def counted(starts: Sequence[float], now: float, rule: CrashRule) -> tuple[float, ...]:
    """The starts that count once there is another one now, oldest first, at most ``rule.starts`` + 1.

    A clock that was set back keeps its starts: a device without a battery for its clock begins
    at the same time whenever it boots, and must not loop for ever.
    """
    recent = tuple(at for at in starts if now - at <= rule.within_s)
    return (*recent, now)[-(rule.starts + 1) :]


def is_loop(starts: Sequence[float], rule: CrashRule) -> bool:
    """Whether the last start is one too many: the starts before it all failed."""
    return len(starts) > rule.starts
