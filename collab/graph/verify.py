"""Compares the chained stages of splits with the whole model, bit by bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from collab.core.tensor import TensorSpec
from collab.errors import CutError, TensorError
from collab.graph.graph import Graph
from collab.graph.sampling import Array, random_inputs
from collab.graph.split import StageModel, split

Runner = Callable[[Sequence[Array]], list[Array]]
Load = Callable[[bytes], Runner]


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        tried: splits asked for; the sum of the three that follow.
        exact: splits whose every output equals the whole model's in every bit.
        inexact: splits that differ or whose stages do not load or run.
        refused: splits that cannot be made, ``{"at": [k, ...], "reason": str}``.
        differing: why each inexact one is inexact, in the same form.
        max_abs_diff: largest difference of any element; infinite where one side is NaN.
        vacuous: the whole model answered all inputs alike, so equality proves nothing.
    """

    tried: int
    exact: int
    inexact: int
    refused: tuple[dict[str, Any], ...]
    differing: tuple[dict[str, Any], ...]
    max_abs_diff: float
    vacuous: bool

    @property
    def passed(self) -> bool:
        """Something was compared, all of it was equal, and the inputs mattered."""
        return self.exact > 0 and self.inexact == 0 and not self.vacuous


def verify(
    graph: Graph,
    splits: Iterable[Sequence[int]],
    load: Load,
    *,
    whole: Runner | None = None,
    inputs: Sequence[Sequence[Array]] | None = None,
    seed: int = 0,
    samples: int = 2,
    progress: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Run splits and the whole model on the same inputs.

    Args:
        graph: the model.
        splits: the cuts of each split.
        load: turns a .tflite file's bytes into a function from its inputs to its outputs,
            both in interpreter order; a new one for each call, since models may keep state.
        whole: the unsplit model, from `graph.inputs` to `graph.outputs`; loaded by default, which
            serves for models whose first subgraph is the chosen one.
        inputs: sets of real inputs; when there are fewer than two, random ones are added.
        seed: for random inputs.
        samples: how many random sets to draw without `inputs`.
        progress: called with the number of splits done.

    Raises:
        ModelError: an input cannot be drawn.
        TensorError: a set of inputs has not as many arrays as the model inputs.
        Whatever `load` and its function raise for the whole model.
    """
    sets = [list(one) for one in inputs or ()]
    for one in sets:
        if len(one) != len(graph.inputs):
            raise TensorError(f"{len(one)} arrays for {len(graph.inputs)} inputs: give one for each")
    missing = max(0, (2 if sets else samples) - len(sets))
    sets += random_inputs(graph.inputs, quantised=graph.quantised, seed=seed, count=missing)
    whole = whole or load(bytes(graph.data))
    expected = [[np.array(a) for a in whole(one)] for one in sets]
    tally = _Tally(graph, sets, expected, load)
    for done, at in enumerate(splits, 1):
        tally.add(at)
        if progress is not None:
            progress(done)
    return VerifyReport(
        tried=tally.exact + len(tally.differing) + len(tally.refused),
        exact=tally.exact,
        inexact=len(tally.differing),
        refused=tuple(tally.refused),
        differing=tuple(tally.differing),
        max_abs_diff=tally.worst,
        vacuous=all(_same(first, later) for first in expected[:1] for later in expected[1:]),
    )


class _Tally:
    def __init__(
        self, graph: Graph, sets: list[list[Array]], expected: list[list[Array]], load: Load
    ) -> None:
        self.graph, self.sets, self.expected, self.load = graph, sets, expected, load
        self.exact = 0
        self.worst = 0.0
        self.refused: list[dict[str, Any]] = []
        self.differing: list[dict[str, Any]] = []

    def add(self, at: Sequence[int]) -> None:
        try:
            stages = split(self.graph, at)
        except CutError as error:
            self.refused.append({"at": list(at), "reason": str(error)})
            return
        try:
            reason = self._compare(stages)
        except Exception as error:  # a stage that does not load or run is the worst inexact split
            reason = f"{type(error).__name__}: {error}"
        if reason is None:
            self.exact += 1
        else:
            self.differing.append({"at": list(at), "reason": reason})

    def _compare(self, stages: tuple[StageModel, ...]) -> str | None:
        """Reason why the stages are not exact, None when they are."""
        runners = [self.load(stage.data) for stage in stages]
        reason: str | None = None
        for given, wanted in zip(self.sets, self.expected, strict=True):
            found = _chain(self.graph, stages, runners, given)
            for spec, ours, theirs in zip(self.graph.outputs, found, wanted, strict=True):
                if not _equal(ours, theirs):
                    worst = _difference(ours, theirs)
                    self.worst = max(self.worst, worst)
                    reason = reason or f"output {spec.name!r} differs by {worst:g}"
        return reason


def _chain(
    graph: Graph, stages: Sequence[StageModel], runners: Sequence[Runner], given: Sequence[Array]
) -> list[Array]:
    held: dict[str, Array] = {spec.name: array for spec, array in zip(graph.inputs, given, strict=True)}
    for stage, run in zip(stages, runners, strict=True):
        made = run([held[spec.name] for spec in stage.inputs])
        held |= {spec.name: np.array(array) for spec, array in zip(stage.outputs, made, strict=True)}
        if stage.stop < graph.op_count:
            _check_shapes(stage.outputs, held)
            held = {spec.name: held[spec.name] for spec in stage.boundary_out}
    return [held[spec.name] for spec in graph.outputs]


def _check_shapes(specs: Sequence[TensorSpec], held: Mapping[str, Array]) -> None:
    for spec in specs:
        array = held[spec.name]
        if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
            raise ValueError(
                f"tensor {spec.name!r} is {array.dtype}{list(array.shape)} but the file says "
                f"{spec.dtype}{list(spec.shape)}"
            )


def _equal(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _same(first: Sequence[Array], second: Sequence[Array]) -> bool:
    return all(_equal(a, b) for a, b in zip(first, second, strict=True))


def _difference(a: Array, b: Array) -> float:
    """Largest absolute difference; infinite where shapes or NaNs differ or text does."""
    if a.shape != b.shape or a.dtype.kind not in "biufc":
        return float("inf")
    if a.dtype.kind in "iu":  # exact also for 64 bits
        return float(np.abs(a.astype(object) - b.astype(object)).max(initial=0))
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    equal = (a == b) | (np.isnan(a) & np.isnan(b)) if a.dtype.kind != "b" else a == b
    with np.errstate(all="ignore"):
        gap = np.abs(a.astype(wide) - b.astype(wide))
    gap = np.where(equal, 0.0, np.where(np.isnan(gap), np.inf, gap))
    return float(gap.max(initial=0.0))
