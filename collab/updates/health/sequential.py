"""Is something too often wrong?  Wald's sequential test decides as soon as enough was seen.

A. Wald, "Sequential Tests of Statistical Hypotheses", Ann. Math. Statist. 16 (1945).
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

Verdict = Literal["undecided", "fine", "worse"]


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What is told apart, and how often that may go wrong.

    Attributes:
        fine: share of bad ones at which it is fine, above 0.
        worse: share at which it is worse, above ``fine`` and below 1.
        error: probability of either wrong verdict at these shares.
    """

    fine: float
    worse: float
    error: float = 0.01


class Tally(msgspec.Struct, frozen=True):
    """What was seen so far."""

    seen: int = 0
    bad: int = 0

    def add(self, is_bad: bool) -> Tally:
        """One more."""
        return Tally(self.seen + 1, self.bad + is_bad)

    def verdict(self, rates: Rates) -> Verdict:
        """What can be said by now."""
        evidence = self.bad * math.log(rates.worse / rates.fine)
        evidence += (self.seen - self.bad) * math.log((1 - rates.worse) / (1 - rates.fine))
        bound = math.log((1 - rates.error) / rates.error)
        if evidence >= bound:
            return "worse"
        return "fine" if evidence <= -bound else "undecided"
