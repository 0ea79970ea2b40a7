"""Combiners: stages that merge several members' answers, and what they tell of who took part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from collab.codec.tensors import Array
from collab.core.plan import FireQuorum, Plan, StageSpec, report_specs
from collab.errors import PlanError, StageFailed
from collab.runtime.quarantine import Pick, Watch

log = logging.getLogger(__name__)

Member = Mapping[str, Array]
Combiner = Callable[[Sequence[Member], Sequence[float]], Mapping[str, Array]]
"""From the members that took part, in edge order, and the weight of each, to the answer's tensors."""

ENTRY_POINTS: Final = "collab.combiners"
"""Entry point group in which others offer combiners."""

_SUMS_TO_ONE: Final = 1e-2
_Wide = npt.NDArray[Any]


def first(members: Sequence[Member], weights: Sequence[float]) -> dict[str, Array]:
    """The first member's tensors, in edge order, whatever is in them."""
    return dict(members[0])


def mean(members: Sequence[Member], weights: Sequence[float]) -> dict[str, Array]:
    """Elementwise mean over members, in the members' dtype; integers and truth values are rounded.

    Computed in float64, so integers beyond 2**53 lose their last digits.
    """
    return _elementwise(members, lambda arrays: np.sum(arrays, axis=0) / len(arrays))


def weighted(members: Sequence[Member], weights: Sequence[float]) -> dict[str, Array]:
    """Elementwise mean in which each member counts by its weight; dtypes as for `mean`."""
    shares = _shares(weights)

    def merge(arrays: list[_Wide]) -> _Wide:
        total: _Wide = np.sum([share * array for share, array in zip(shares, arrays, strict=True)], axis=0)
        return total

    return _elementwise(members, merge)


def maximum(members: Sequence[Member], weights: Sequence[float]) -> dict[str, Array]:
    """Elementwise maximum over members."""
    return {name: np.max([member[name] for member in members], axis=0) for name in members[0]}


def median(members: Sequence[Member], weights: Sequence[float]) -> dict[str, Array]:
    """Elementwise median over members, in their dtype; fewer than half of them cannot move it at will."""
    return _elementwise(members, lambda arrays: np.asarray(np.median(arrays, axis=0)))


def vote(members: Sequence[Member], weights: Sequence[float]) -> dict[str, Array]:
    """Majority vote: each member votes by its weight for its largest score along the last axis.

    Ties go to the class with the larger sum of scores.  The winner has the dtype's largest
    value (1 of floats) and all others its least (0 of floats).
    """
    shares = _shares(weights)
    merged: dict[str, Array] = {}
    for name, like in members[0].items():
        scores = np.stack([member[name] for member in members]).astype(np.float64)
        classes = np.arange(scores.shape[-1])
        ballots = scores.argmax(axis=-1)[..., None] == classes
        votes = np.sum([share * ballot for share, ballot in zip(shares, ballots, strict=True)], axis=0)
        leads = np.isclose(votes, votes.max(axis=-1, keepdims=True), rtol=1e-9, atol=0)
        winner = np.where(leads, scores.sum(axis=0), -np.inf).argmax(axis=-1)
        low, high = _ends(like.dtype)
        merged[name] = np.where(winner[..., None] == classes, high, low).astype(like.dtype)
    return merged


def _elementwise(members: Sequence[Member], merge: Callable[[list[_Wide]], _Wide]) -> dict[str, Array]:
    merged: dict[str, Array] = {}
    for name, like in members[0].items():
        wide = np.complex128 if like.dtype.kind == "c" else np.float64
        total = merge([member[name].astype(wide) for member in members])
        merged[name] = (np.rint(total) if like.dtype.kind in "iub" else total).astype(like.dtype)
    return merged


def _shares(weights: Sequence[float]) -> list[float]:
    """Weights that sum up to one; where none of those that took part counts, all do the same."""
    total = sum(weights)
    return [weight / total for weight in weights] if total > 0 else [1 / len(weights)] * len(weights)


