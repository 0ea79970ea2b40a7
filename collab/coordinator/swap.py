"""From round to runtime: a round's model is baked, tried beside the one that runs, and takes its place.

The plan's cuts and places stay.  The new stages are deployed as the plan's next epoch, and only
then the former admits nothing more; clients that follow the plan make what it refuses again
(`collab.client.follow`), so no request is lost and none is answered by two models.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs
from collab.coordinator.planning import stage_blobs
from collab.coordinator.retarget import check_same_operators, retarget
from collab.coordinator.shadow import HeldOut, ask_both, clear, compare, shadow
from collab.coordinator.swap_folder import SwapFolder, SwapState, Version
from collab.coordinator.takeover import Keep, take_over
from collab.coordinator.version_folder import locked
from collab.core.ids import Digest, Epoch
from collab.core.plan import Plan
from collab.errors import CollabError, ConfigError, NotLoaded, PeerError, Refused
from collab.federated.records import RoundRecord, Swap
from collab.federated.swapping import (
    Compared,
    is_due,
    pooled,
    refused_by_answers,
    refused_by_examples,
)
from collab.federated.task import DeployRules
from collab.federated.update import Parameters
from collab.graph import Graph, parse_model

log = logging.getLogger("collab.swap")

Bake = Callable[[Parameters], bytes]
"""From weights to the ``.tflite`` that serves, in the running model's form.  Blocks."""
Measurement = tuple[int, Mapping[str, float], Mapping[str, float]]
"""A client's samples, and its metrics of the running and of the new model."""
_KEPT_ROUNDS: Final = 4
"""Rounds whose measurements are kept for those that wait for their turn."""


@dataclass(frozen=True)
class Kit:
    """What a run's models are made and judged with."""

    rules: DeployRules
    bake: Bake
    samples: NDArray[np.float32]
    """Inputs to ask over the nodes, ``[n, …]``."""
    held_out: HeldOut | None
    """The server's examples; without them clients measure both models."""
    keep: Keep


@dataclass(frozen=True)
class _Candidate:
    """A baked model and the plan for it."""

    graph: Graph
    plan: Plan
    blobs: Blobs


