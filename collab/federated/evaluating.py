"""One round's evaluation: who was asked, what came, and what it comes to."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from collab.federated.task import Evaluation

MAX_METRICS: Final = 32
"""Of one client's answer; more are not looked at."""
MAX_NAME: Final = 80
"""Characters of a metric's name; longer ones are passed over."""


def is_due(rules: Evaluation, round_: int, last: int) -> bool:
    """Whether a round is evaluated."""
    return bool(rules.every) and (round_ % rules.every == 0 or round_ == last)


def evaluators(rules: Evaluation, clients: Iterable[str], chance: random.Random) -> tuple[str, ...]:
    """Clients that are asked, sorted."""
    names = sorted(clients)
    if rules.count is not None and rules.count < len(names):
        names = sorted(chance.sample(names, rules.count))
    return tuple(names)


class Evaluating:
    """Waits for those that were asked, until a time.

    Args:
        clients: Who was asked; the empty name is the server.
        until: When the rest is given up.
    """

    def __init__(self, clients: Iterable[str], until: float) -> None:
        self._open = set(clients)
        self._answers: dict[str, tuple[int, dict[str, float]]] = {}
        self.until = until

    def answered(self, client: str, samples: int, metrics: Mapping[str, float]) -> None:
        """Take an answer; numbers that are not finite are passed over."""
        if client not in self._open:
            return
        self._open.remove(client)
        told = [(name, float(value)) for name, value in islice(metrics.items(), MAX_METRICS)]
        sound = {name: value for name, value in told if math.isfinite(value) and len(name) <= MAX_NAME}
        if samples > 0 and sound:
            self._answers[client] = (samples, sound)

    def gave_up(self, client: str) -> None:
        """One will not answer."""
        self._open.discard(client)

    def is_over(self, now: float) -> bool:
        """Whether nothing more is waited for."""
        return not self._open or now >= self.until

    def outcome(self) -> dict[str, float]:
        """Means weighted by samples, whatever the order of the answers, and ``samples``."""
        answers = [self._answers[client] for client in sorted(self._answers)]
        out: dict[str, float] = {}
        for name in sorted({name for _, metrics in answers for name in metrics} - {"samples"}):
            told = [(samples, metrics[name]) for samples, metrics in answers if name in metrics]
            weight = sum(samples for samples, _ in told)
            out[name] = math.fsum(samples * value for samples, value in told) / weight
        if out:
            out["samples"] = float(sum(samples for samples, _ in answers))
        return out
