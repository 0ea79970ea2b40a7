"""What is taken of requests at one stage: by its thread, of a few a second, after the answer has left."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from collab.codec.tensors import Array
from collab.core.ids import REQUESTER, EdgeId, NodeName, RequestId
from collab.core.plan import Plan, StageSpec
from collab.core.tensor import TensorSpec
from collab.runtime.combiners import Member, probabilities
from collab.updates.policies.reference import ReferenceFile, looked_at, takers
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


class Noted(NamedTuple):
    """What came of one stage, oldest first."""

    samples: list[Sample]
    given: list[Given]
    answers: int
    failed: int


class Observer:
    """One stage's.  `note` and `take` are the worker thread's, `drain` the event loop's."""

    def __init__(
        self,
        plan: Plan,
        stage: StageSpec,
        reference: ReferenceFile | None,
        samples_s: float,
        clock_us: Callable[[], int],
    ) -> None:
        self._index = plan.stage_index(stage.id)
        self._clock_us = clock_us
        self._pause_us = int(1e6 / samples_s) if samples_s > 0 else 0
        self._next_us = 0
        self._answered = self._failed = 0
        self._told = (0, 0)
        """Of both, what `drain` has given out."""
        self._samples: deque[Sample] = deque(maxlen=MAX_WAITING)
        self._answers: deque[Given] = deque(maxlen=MAX_WAITING)
        self._answering = [i for i in plan.edges_from(stage.id) if plan.edges[i].target == REQUESTER]
        given = {name for i in self._answering for name in plan.edges[i].tensors}
        self._scores = next(
            (s.name for s in stage.outputs if s.name in given and _has_classes(s.shape)), None
        )
        if stage.transform is not None or stage.each:  # boxes and rows of several things are no classes
            self._scores = None
        shapes = {spec.name: spec.shape for spec in entering(plan, stage)}
        self.reference = reference
        features = reference.features if reference is not None else ()
        self.features = tuple(feature for feature in features if feature.input in shapes)
        """What is taken of inputs that enter the plan here."""
        self._takers = takers(self.features, shapes)

    def note(
        self, request: RequestId, requester: NodeName, sent: Collection[EdgeId], made: Mapping[str, Array]
    ) -> None:
        """Keep what an answer was, for who may say later whether it was right.

        Args:
            sent: edges that carry a value; a guard may keep an answer back.
        """
        if not any(edge in sent for edge in self._answering):
            return
        scores = made.get(self._scores) if self._scores is not None else None
        pick = UNKNOWN if scores is None or scores.size > MAX_CLASSES else int(scores.argmax())
        self._answers.append(Given(request, requester, pick))
        self._answered += 1

    def failed(self) -> None:
        """The stage could not answer a request."""
        self._failed += 1

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

    def drain(self) -> Noted:
        """What came since the last call."""
        now, before = (self._answered, self._failed), self._told
        self._told = now
        counts = now[0] - before[0], now[1] - before[1]
        return Noted(_emptied(self._samples), _emptied(self._answers), *counts)


def entering(plan: Plan, stage: StageSpec) -> list[TensorSpec]:
    """The plan's inputs that are looked at in a stage: the first in the plan's order that they enter."""
    taken: set[str] = set()
    for one in plan.stages:
        edges = [plan.edges[i] for i in plan.edges_into(one.id)]
        own = {name for edge in edges if edge.source == REQUESTER for name in edge.tensors}
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
