"""Simulated quarantines: how often honest members are put out, and how soon a wrong one is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure
from collab.codec.tensors import Array
from collab.coordinator.quarantine import agreements, rule_of
from collab.runtime.quarantine import Watch

CLASSES: Final = 10
RIGHT: Final = (0.9, 0.9, 0.9)
"""How often each member gives the label; else it guesses, independently of the others."""
EXAMPLES: Final = 1000
REQUESTS: Final = 5000

Picks = npt.NDArray[np.int64]


def _picks(random: np.random.Generator, labels: Picks) -> list[Picks]:
    guesses = [random.integers(CLASSES, size=len(labels)) for _ in RIGHT]
    return [
        np.where(random.random(len(labels)) < right, labels, guess)
        for right, guess in zip(RIGHT, guesses, strict=True)
    ]


def _watch(random: np.random.Generator) -> Watch:
    """Calibrated while all are honest."""
    labels = random.integers(CLASSES, size=EXAMPLES)
    scores: list[Array] = [np.eye(CLASSES, dtype="f4")[picks][:, None] for picks in _picks(random, labels)]
    return Watch(rule_of(agreements(scores)))


def _puts_out(random: np.random.Generator, wrong: float) -> Iterator[tuple[int, int]]:
    """Request and member whenever one is put out; the last member gives a wrong class that often."""
    watch, labels = _watch(random), random.integers(CLASSES, size=REQUESTS)
    picks = _picks(random, labels)
    picks[-1] = np.where(random.random(REQUESTS) < wrong, (labels + 1) % CLASSES, picks[-1])
    for at, row in enumerate(zip(*picks, strict=True)):
        yield from ((at + 1, change.member) for change in watch.observe(list(map(int, row))) if change.out)


def simulated(quick: bool) -> list[Figure]:
    """Figures over seeded streams of requests."""
    random, streams = np.random.default_rng(24), 5 if quick else 40
    where = f"{streams} streams of {REQUESTS} requests, 3 members that agree in about 90%"
    out = sum(1 for _ in range(streams) for _ in _puts_out(random, 0.0))
    rate = out / (streams * REQUESTS) * 10_000
    figures = [Figure("simulated: honest ones put out, of 10,000 requests", rate, "", "<= 1.0", None, where)]
    for wrong in (1.0, 0.5, 0.25):
        found: list[Any] = []
        others = 0
        for _ in range(streams):
            changes = list(_puts_out(random, wrong))
            found.append(next((at for at, member in changes if member == len(RIGHT) - 1), np.inf))
            others += sum(member != len(RIGHT) - 1 for _, member in changes)
        how = f"median; {max(found)} at most; honest ones put out {others} times; {where}"
        name = f"simulated: wrong in {wrong:.0%} of requests, out after"
        figures.append(Figure(name, float(np.median(found)), "requests", "", None, how))
    return figures