def _ends(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return 0, 1


COMBINERS: Final[dict[str, Combiner]] = {
    "first": first,
    "mean": mean,
    "weighted": weighted,
    "vote": vote,
    "max": maximum,
    "median": median,
}
"""Combiners by the name that plans use."""


def combiner(name: str) -> Combiner:
    """The combiner of that name: ours, else one of the entry points; raises `PlanError`."""
    if name in COMBINERS:
        return COMBINERS[name]
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in points:
        known = ", ".join((*COMBINERS, *points))
        raise PlanError(
            f"combine: {name!r} is not known; use one of {known}, or install what offers it as an entry "
            f"point {ENTRY_POINTS}"
        )
    try:
        function: Combiner = points[name].load()
    except Exception as error:  # importing what others wrote may raise anything
        reason = " ".join(str(error).split())[:160]
        raise PlanError(
            f"combine: {name!r} cannot be loaded: {type(error).__name__}: {reason}; mend its entry point"
        ) from error
    return function


class Merge:
    """A combiner stage ready to run: leaves out what is not finite, merges the rest, and reports.

    Where the stage has a quarantine, answers depend on the requests before; else each stands
    for itself.
    """

    def __init__(self, plan: Plan, stage: StageSpec) -> None:
        """Raises `PlanError` for an unknown combiner, and for outputs that it cannot make."""
        edges = [plan.edges[i] for i in plan.edges_into(stage.id)]
        carried = {name for edge in edges for name in edge.tensors}
        self._stage = stage
        self._name = stage.combine or ""
        self._combine = combiner(self._name)
        self._count = len(edges)
        self._weights = stage.weights or (1.0,) * len(edges)
        self._need = stage.fires.k if isinstance(stage.fires, FireQuorum) else 1
        known = report_specs(len(edges))
        self._reports = {s.name for s in stage.outputs if s.name in known and s.name not in carried}
        self._answer = [s for s in stage.outputs if s.name not in self._reports]
        self._scores = next((s.name for s in self._answer if s.name in carried), None)
        self._watch = None if stage.quarantine is None else Watch(stage.quarantine)
        self._where = f"{plan.name}/{stage.id}"
        self._names = plan.member_names(stage.id)
        self.left_out = dict.fromkeys(self._names, 0) if self._watch else {}
        """In how many requests each member was left out because it was in quarantine."""
        self._check(carried)

    def _check(self, carried: set[str]) -> None:
        where = f"stages ({self._stage.id}).outputs"
        known = report_specs(self._count)
        for spec in self._stage.outputs:
            if spec.name in self._reports and spec != known[spec.name]:
                want = known[spec.name]
                raise PlanError(
                    f"{where}: {spec.name!r} is {spec.dtype}{list(spec.shape)}, the report of "
                    f"{self._count} members is {want.dtype}{list(want.shape)}"
                )
            if spec.name not in self._reports and spec.name not in carried and self._name in COMBINERS:
                raise PlanError(f"{where}: no member gives {spec.name!r}, so {self._name!r} cannot merge it")
        wants_classes = [s for s in self._answer if self._name == "vote" or s.name == self._scores]
        if self._name != "vote" and self._reports <= {"members"} and self._watch is None:
            wants_classes = []
        if self._watch is not None and self._scores is None:
            raise PlanError(f"{where}: none is a member's, so nobody can agree with it; leave quarantine out")
        for spec in wants_classes:
            if not spec.shape or spec.shape[-1] < 2:
                raise PlanError(
                    f"{where}: {spec.name!r} {list(spec.shape)} has no classes along its last axis, which "
                    "votes, agreement, confidence and quarantine need; use mean, median or max and report "
                    "members only"
                )

    def __call__(self, arrived: Sequence[Member | None]) -> dict[str, Array]:
        """Merge what came over each in-edge: None where nothing did, empty where a guard kept it back.

        Raises `StageFailed` where fewer members than the stage's quorum (one, if it has none)
        gave finite numbers.
        """
        states = [self._state(member) for member in arrived]
        took = [i for i, state in enumerate(states) if state == 1]
        if len(took) < self._need:
            bad = ", ".join(str(i) for i, state in enumerate(states) if state < 0)
            raise StageFailed(
                f"{len(took)} of {self._count} members gave finite numbers and {self._need} are needed; "
                f"look at member {bad or 'nodes'}"
            )
        if self._watch is not None:
            took = self._in_good_standing(self._watch, arrived, states)
        members = [member for i in took if (member := arrived[i]) is not None]
        weights = [self._weights[i] for i in took]
        made = dict(self._combine(members, weights))
        for spec in self._answer:
            if spec.name not in made:
                raise StageFailed(f"combiner {self._name!r} gave no tensor {spec.name!r}")
        made |= self._tell(made, arrived, states, weights)
        return {spec.name: made[spec.name] for spec in self._stage.outputs}

    def _in_good_standing(
        self, watch: Watch, arrived: Sequence[Member | None], states: list[int]
    ) -> list[int]:
        """Judge who came, mark those in quarantine, and return the others."""
        picks = [
            self._pick(member) if state == 1 else None for member, state in zip(arrived, states, strict=True)
        ]
        for change in watch.observe(picks):
            name, then = self._names[change.member], "left out" if change.out else "taken in again"
            said = f"agrees with the majority in {change.agreed} of {watch.window} requests"
            log.warning("%s: %s %s and is %s", self._where, name, said, then)
        for i in watch.out:
            if states[i] == 1:
                states[i] = -2
                self.left_out[self._names[i]] += 1
        took = [i for i, state in enumerate(states) if state == 1]
        if not took:
            names = ", ".join(self._names[i] for i in sorted(watch.out))
            raise StageFailed(f"only members in quarantine gave finite numbers: {names}; look at the others")
        return took

    def _pick(self, member: Member | None) -> Pick:
        """The class of the first row, which validation judges too."""
        assert member is not None
        assert self._scores is not None
        scores = member[self._scores]
        return int(scores.reshape(-1, scores.shape[-1])[0].argmax()) if scores.size else None

    def _state(self, member: Member | None) -> int:
        if member is None:
            return 0
        if not member:  # kept back where it was made
            return -1
        # What is only handed on may hold anything, such as a sensor's gaps.
        finite = self._name == "first" or all(np.isfinite(array).all() for array in member.values())
        return 1 if finite else -1

    def _tell(
        self,
        made: Member,
        arrived: Sequence[Member | None],
        states: Sequence[int],
        weights: Sequence[float],
    ) -> dict[str, Array]:
        told: dict[str, Array] = {}
        if "members" in self._reports:
            told["members"] = np.array(states, np.int32)
        if self._reports <= {"members"} or self._scores is None:
            return told
        answer = made[self._scores].argmax(axis=-1)
        scores = {i: m[self._scores] for i, m in enumerate(arrived) if m and states[i] in (1, -2)}
        if "agreement" in self._reports:
            agreement = np.zeros(self._count, np.float32)
            for i, each in scores.items():
                agreement[i] = (each.argmax(axis=-1) == answer).mean()
            told["agreement"] = agreement
        if "confidence" in self._reports:
            took = [each for i, each in scores.items() if states[i] == 1]
            given = [np.take_along_axis(probabilities(s), answer[..., None], -1).mean() for s in took]
            told["confidence"] = np.array(np.dot(_shares(weights), given), np.float32)
        return told


def probabilities(scores: Array) -> Array:
    """Scores as probabilities along the last axis, float64.

    Integers are counted from their dtype's least value, as quantised probabilities are;
    floats that are not probabilities already go through a softmax.
    """
    wide = scores.astype(np.float64)
    if scores.dtype.kind in "iub":
        counts = wide - _ends(scores.dtype)[0]
        total = counts.sum(axis=-1, keepdims=True)
        flat = np.full_like(counts, 1 / counts.shape[-1])
        return np.asarray(np.divide(counts, total, out=flat, where=total > 0))
    if (wide >= 0).all() and np.allclose(wide.sum(axis=-1), 1, rtol=0, atol=_SUMS_TO_ONE):
        return wide
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
