"""Which epoch was the best, and whether it is time to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collab.toolchain.training.settings import Settings

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """After some epochs.

    Attributes:
        best: number of the epoch whose weights are kept, from 1.
        ended: whether no further epoch follows.
    """

    best: int
    ended: bool


def judge(history: Sequence[Metrics], settings: Settings) -> Verdict:
    """Look at the epochs so far, at least one; of equally good ones the first is the best.

    Without validation the last one is.
    """
    last = len(history)
    if settings.monitor not in history[0]:
        return Verdict(last, last >= settings.epochs)
    sign = -1 if settings.monitor == "val_loss" else 1
    values = [sign * epoch[settings.monitor] for epoch in history]
    best = values.index(max(values)) + 1
    stopped = settings.early_stopping is not None and last - best >= settings.early_stopping
    return Verdict(best, stopped or last >= settings.epochs)
