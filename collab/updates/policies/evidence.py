"""Is the model worse than promised?  A test on labelled answers that may be looked at any number of times.

The sum over all starting points of the likelihood ratio of "accuracy fell by ``drop``" to "it is the
baseline" is Shiryaev's and Roberts' statistic, an e-detector (Shin, Ramdas and Rinaldo, 2024): while the
accuracy is the baseline or better, its mean at any moment is at most the number of periods, so a threshold of
``1/alpha`` is passed by chance once in ``1/alpha`` periods in the mean or less often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from collab.updates.policies.state import Tally

_MOST: Final = 0.999
"""Baselines above it would take one wrong answer for a proof."""
_LEAST: Final = 1e-3


def log_evidence(tallies: Sequence[Tally], baseline: float, drop: float) -> float | None:
    """Natural logarithm of the evidence that accuracy fell by ``drop`` at some time; None without labels.

    Args:
        tallies: oldest first.
        baseline: accuracy that was promised, within (0, 1].
        drop: in accuracy, above 0.
    """
    promised = min(max(baseline, 2 * _LEAST), _MOST)
    fallen = max(promised - drop, _LEAST)
    if not any(tally.labelled for tally in tallies):
        return None
    right, wrong = math.log(fallen / promised), math.log((1 - fallen) / (1 - promised))
    total = -math.inf
    for tally in tallies:
        step = tally.correct * right + (tally.labelled - tally.correct) * wrong
        # log(exp(total) + 1) without overflow: one more starting point.
        total = step + max(total, 0.0) + math.log1p(math.exp(-abs(total)))
    return total
