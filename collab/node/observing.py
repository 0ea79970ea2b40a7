"""What is taken of requests at one stage: by its thread, of a few requests a second, after the answer left."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from collab.codec.tensors import Array
from collab.core.ids import REQUESTER, NodeName, RequestId
from collab.core.plan import Plan, StageSpec
from collab.runtime.combiners import Member, probabilities
from collab.updates.policies.reference import Feature, looked_at, takers
from collab.updates.policies.seen import Sample

MAX_WAITING: Final = 4_096
"""Samples, and answers by request, that a stage holds until the event loop takes them."""
MAX_CLASSES: Final = 4_096
"""Of outputs with more no class is kept for comparing with labels."""
UNKNOWN: Final = -1
"""Stands for the class of an answer that has none."""


class Given(NamedTuple):
    """An answer that somebody may say something about."""

    request: RequestId
    requester: NodeName
    pick: int
    """The class that the answer is, `UNKNOWN` where it has none."""


class Observer:
    """One stage's.  `note` and `take` are the worker thread's, `drain` the event loop's."""

    def __init__(
        self,
        plan: Plan,
        stage: StageSpec,
        features: Sequence[Feature],
        samples_s: float,
        clock_us: Callable[[], int],
    ) -> None:
        self._index = plan.stage_index(stage.id)
        self._clock_us = clock_us
        self._pause_us = int(1e6 / samples_s) if samples_s > 0 else 0
        self._next_us = 0
        self._samples: deque[Sample] = deque(maxlen=MAX_WAITING)
        self._answers: deque[Given] = deque(maxlen=MAX_WAITING)
        answers = [plan.edges[i] for i in plan.edges_from(stage.id) if plan.edges[i].target == REQUESTER]
        self.answers = bool(answers)
        """Whether this stage gives answers of the plan."""
        given = {name for edge in answers for name in edge.tensors}
        self._scores = next((s.name for s in stage.outputs if s.name in given and _has_classes(s.shape)), None)
        self._counted = 1
        shapes = {spec.name: spec.shape for spec in entering(plan, stage)}
        self._wanted = features if all(feature.input in shapes for feature in features) else ()
        self._takers = takers(self._wanted, shapes)

    @property
    def features(self) -> Sequence[Feature]:
        """What is taken of the inputs here; empty where they do not enter here."""
        return self._wanted

    def note(self, request: RequestId, requester: NodeName, made: Mapping[str, Array]) -> None:
        """Keep what an answer was, for who may say later whether it was right."""
        if self.answers:
            scores = made.get(self._scores) if self._scores is not None else None
            pick = UNKNOWN if scores is None or scores.size > MAX_CLASSES else int(scores.argmax())
            self._answers.append(Given(request, requester, pick))

    def due(self) -> bool:
        """Whether this request is one to look at."""
        now_us = self._clock_us()
        if not self._pause_us or now_us < self._next_us:
            return False
        self._next_us = now_us + self._pause_us
        return True

    def take(
        self,
        busy_us: int,
        inputs: Mapping[str, Array],
        members: Sequence[Member | None],
        made: Mapping[str, Array],
    ) -> None:
        """Look at one request; what is not finite is left out."""
        features: tuple[float, ...] = ()
        if self._takers:
            looked = {name: looked_at(inputs[name]) for name, _ in self._takers}
            features = tuple(take(looked[name]) for name, take in self._takers)
        confidence, margin = self._sureness(made)
        agreement = agreement_of(members, made) if members else None
        self._samples.append(Sample(self._index, busy_us, features, confidence, margin, agreement))

    def _sureness(self, made: Mapping[str, Array]) -> tuple[float | None, float | None]:
        if self._scores is None:
            return None, None
        return sureness(made[self._scores])

    def drain(self) -> tuple[list[Sample], list[Given]]:
        """Samples and answers since the last call, oldest first."""
        return _emptied(self._samples), _emptied(self._answers)


def entering(plan: Plan, stage: StageSpec) -> list[Any]:
    """The plan's inputs that are looked at in a stage: the first in the plan's order that they enter."""
    taken: set[str] = set()
    for one in plan.stages:
        own = {name for i in plan.edges_into(one.id) if plan.edges[i].source == REQUESTER
               for name in plan.edges[i].tensors}
        if one.id == stage.id:
            reads = {spec.name for spec in one.inputs}
            return [spec for spec in plan.inputs if spec.name in (own & reads) - taken]
        taken |= own
    return []


def sureness(scores: Array) -> tuple[float | None, float | None]:
    """Probability of the best class, and its distance to the second's; None where they are not finite."""
    if scores.dtype.kind == "f" and not np.isfinite(scores).all():
        return None, None
    given = np.sort(probabilities(scores.reshape(-1)))
    best, second = float(given[-1]), float(given[-2])
    return (best, best - second) if math.isfinite(best) else (None, None)


def agreement_of(members: Sequence[Member | None], made: Mapping[str, Array]) -> float | None:
    """Share of the members that came which pick the class of the answer; None for no classes."""
    for name, answer in made.items():
        if not _has_classes(answer.shape):
            continue
        scores = [member[name] for member in members if member and name in member]
        scores = [each for each in scores if each.shape == answer.shape]
        if len(scores) >= 2:
            pick = int(answer.argmax())
            return sum(int(each.argmax()) == pick for each in scores) / len(scores)
    return None


def _has_classes(shape: Sequence[int]) -> bool:
    """Whether it is one row of at least two scores."""
    return len(shape) >= 1 and shape[-1] >= 2 and math.prod(shape) == shape[-1]


def _emptied(queue: deque[Any]) -> list[Any]:
    found = []
    # The thread may append meanwhile, so its length says nothing; at most once round.
    for _ in range(MAX_WAITING):
        try:
            found.append(queue.popleft())
        except IndexError:
            break
    return found