class Swapper:
    """Puts the models of one federated run into one plan, one at a time."""

    def __init__(
        self,
        cluster: Cluster,
        folder: SwapFolder,
        kit: Kit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._folder = folder
        self._kit = kit
        self._clock = clock
        self._turn = asyncio.Lock()
        self._newest = 0
        self._running: Version | None = None
        self._measured: dict[tuple[int, Digest], list[Measurement]] = {}

    # --- life ----------------------------------------------------------------------

    async def start(self) -> None:
        """Find the plan running; raises `NotLoaded` where it is not, or `PeerUnreachable`."""
        state = await asyncio.to_thread(self._folder.read)
        self._running = (await _settled(self._cluster, self._folder, state)).running
        with suppress(PeerError):
            await clear(self._cluster, await asyncio.to_thread(self._folder.plan, self._running))

    @property
    def holds(self) -> frozenset[Digest]:
        """Weights of the run that have to be kept."""
        running = self._running
        return frozenset({running.weights} if running is not None and running.weights else ())

    async def beside(self) -> Digest | None:
        """Weights that clients evaluate beside a round's own, so that both are measured on the same data.

        A swap that is under way is waited for: it decides which those are.
        """
        if self._kit.held_out is not None:
            return None
        async with self._turn:
            running = self._running
        return None if running is None else running.weights or None

    def measured(self, round_: int, running: Digest, measurement: Measurement) -> None:
        """A client has evaluated a round's weights and those that run."""
        self._measured.setdefault((round_, running), []).append(measurement)
        for old in sorted(self._measured)[:-_KEPT_ROUNDS]:
            del self._measured[old]

    def due(self, record: RoundRecord) -> bool:
        """Whether a round's model is tried while the run goes on."""
        return record.outcome == "made" and is_due(self._kit.rules, record.round)

    # --- a model -------------------------------------------------------------------

    async def offer(self, record: RoundRecord, weights: Parameters) -> Swap | None:
        """Try a round's model; what came of it, or None where that was told before.

        Errors of nodes, files and models end the try, not the run.
        """
        begun = self._clock()
        self._newest = max(self._newest, record.round)
        async with self._turn:
            try:
                swap = await self._tried(record, weights)
            except CollabError as error:
                swap = _refusal(record.round, str(error), self._running)
        return None if swap is None else _timed(swap, self._clock() - begun)

    async def _tried(self, record: RoundRecord, weights: Parameters) -> Swap | None:
        async with locked(self._folder.files):
            state = await asyncio.to_thread(self._folder.read)
            if state.tried >= record.round:
                return None
            state = await _settled(self._cluster, self._folder, state)
            self._running = state.running
            state = msgspec.structs.replace(state, tried=record.round)
            swap = self._not_now(state, record)
            if swap is None:
                try:
                    swap, state = await self._judged(state, record, weights)
                except CollabError as error:
                    swap = _refusal(record.round, str(error), state.running)
                    # What was about to be deployed may be there: the next look at the nodes tells.
                    known = await asyncio.to_thread(self._folder.read)
                    state = msgspec.structs.replace(state, pending=known.pending)
            await asyncio.to_thread(self._folder.write, state)
        self._running = state.running
        return swap

    def _not_now(self, state: SwapState, record: RoundRecord) -> Swap | None:
        """What is to be said without a try; None where there is to be one."""
        running, reason = state.running, state.held
        if running.round == record.round:
            told = _refusal(record.round, "it was put in before the server was started again", running)
            return msgspec.structs.replace(told, swapped=True)
        if record.round < self._newest:
            reason = reason or f"round {self._newest} was over before its turn came"
        if record.model == running.weights:
            reason = reason or "its weights are those that run"
        return _refusal(record.round, reason, running) if reason else None

    async def _judged(
        self, state: SwapState, record: RoundRecord, weights: Parameters
    ) -> tuple[Swap, SwapState]:
        rules, former = self._kit.rules, state.running
        plan = await asyncio.to_thread(self._folder.plan, former)
        graph = await asyncio.to_thread(self._folder.graph, former, plan.models[0].signature)
        new = await asyncio.to_thread(self._candidate, plan, graph, record.round, weights)
        compared = await self._compared(record.round, former, graph, new.graph)
        told = msgspec.structs.replace(
            _refusal(record.round, refused_by_examples(compared, rules), former),
            metric=compared.metric,
            running=compared.running,
            candidate=compared.candidate,
            samples=compared.samples,
            agreement=compared.agreement,
        )
        if told.reason:
            return told, state
        async with shadow(self._cluster, new.plan, new.blobs) as client:
            asked = await ask_both(self._cluster, plan, client, new.graph, self._kit.samples, rules.requests)
        told = msgspec.structs.replace(
            told,
            reason=refused_by_answers(asked, rules),
            requests=asked.requests,
            candidate_ms=asked.candidate_ms,
            running_ms=asked.running_ms,
        )
        if told.reason:
            return told, state
        made = Version(round=record.round, model=Digest(new.graph.sha256), weights=record.model)
        await asyncio.to_thread(self._folder.put, record.round, new.plan, bytes(new.graph.data))
        await asyncio.to_thread(self._folder.write, msgspec.structs.replace(state, pending=made))
        deployment = await take_over(self._cluster, new.plan, new.blobs, self._kit.keep)
        made = msgspec.structs.replace(made, epoch=deployment.epoch)
        gain = f"{compared.metric} {compared.candidate:.4g}, {compared.running:.4g} before"
        swapped = msgspec.structs.replace(told, swapped=True, reason=gain, epoch=deployment.epoch)
        return swapped, _after(state, made)

    def _candidate(self, plan: Plan, running: Graph, round_: int, weights: Parameters) -> _Candidate:
        graph = parse_model(self._kit.bake(weights), signature=plan.models[0].signature)
        made, blobs = retarget(plan, running, graph, str(self._folder.model_path(round_)))
        return _Candidate(graph, made, blobs)

    async def _compared(self, round_: int, former: Version, running: Graph, candidate: Graph) -> Compared:
        if self._kit.held_out is not None:
            return await asyncio.to_thread(compare, running, candidate, self._kit.held_out)
        found = pooled(self._measured.pop((round_, former.weights), []))
        if found is None:
            raise Refused("no client has measured it beside the model that runs")
        return found


async def _settled(cluster: Cluster, folder: SwapFolder, state: SwapState) -> SwapState:
    """The state that fits what the nodes run: a version that was pending may be there by now."""
    versions = [state.running, *([state.pending] if state.pending is not None else [])]
    plans = [await asyncio.to_thread(folder.plan, version) for version in versions]
    found: list[Epoch | NotLoaded] = []
    for plan in plans:
        try:
            await cluster.reach_plan(plan)
            found.append(await cluster.deployed_epoch(plan))
        except NotLoaded as error:
            found.append(error)
    if state.pending is not None and not isinstance(found[1], NotLoaded):
        return _after(state, msgspec.structs.replace(state.pending, epoch=found[1]))
    if isinstance(found[0], NotLoaded):
        raise found[0]
    known = msgspec.structs.replace(state.running, epoch=found[0])
    return msgspec.structs.replace(state, versions=(*state.versions[:-1], known), pending=None)


def begin(
    folder: SwapFolder,
    plan_file: str,
    plan: Plan,
    model: bytes,
    first: Mapping[Digest, Graph],
    *,
    by_clients: bool = False,
) -> None:
    """Keep what runs before the first swap, or name the plan anew.  Blocks.

    Args:
        folder: the run's.
        plan_file: the user's.
        plan: the plan that runs.
        model: its model.
        first: a model of the run's, baked, by the digest of its weights; it has to have the
            running one's operators.
        by_clients: whether clients are to measure what runs, so that its weights must be known.

    Raises:
        ModelError: it has not.
        ConfigError: the weights are not.
        Conflict: somebody deploys from the folder.
    """
    running = parse_model(model, signature=plan.models[0].signature)
    for graph in first.values():
        check_same_operators(running, graph)
    same = next((weights for weights, graph in first.items() if graph.sha256 == running.sha256), Digest(""))
    version = Version(round=0, model=Digest(running.sha256), weights=same)
    with folder.locked():
        known = folder.read() if folder.begun else None
        versions = known.versions if known is not None else ()
        again = next((v for v in versions if v.model == version.model), None)
        if by_clients and not (again or version).weights:
            raise ConfigError(
                "deploy: the plan's model is not the task's with its initial weights, so clients cannot "
                "measure what runs; set evaluation.data, or deploy what `collab model bake` makes of that"
            )
        if again is None:
            folder.put(0, plan, model)
            versions = (version,)
        else:
            versions = (*(v for v in versions if v is not again), again)
        tried = known.tried if known is not None else 0
        folder.write(SwapState(plan_file=plan_file, versions=versions, tried=tried))


async def roll_back(
    cluster: Cluster, folder: SwapFolder, keep: Keep, refresh: Callable[[Plan], Awaitable[Plan]]
) -> tuple[Version, Version]:
    """Deploy the version before the one that runs; which one ran, and which runs now.

    The run puts nothing more in until its plan is named anew.

    Raises:
        InputError: the run has deployed nothing, or no earlier version is kept.
        NotLoaded: the nodes run something else by now.
        Conflict: somebody deploys from the folder.
    """
    async with locked(folder.files):
        state = await _settled(cluster, folder, await asyncio.to_thread(folder.read))
        if len(state.versions) < 2:
            raise ConfigError(
                f"{folder.path.parent}: no model before that of round {state.running.round} is kept"
            )
        target = state.versions[-2]
        plan = await refresh(await asyncio.to_thread(folder.plan, target))
        blobs = await asyncio.to_thread(stage_blobs, plan, folder.path)
        plan = plan.replace(
            models=tuple(
                msgspec.structs.replace(m, path=str(folder.model_path(target.round))) for m in plan.models
            )
        )
        deployment = await take_over(cluster, plan, blobs, keep)
        now = msgspec.structs.replace(target, epoch=deployment.epoch)
        held = f"round {state.running.round} was rolled back by hand; name the plan anew: fed resume --deploy"
        kept: Sequence[Version] = state.versions[:-2]
        state_now = msgspec.structs.replace(state, versions=(*kept, now), pending=None, held=held)
        await asyncio.to_thread(folder.write, state_now)
    return state.running, now


def _after(state: SwapState, version: Version) -> SwapState:
    return msgspec.structs.replace(state, versions=(*state.versions, version), pending=None)


def _refusal(round_: int, reason: str, running: Version | None) -> Swap:
    former = Version(round=0, model=Digest("")) if running is None else running
    return Swap(round=round_, swapped=False, reason=reason, epoch=former.epoch, former=former.round)


def _timed(swap: Swap, seconds: float) -> Swap:
    return msgspec.structs.replace(swap, seconds=round(seconds, 4))
