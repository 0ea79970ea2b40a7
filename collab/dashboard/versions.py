"""Values by key, series and a log, each with the version at which it last changed.  No I/O, no clock.

Who looks says what version it has and is given what changed since, merged: however slow it is,
it never makes anything wait in a queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

MAX_KEYS: Final = 4_096
"""Values, each of some hundred bytes."""
MAX_SERIES: Final = 256
MAX_POINTS: Final = 600
"""Of each series: ten minutes at one a second."""
MAX_LOG: Final = 500
_MAX_GONE: Final = 1_024
"""Removed keys that are remembered; who was away for longer is given everything."""


class Versions:
    """What there is, and since which version."""

    def __init__(self) -> None:
        self.version = 0
        self.left_out = 0
        """Values and series that had no room."""
        self._values: dict[str, tuple[int, Any]] = {}
        self._gone: deque[tuple[int, str]] = deque()
        self._forgotten = 0
        """Removals up to this version are no longer known."""
        self._series: dict[str, deque[tuple[int, float, float]]] = {}
        self._log: deque[tuple[int, dict[str, Any]]] = deque(maxlen=MAX_LOG)

    def get(self, key: str) -> Any:
        """The value of a key; None if it has none."""
        entry = self._values.get(key)
        return None if entry is None else entry[1]

    def keys(self, prefix: str) -> list[str]:
        """Keys that begin so."""
        return [key for key in self._values if key.startswith(prefix)]

    def put(self, key: str, value: Any) -> bool:
        """Set a value; whether it is another than before.  One too many is left out and counted."""
        entry = self._values.get(key)
        if entry is None and len(self._values) >= MAX_KEYS:
            self.left_out += 1
            return False
        if entry is not None and entry[1] == value:
            return False
        self.version += 1
        self._values[key] = (self.version, value)
        return True

    def drop(self, key: str) -> None:
        """Take a value away, if it is there."""
        if self._values.pop(key, None) is None:
            return
        self.version += 1
        self._gone.append((self.version, key))
        if len(self._gone) > _MAX_GONE:
            self._forgotten = self._gone.popleft()[0]

    def keep_only(self, prefix: str, wanted: Iterable[str]) -> None:
        """Take away what begins so and is not wanted."""
        kept = set(wanted)
        for key in self.keys(prefix):
            if key not in kept:
                self.drop(key)

    def add(self, series: str, at_s: float, value: float) -> None:
        """A point of a series; the oldest makes room."""
        points = self._series.get(series)
        if points is None:
            if len(self._series) >= MAX_SERIES:
                self.left_out += 1
                return
            points = self._series[series] = deque(maxlen=MAX_POINTS)
        self.version += 1
        points.append((self.version, at_s, value))

    def log(self, entry: dict[str, Any]) -> None:
        """A line of the log; the oldest makes room."""
        self.version += 1
        self._log.append((self.version, {"id": self.version, **entry}))

    def since(self, known: int) -> dict[str, Any]:
        """Everything that changed after a version; all there is for 0, or one that is too old."""
        whole = known <= 0 or known < self._forgotten or known > self.version
        if whole:
            known = 0
        points = {
            name: [[at, value] for version, at, value in entries if version > known]
            for name, entries in self._series.items()
            if entries and entries[-1][0] > known
        }
        gone = () if whole else (key for version, key in self._gone if version > known)
        return {
            "version": self.version,
            "whole": whole,
            "set": {key: value for key, (version, value) in self._values.items() if version > known},
            "gone": [key for key in dict.fromkeys(gone) if key not in self._values],
            "points": points,
            "log": [entry for version, entry in self._log if version > known],
        }
