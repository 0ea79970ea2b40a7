"""A running plan gets a new model: golden inputs, a trial on its requests, the next epoch, or back.

`update_plan` is the whole way.  What is decided is decided by `collab.updates.health.gate`, from
what requesters count (`collab.updates.health.trial`); this carries its orders out.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from collab.client.runner import PlanClient
from collab.coordinator.beside import beside, take_down
from collab.coordinator.cluster import Cluster
from collab.coordinator.comparing import choose_comparison
from collab.coordinator.deploy import Blobs, Deployment, deploy
from collab.coordinator.going_back import back_to, running_plan, unfinished
from collab.coordinator.plan_versions import Cause, Noted, PlanVersions, Result
from collab.coordinator.planning import open_model
from collab.coordinator.probation import Standing, ask
from collab.coordinator.retarget import retarget
from collab.coordinator.takeover import take_over
from collab.coordinator.trial_board import TrialBoard
from collab.coordinator.update_source import Example, Offer, Update, check_fits, read_update
from collab.coordinator.version_folder import locked
from collab.core.ids import Digest, Epoch
from collab.core.plan import Plan, ReleaseRef
from collab.errors import CollabError, Conflict, PeerError
from collab.graph import Graph
from collab.runtime.litert import LiteRT
from collab.transport.aio import timeout
from collab.updates.health.agreement import agree, finite
from collab.updates.health.counted import observations
from collab.updates.health.gate import (
    Bounds,
    Failed,
    Gate,
    GoldenRan,
    Loaded,
    Observation,
    Staged,
    Tick,
)
from collab.updates.health.trial import Counts, Trial, TrialPhase

MARK: Final = "trial"
"""Of the name under which a candidate stands beside its plan."""
POLL_S: Final = 0.5
"""Between two looks at what requesters have counted."""
QUIET_S: Final = 60.0
"""Without requests for so long what was committed is left to prove itself with nobody looking on."""
_STEP: Final = 1 << 20
"""Trials are numbered with gaps, so that two that begin at once do not have one number."""


@dataclass(frozen=True)
class Rules:
    """How an update is done.

    Attributes:
        bounds: how good the candidate has to be.
        trial: whether requesters try it before it is committed.
        patience_s: longest time without any request in a phase; None: the bounds' times, and
            `QUIET_S` after the commit.
    """

    bounds: Bounds = Bounds()
    trial: bool = True
    patience_s: float | None = None


@dataclass(frozen=True)
class Progress:
    """Where an update stands, and what was counted in that phase."""

    phase: str
    counts: Counts | None = None


@dataclass(frozen=True)
class Outcome:
    """How an update ended.

    Attributes:
        result: ``healthy``; ``committed``, where too few requests came to prove it; ``dropped``
            before it answered alone; ``rolled back`` after that.
        reason: why, where it is not what was wanted.
        epoch: of the plan that runs now.
        version: what runs now, as ``FAMILY:VERSION`` or the model's digest.
        release: that was offered.
        counts: by phase.
    """

    result: Result
    reason: str
    epoch: Epoch
    version: str
    release: ReleaseRef | None = None
    counts: Mapping[str, Counts] = field(default_factory=dict)
    seconds: float = 0.0


Tell = Callable[[Progress], None]
Clock = Callable[[], float]


def _silent(_: Progress) -> None: ...


async def update_plan(
    cluster: Cluster,
    versions: PlanVersions,
    offer: Offer,
    rules: Rules = Rules(),
    tell: Tell = _silent,
    clock: Clock = time.monotonic,
) -> Outcome:
    """Give the plan of a file a new model, if that proves as good; what an earlier call left is cleared.

    Raises:
        Conflict: somebody else updates the plan.
        NotLoaded: the nodes run none of the plan's known versions.
        PeerUnreachable: a node is away; nothing has changed then.
        ModelError, IntegrityError, PlanError: the offer does not fit; nothing has changed either.
    """
    begun = clock()
    async with locked(versions.files):
        running, epoch = await running_plan(cluster, versions)
        board = TrialBoard(cluster, running)
        number = await unfinished(cluster, versions, running, board, MARK)
        signature = running.models[0].signature
        graph = await asyncio.to_thread(open_model, versions.files.model_path(_name(versions)), signature)
        update = await asyncio.to_thread(_read, versions, offer, running, graph, signature)
        way = _Way(cluster, versions, running, epoch, board, number, rules, tell, clock)
        outcome = replace(await way.go(graph, update), release=update.release)
        noted = Noted(
            result=outcome.result,
            model=update.digest,
            release=update.release,
            epoch=outcome.epoch,
            reason=outcome.reason,
            cause="health" if outcome.result == "rolled back" else None,
        )
        await asyncio.to_thread(versions.note, noted)
    return replace(outcome, seconds=round(clock() - begun, 3))


_BACK: Final[Mapping[Cause, str]] = {
    "health": "was taken back: it is not well",
    "hand": "was taken back by hand",
    "rollout": "was taken back by its rollout",
    "sibling": "was taken back: another plan does not take it",
}


async def undo(cluster: Cluster, versions: PlanVersions, cause: Cause = "hand") -> Outcome:
    """Deploy the version before the one that runs, as a new epoch.

    Raises what `update_plan` does, and `ConfigError` where no version before is kept.
    """
    async with locked(versions.files):
        running, _ = await running_plan(cluster, versions)
        await unfinished(cluster, versions, running, TrialBoard(cluster, running), MARK)
        left = await asyncio.to_thread(versions.state)
        epoch = await back_to(cluster, versions, running)
        state = await asyncio.to_thread(versions.state)
        reason = f"{left.running} {_BACK[cause]}"
        noted = Noted(
            result="rolled back",
            model=left.running.model,
            release=left.running.release,
            epoch=epoch,
            reason=reason,
            cause=cause,
        )
        await asyncio.to_thread(versions.note, noted)
    return Outcome("rolled back", reason, epoch, str(state.running), left.running.release)


def _name(versions: PlanVersions) -> str:
    return versions.state().running.name


def _read(versions: PlanVersions, offer: Offer, running: Plan, graph: Graph, signature: str | None) -> Update:
    if offer.release is not None:
        known = {plan.digest for plan in versions.candidates()}
        check_fits(offer.release.custom, running, known)
    return read_update(offer, graph, signature)


class _Way:
    """One update on its way."""

    def __init__(
        self,
        cluster: Cluster,
        versions: PlanVersions,
        running: Plan,
        epoch: Epoch,
        board: TrialBoard,
        number: int,
        rules: Rules,
        tell: Tell,
        clock: Clock,
    ) -> None:
        self._cluster, self._versions, self._board = cluster, versions, board
        self._running, self._epoch = running, epoch
        self._number = number + 1 + secrets.randbelow(_STEP)
        self._rules, self._tell, self._clock = rules, tell, clock
        self._gate = Gate(rules.bounds, clock())
        self._counts: dict[str, Counts] = {}

    async def go(self, running: Graph, update: Update) -> Outcome:
        """From the offer to the outcome."""
        state = await asyncio.to_thread(self._versions.state)
        now = state.running
        if (now.model, now.release) == (update.digest, update.release):
            if now.proven or len(state.versions) < 2:
                return self._outcome("healthy", "it runs already", str(now))
            # A call before this one ended after the commit.
            return await self._prove(self._running)
        new, blobs = await asyncio.to_thread(_retargeted, self._running, running, update)
        candidate = beside(new, MARK)
        try:
            await self._golden(candidate, blobs, update)
            if self._rules.trial and self._gate.phase == "shadow":
                await self._tried(candidate)
        except BaseException:
            await self._clear(candidate)
            raise
        if self._gate.phase == "dropped":
            await self._clear(candidate)
            return self._outcome("dropped", self._gate.reason, str(now))
        new = await asyncio.to_thread(self._versions.propose, new, bytes(update.graph.data))
        with suppress(PeerError):  # it goes with the next trial's
            await take_down(self._cluster, candidate)
        try:
            self._epoch = await self._commit(new, blobs)
        except CollabError as error:
            await self._end_trial()
            self._gate.abandon(f"could not be committed: {error}")
            return self._outcome("dropped", self._gate.reason, str(now))
        return await self._prove(new)

    # --- before the commit -----------------------------------------------------------

    async def _golden(self, candidate: Plan, blobs: Blobs, update: Update) -> None:
        """Bring the candidate up beside, and ask its examples over the nodes."""
        self._tell(Progress("golden"))
        bounds = self._rules.bounds
        self._observe(Staged())
        try:
            async with timeout(bounds.golden_s):
                await deploy(self._cluster, candidate, blobs)
                self._observe(Loaded(_bytes(candidate), _bytes(self._running)))
                if self._gate.phase != "golden":
                    return
                client = await self._cluster.open(candidate)
                try:
                    wrong = await _wrong(self._cluster, client, update)
                finally:
                    await self._cluster.release(client)
        except (TimeoutError, asyncio.TimeoutError):
            self._observe(Failed(f"took over {bounds.golden_s:g} s"))
        except (PeerError, Conflict):
            raise
        except CollabError as error:
            self._observe(Failed(str(error)))
        else:
            self._observe(GoldenRan(len(update.examples), wrong))

    async def _tried(self, candidate: Plan) -> None:
        """Let requesters try it, until the gate has decided."""
        await asyncio.to_thread(self._versions.on_trial, self._number)
        while self._gate.phase in ("shadow", "canary"):
            phase: TrialPhase = "shadow" if self._gate.phase == "shadow" else "canary"
            await self._announce(phase, candidate)
            await self._watch(phase)

    async def _clear(self, candidate: Plan) -> None:
        """Take the candidate down, unless somebody else's stands there by now."""
        await self._end_trial()
        with suppress(CollabError):
            await self._cluster.deployed_epoch(candidate)
            await take_down(self._cluster, candidate)

    async def _end_trial(self) -> None:
        with suppress(CollabError):
            await self._board.end()
        await asyncio.to_thread(self._versions.on_trial, 0)

    # --- the commit and after it -------------------------------------------------------

    async def _commit(self, new: Plan, blobs: Blobs) -> Epoch:
        now = await self._cluster.deployed_epoch(self._running)
        if now != self._epoch:
            raise Conflict(f"plan {new.name!r} is at epoch {now} by now, deployed by somebody else")
        self._tell(Progress("commit"))
        try:
            deployment: Deployment = await take_over(self._cluster, new, blobs, self._versions.keep)
            epoch = deployment.epoch
        except CollabError:
            # A node that was lost after it had committed leaves the plan current all the same.
            epoch = await self._cluster.deployed_epoch(new)
        await asyncio.to_thread(self._versions.runs, new, epoch)
        return epoch

    async def _prove(self, new: Plan) -> Outcome:
        """Watch what runs alone by now, and go back where it does not stand."""
        self._gate = Gate(self._rules.bounds, self._clock(), committed=True)
        await asyncio.to_thread(self._versions.on_trial, self._number)
        with suppress(PeerError):  # told again by the watch
            await self._announce("probation", new)
        try:
            standing = Standing(new, self._epoch)
            await self._watch("probation", standing, new)
        finally:
            await self._end_trial()
        state = await asyncio.to_thread(self._versions.state)
        if self._gate.phase == "healthy":
            await asyncio.to_thread(self._versions.proven)
            return self._outcome("healthy", "", str(state.running))
        if self._gate.phase != "rolled back":
            left = self._counts["probation"].served
            reason = f"{left} of {self._rules.bounds.probation} answers came; no request came any more"
            return self._outcome("committed", reason, str(state.running))
        reason = self._gate.reason
        await asyncio.to_thread(self._versions.condemned, reason)
        self._tell(Progress("going back"))
        self._epoch = await back_to(self._cluster, self._versions, new)
        state = await asyncio.to_thread(self._versions.state)
        return self._outcome("rolled back", reason, str(state.running))

    # --- watching ------------------------------------------------------------------------

    async def _announce(self, phase: TrialPhase, candidate: Plan) -> None:
        await self._board.announce(
            Trial(
                plan=self._running.name,
                number=self._number,
                phase=phase,
                candidate=candidate,
                bounds=self._rules.bounds,
            )
        )

    async def _watch(
        self, phase: TrialPhase, standing: Standing | None = None, committed: Plan | None = None
    ) -> None:
        """Feed the gate with what requesters count until it leaves the phase, or nobody asks any more."""
        seen = Counts(number=self._number, phase=phase)
        asked_s = self._clock()
        while self._gate.phase == phase:
            await asyncio.sleep(POLL_S)
            counts = await self._board.counts()
            self._counts[phase] = counts
            self._tell(Progress(phase, counts))
            if counts.requests > seen.requests:
                asked_s = self._clock()
            self._gate.routed(counts.requests, counts.touched)
            for observation in observations(counts.since(seen), self._rules.bounds):
                self._observe(observation)
                if self._gate.phase != phase:
                    return
            seen = seen.latest(counts)
            if standing is not None and committed is not None:
                fault = await ask(self._cluster, committed, standing)
                self._observe(Failed(fault) if fault else Tick())
            else:
                self._observe(Tick())
            if self._is_quiet(phase, self._clock() - asked_s):
                return

    def _is_quiet(self, phase: TrialPhase, quiet_s: float) -> bool:
        """Whether nobody has asked for too long; before the commit the candidate is dropped then."""
        patience_s = self._rules.patience_s
        if phase == "probation":
            return quiet_s > (QUIET_S if patience_s is None else patience_s)
        if patience_s is not None and quiet_s > patience_s:
            self._gate.abandon(f"{phase}: undecided, no request came for {patience_s:g} s")
        return False

    def _observe(self, seen: Observation) -> None:
        # Its orders are its phases: who watches the phase carries them out.
        self._gate.observe(seen, self._clock())

    def _outcome(self, result: Result, reason: str, version: str) -> Outcome:
        return Outcome(result, reason, self._epoch, version, counts=dict(self._counts))


