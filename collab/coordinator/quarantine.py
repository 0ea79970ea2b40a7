"""How often an honest member of an ensemble agrees: the least that keeps it out of quarantine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from collab.codec.tensors import Array
from collab.coordinator.ensembles import first_rows, wilson
from collab.core.plan import Quarantine
from collab.runtime.quarantine import Pick, majority

WINDOW: Final = 50
CHANCE: Final = 1e-4
"""That an honest member falls below its least within a window."""
CONFIDENCE: Final = 0.99
"""With which it agrees at least as often as is assumed, one-sided."""


@dataclass(frozen=True)
class Agreement:
    """How often a member agreed with the majority on a validation file."""

    agreed: int
    judged: int
    """Examples that it answered and that had a majority."""
    least: int
    """In how many requests of a window it has to agree."""
    blind: bool
    """Whether even a member that guesses keeps to that, so that it can never be put out."""

    def to_json(self) -> dict[str, Any]:
        """As ``collab ensemble --json`` prints it."""
        share = round(self.agreed / self.judged, 4) if self.judged else None
        return {"agreement": share, "least": self.least}


def least_agreements(agreed: int, judged: int, window: int = WINDOW, chance: float = CHANCE) -> int:
    """The most that can be asked of an honest member, so that it seldom falls below.

    It agrees in each request with the same probability, independently, which is taken as the
    lower end of a Wilson interval at `CONFIDENCE`.  Then fewer than this of ``window``
    requests have at most the probability ``chance``: a binomial bound.
    """
    if not judged:
        return 0
    share, _ = wilson(agreed, judged, NormalDist().inv_cdf(CONFIDENCE))
    below = 0.0
    for k in range(window + 1):
        if share <= 0:
            return 0
        below += math.comb(window, k) * share**k * (1 - share) ** (window - k)
        if below > chance:
            return k
    return window


def agreements(
    scores: Sequence[Array], window: int = WINDOW, chance: float = CHANCE
) -> tuple[Agreement, ...]:
    """Each member's agreement on a validation file, from all members' answers to it."""
    picks = [_picks(one) for one in scores]
    agreed, judged = [0] * len(scores), [0] * len(scores)
    for each in zip(*picks, strict=True):
        answer = majority(each, range(len(each)))
        for i, pick in enumerate(each):
            if answer is not None and pick is not None:
                judged[i] += 1
                agreed[i] += pick == answer
    made = []
    for right, count in zip(agreed, judged, strict=True):
        least = least_agreements(right, count, window, chance)
        made.append(Agreement(right, count, least, least <= window / scores[0].shape[-1]))
    return tuple(made)


def rule_of(found: Sequence[Agreement]) -> Quarantine:
    """As a plan carries it."""
    return Quarantine(least=tuple(one.least for one in found), window=WINDOW)


def _picks(scores: Array) -> list[Pick]:
    """The class that each answer picks; None where it is not finite."""
    chosen = first_rows(scores).argmax(axis=-1)
    return [
        int(pick) if np.isfinite(answer).all() else None for pick, answer in zip(chosen, scores, strict=True)
    ]
