"""Interfaces of federated training: who trains on a device, and who makes one model of many updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from collab.federated.update import LocalTraining, Parameters, Update


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of local training."""

    parameters: Parameters
    samples: int
    """Different examples that were seen."""
    steps: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    """At least ``loss``, the mean over all steps."""
    control: Parameters = field(default_factory=dict)
    """The client's control variate as it is now (SCAFFOLD, option II); empty without a correction."""


class Trainer(Protocol):
    """Trains one model on this device's data.  Blocking: it runs in a thread, not in the event loop."""

    @property
    def initial(self) -> Parameters:
        """The weights that the model came with."""

    def train(
        self,
        start: Parameters,
        task: LocalTraining,
        *,
        correction: Parameters | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Trained:
        """Train from the given weights; the same arguments give the same bits on one class of runtime.

        Args:
            start: The round's weights; they are not changed.
            task: What to do.
            correction: Added to every gradient (SCAFFOLD: the server's control variate less the client's).
            cancelled: Asked at least once a step; training then ends with `collab.errors.Cancelled`.
        """

    def evaluate(self, parameters: Parameters) -> Mapping[str, float]:
        """``loss``, ``accuracy`` where the model has classes, and ``samples`` on the held-out part."""


class Aggregator(Protocol):
    """Makes the next model of a round's updates.  Pure: what it remembers is its state, given and taken.

    The order in which updates come does not change a bit of the outcome.
    """

    def add(self, update: Update) -> None:
        """Take one update that passed the gate.  What is kept does not grow with their number."""

    def finish(self) -> Parameters:
        """The new weights."""
