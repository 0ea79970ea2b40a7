"""A new model beside the one that runs: on held-out examples here, then asked over the nodes.

The examples are the server's own.  Requests of users stay between them and the nodes: nobody
copies them for a trial.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.client.runner import PlanClient
from collab.codec.tensors import Array
from collab.coordinator.beside import beside, take_down
from collab.coordinator.cluster import Cluster
from collab.coordinator.comparing import choose_comparison
from collab.coordinator.deploy import Blobs, deploy
from collab.coordinator.planning import whole_model
from collab.coordinator.retarget import Quantisation, input_quantisation, output_quantisation
from collab.core.plan import Plan
from collab.errors import CollabError, ModelError, Overloaded
from collab.federated.swapping import LOSS, Asked, Compared
from collab.graph import Graph
from collab.runtime.litert import LiteRT

_CREDITS: Final = 4
"""Of a shadow plan: it is asked one request at a time."""
_WARM: Final = 2
"""Requests to each plan that are not counted: the first ones open links and fill caches."""


@dataclass(frozen=True)
class HeldOut:
    """Examples that no model was trained on.

    Attributes:
        x: float32 ``[n, …]``.
        y: classes ``[n]``, or wanted outputs ``[n, …]``.
        classes: whether `y` are classes.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    classes: bool


def stands_for(x: NDArray[np.float32], quantisation: Quantisation, dtype: str) -> Array:
    """Real numbers as a model's input takes them."""
    scales, zeros = quantisation
    if not scales:
        return x.astype(dtype)
    bounds = np.iinfo(np.dtype(dtype))
    made: Array = np.clip(np.rint(x / scales[0]) + zeros[0], bounds.min, bounds.max).astype(dtype)
    return made


def _real(y: Array, quantisation: Quantisation) -> NDArray[np.float64]:
    scales, zeros = quantisation
    made: NDArray[np.float64] = y.astype(np.float64)
    return (made - zeros[0]) * scales[0] if scales else made


class _Whole:
    """The unsplit model here, from real numbers to real numbers."""

    def __init__(self, graph: Graph) -> None:
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ModelError("a model with one input and one output can be compared on examples")
        self.input = graph.inputs[0]
        self._given, self._made = input_quantisation(graph), output_quantisation(graph)
        self._run = whole_model(graph)

    def raw(self, x: NDArray[np.float32]) -> Array:
        """What it takes for one example."""
        return stands_for(x.reshape(self.input.shape), self._given, self.input.dtype)

    def answer(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of one example."""
        return _real(self._run([self.raw(x)])[0], self._made).ravel()


def compare(running: Graph, candidate: Graph, held_out: HeldOut) -> Compared:
    """Both models on the same examples.  Blocks.

    Raises:
        ModelError: a model has several inputs or outputs, or cannot be loaded here.
    """
    both = _Whole(running), _Whole(candidate)
    scores: list[list[float]] = [[], []]
    same = 0
    for x, y in zip(held_out.x, held_out.y, strict=True):
        answers = [model.answer(x) for model in both]
        finite = all(np.isfinite(answer).all() for answer in answers)
        if held_out.classes:
            same += int(finite and answers[0].argmax() == answers[1].argmax())
        else:
            same += int(finite and np.allclose(answers[0], answers[1], rtol=1e-2, atol=1e-3))
        for told, answer in zip(scores, answers, strict=True):
            told.append(_score(answer, y, held_out.classes))
    count = len(held_out.x)
    means = [float(np.mean(told)) if told else float("nan") for told in scores]
    metric = "accuracy" if held_out.classes else LOSS
    return Compared(metric, means[0], means[1], count, same / count if count else None)


def _score(answer: NDArray[np.float64], y: Any, classes: bool) -> float:
    """1 or 0 for a class that is right or not, else the mean squared error."""
    if classes:
        return float(np.isfinite(answer).all() and int(answer.argmax()) == int(y))
    return float(np.mean((answer - np.ravel(y)) ** 2))


@asynccontextmanager
async def shadow(cluster: Cluster, plan: Plan, blobs: Blobs) -> AsyncIterator[PlanClient]:
    """A new plan's stages on its nodes, under a name that nobody else asks; taken down in the end.

    What they need is on the nodes' disks afterwards.  Raises what `deploy` raises.
    """
    candidate = _beside(plan)
    await deploy(cluster, candidate, blobs)
    try:
        client = await cluster.open(candidate)
        try:
            yield client
        finally:
            await cluster.release(client)
    finally:
        with suppress(CollabError):  # a node that is lost forgets it with its epoch's next deployment
            await take_down(cluster, candidate)


async def clear(cluster: Cluster, plan: Plan) -> None:
    """Take down what a trial has left that was killed; raises `PeerError` where a node is away."""
    await take_down(cluster, _beside(plan))


def _beside(plan: Plan) -> Plan:
    return beside(plan, "shadow").replace(credits=min(plan.credits, _CREDITS))


async def ask_both(
    cluster: Cluster, running: Plan, new: PlanClient, candidate: Graph, x: NDArray[np.float32], count: int
) -> Asked:
    """Ask the plan that runs and the shadow in turn, one request at a time.

    Raises what requests raise; a running plan that admits nothing more is left out.
    """
    inputs, expected = await asyncio.to_thread(_expected, candidate, x, count)
    judge = await choose_comparison(cluster, new.plan, str(LiteRT().runtime_class()))
    name = new.plan.outputs[0].name
    old = await _open_if_free(cluster, running)
    new_ms, old_ms, wrong = list[float](), list[float](), 0
    try:
        for number, given in enumerate([*inputs[:_WARM], *inputs]):
            answer = await new.run(given)
            with suppress(Overloaded):
                before = await old.run(given) if old is not None else None
                old_ms += [before.total_ms] if before is not None and number >= _WARM else []
            if number >= _WARM:
                new_ms.append(answer.total_ms)
                wrong += not judge.agrees(answer.outputs, {name: expected[number - _WARM]})
    finally:
        if old is not None:
            await cluster.release(old)
    return Asked(count, wrong, statistics.median(new_ms), statistics.median(old_ms) if old_ms else None)


def _expected(
    candidate: Graph, x: NDArray[np.float32], count: int
) -> tuple[list[dict[str, Array]], list[Array]]:
    """Requests, and what the whole model here says to each."""
    whole, run = _Whole(candidate), whole_model(candidate)
    arrays = [whole.raw(x[i % len(x)]) for i in range(count)]
    return [{whole.input.name: array} for array in arrays], [run([array])[0] for array in arrays]


async def _open_if_free(cluster: Cluster, plan: Plan) -> PlanClient | None:
    try:
        return await cluster.open(plan)
    except Overloaded:
        return None
