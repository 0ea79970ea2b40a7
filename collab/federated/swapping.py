"""Whether a new model may take a running one's place.  Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from collab.federated.task import DeployRules

LOSS: Final = "loss"
_PREFERRED: Final = ("accuracy", LOSS)
_SLACK: Final = 1e-9
"""Of gains: metrics are quotients of whole numbers."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Two models on the same held-out examples."""

    metric: str
    """``accuracy``, of which more is better, or ``loss``, of which less is."""
    running: float
    candidate: float
    samples: int
    agreement: float | None = None
    """Share of the examples of which both say the same."""

    @property
    def gain(self) -> float:
        """By how much the candidate is better; below 0 it is worse."""
        change = self.candidate - self.running
        return -change if self.metric == LOSS else change


@dataclass(frozen=True, slots=True)
class Asked:
    """Answers of new stages on the nodes; times are medians in ms."""

    requests: int
    wrong: int
    """Answers that are not those of the whole new model."""
    candidate_ms: float
    running_ms: float | None
    """Of the plan that runs, asked in turn; None where it admitted nothing more."""


def is_due(rules: DeployRules, round_: int) -> bool:
    """Whether a round's model is tried while the run goes on."""
    return rules.every > 0 and round_ % rules.every == 0


def refused_by_examples(compared: Compared, rules: DeployRules) -> str:
    """Why a model must not take over, after held-out examples; empty where it may."""
    if not (math.isfinite(compared.candidate) and compared.samples > 0):
        return f"its {compared.metric} on held-out examples is not known"
    if not math.isfinite(compared.running) or compared.gain >= rules.minimum_gain - _SLACK:
        return ""
    wanted = f", {rules.minimum_gain:g} better is asked for" if rules.minimum_gain else ""
    return (
        f"{compared.metric} {compared.candidate:.4g} on {compared.samples} held-out examples, "
        f"{compared.running:.4g} of the model that runs{wanted}"
    )


def refused_by_answers(asked: Asked, rules: DeployRules) -> str:
    """The same after requests over the nodes."""
    if asked.wrong:
        return (
            f"{asked.wrong} of {asked.requests} answers over the nodes are not those of the whole new model"
        )
    if asked.running_ms is None or asked.candidate_ms <= asked.running_ms * (1 + rules.tolerance):
        return ""
    return (
        f"its answers over the nodes take {asked.candidate_ms:.3g} ms, "
        f"those of the plan that runs {asked.running_ms:.3g} ms"
    )


def pooled(pairs: Iterable[tuple[int, Mapping[str, float], Mapping[str, float]]]) -> Compared | None:
    """What clients measured of both models, weighted by samples; None where nobody measured both.

    Args:
        pairs: of each client its samples, and metrics of the running and of the new model.
    """
    found = [pair for pair in pairs if pair[0] > 0]
    for metric in _PREFERRED:
        told = [(n, old[metric], new[metric]) for n, old, new in found if metric in old and metric in new]
        if told:
            samples = sum(n for n, _, _ in told)
            running, candidate = (math.fsum(t[0] * t[at] for t in told) / samples for at in (1, 2))
            return Compared(metric, running, candidate, samples)
    return None
