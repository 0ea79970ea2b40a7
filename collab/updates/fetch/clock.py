"""What time it is for a device whose clock may start in 1970, or run backwards.

Pure: told the system's clock and a monotonic one.  The timestamp of a repository says when it was
signed, so the time is no earlier than that; from there the device counts its own running time.
The system's clock is believed when it is later, and never remembered: a clock that was once set to
2080 does no harm when it is right again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
ISSUED: Final = "x-collab-issued"
"""Signed field of a repository's timestamp: when it was made, in UTC."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The time that it is at least.

    Attributes:
        time: as signed, with the running time counted since.
        at_s: monotonic clock when it was that time.
    """

    time: datetime
    at_s: float

    def now(self, system: datetime, monotonic_s: float) -> datetime:
        """What time to believe."""
        return max(system, self.counted(monotonic_s).time)

    def counted(self, monotonic_s: float) -> Floor:
        """The same floor, later."""
        return Floor(self.time + timedelta(seconds=max(0.0, monotonic_s - self.at_s)), monotonic_s)

    def issued(self, value: object, monotonic_s: float) -> Floor:
        """Raised by a signed timestamp's field; what cannot be read raises nothing."""
        counted = self.counted(monotonic_s)
        if not isinstance(value, str):
            return counted
        try:
            time = datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        except ValueError:
            return counted
        return Floor(max(time, counted.time), monotonic_s)
