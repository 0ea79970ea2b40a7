"""What is wrong with raw data: counted, listed, and dropped or refused as the user says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from collab.errors import InputError

Fault = Literal["corrupt", "missing", "out_of_range", "duplicate", "conflict", "mixed"]
FAULTS: Final[Mapping[Fault, str]] = {
    "corrupt": "cannot be read",
    "missing": "a value is missing",
    "out_of_range": "a value is out of its range",
    "duplicate": "has the same content as another one of its class",
    "conflict": "has the same content as one of another class",
    "mixed": "a window of several labels",
}
MAX_LISTED: Final = 1_000
"""Of each fault in the card."""
MAX_SAID: Final = 3
"""Of each fault in an error."""


@dataclass(frozen=True, slots=True)
class Policies:
    """What is done about each fault; ``fail`` writes nothing."""

    corrupt: Literal["fail", "drop"] = "fail"
    missing: Literal["fail", "drop", "fill"] = "fail"
    out_of_range: Literal["fail", "drop", "clip"] = "fail"
    duplicates: Literal["drop", "keep", "fail"] = "drop"
    """Of one class, and of several: there nobody knows which label is right, and all go."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One example that was found faulty."""

    where: str
    why: str


@dataclass(slots=True)
class Findings:
    """All faults so far, those of dropped examples and those that were mended."""

    dropped: Counter[Fault] = field(default_factory=Counter)
    mended: Counter[Fault] = field(default_factory=Counter)
    listed: dict[Fault, list[Listed]] = field(default_factory=dict)

    def drop(self, fault: Fault, where: str, why: str = "") -> None:
        """An example that is left out."""
        self.dropped[fault] += 1
        self._list(fault, where, why)

    def mend(self, fault: Fault, where: str, why: str = "", count: int = 1) -> None:
        """An example that is kept with some values filled or clipped."""
        self.mended[fault] += count
        self._list(fault, where, why)

    def _list(self, fault: Fault, where: str, why: str) -> None:
        entries = self.listed.setdefault(fault, [])
        if len(entries) < MAX_LISTED:
            entries.append(Listed(where, why or FAULTS[fault]))


def refuse(fault: Fault, found: list[Listed], remedy: str) -> InputError:
    """The error for faults that may not be: how many, the first ones, what to do."""
    said = "; ".join(f"{entry.where}: {entry.why}" for entry in found[:MAX_SAID])
    more = f"; and {len(found) - MAX_SAID} more" if len(found) > MAX_SAID else ""
    return InputError(f"{said}{more} ({fault.replace('_', ' ')}); {remedy}")