def _retargeted(running: Plan, old: Graph, update: Update) -> tuple[Plan, Blobs]:
    plan, blobs = retarget(running, old, update.graph, "")
    reference = None
    if update.reference is not None:
        reference = Digest(hashlib.sha256(update.reference).hexdigest())
        blobs[reference] = update.reference
    model = msgspec.structs.replace(plan.models[0], release=update.release, reference=reference)

    def named(one: Plan) -> Plan:
        return one.replace(models=(model,), alternatives=tuple(map(named, one.alternatives)))

    return named(plan), blobs


def _bytes(plan: Plan) -> int:
    return sum(stage.bytes for stage in plan.stages)


async def _wrong(cluster: Cluster, client: PlanClient, update: Update) -> int:
    """How many golden examples the candidate's nodes answer wrongly."""
    its_class = update.runtime_class
    judge = await choose_comparison(cluster, client.plan, its_class or str(LiteRT().runtime_class()))
    exact = judge.exact and bool(its_class)
    return sum([not await _is_right(client, example, exact) for example in update.examples])


async def _is_right(client: PlanClient, example: Example, exact: bool) -> bool:
    answer = await client.run(example.inputs)
    names = list(example.outputs)
    if any(name not in answer.outputs for name in names):
        return False
    got, want = [answer.outputs[name] for name in names], list(example.outputs.values())
    if exact:
        return all(a.tobytes() == b.tobytes() for a, b in zip(got, want, strict=True))
    return finite(got) and agree(want, got)
