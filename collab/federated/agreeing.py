"""When the cohort of a round under secure aggregation agrees on keys, and whether it has."""

from __future__ import annotations

from typing import Final, Literal

LEAST_SUMMED: Final = 3
"""Clients whose masked updates are worth summing."""
MAX_AGREE_S: Final = 30.0
"""How long offers may be unanswered before those who have accepted agree on keys."""


class Agreeing:
    """One attempt of one round at a time; without secure aggregation nothing is ever due.

    Args:
        needed: Whether updates are masked.
    """

    def __init__(self, needed: bool) -> None:
        self.needed = needed
        self.state: Literal["", "agreeing", "agreed"] = ""
        self.until: float | None = None
        """When no longer is waited for answers to offers."""

    @property
    def closed(self) -> bool:
        """Whether nobody may come into the cohort any more."""
        return bool(self.state)

    @property
    def holds_back(self) -> bool:
        """Whether nobody gets the model yet."""
        return self.needed and self.state != "agreed"

    def opened(self, now: float, deadline_s: float) -> None:
        """Clients were asked."""
        if self.needed and self.until is None and not self.state:
            self.until = now + min(MAX_AGREE_S, deadline_s / 4)

    def is_due(self, now: float, unanswered: int, accepted: int, least: int) -> bool:
        """Whether those who have accepted are to begin."""
        if self.until is None or (unanswered and now < self.until):
            return False
        if accepted < least:
            self.until = now + MAX_AGREE_S if now >= self.until else self.until
            return False
        self.until, self.state = None, "agreeing"
        return True

    def forget(self) -> None:
        """Keys are of one attempt."""
        self.state, self.until = "", None
