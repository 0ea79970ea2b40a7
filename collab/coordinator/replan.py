"""Keeps a running plan the best there is: measures, corrects the profile, plans anew, switches.

A new plan is deployed beside the running one.  Then the old epoch admits nothing more;
what it admitted goes on there, and clients that follow make what it refuses again on the
new one (`collab.client.follow`), so that no request is lost.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import cycle, pairwise
from typing import Any, Final

from collab.coordinator.alternatives import predicted, with_alternatives
from collab.coordinator.cluster import Cluster
from collab.coordinator.deploy import Blobs, Deployment, deploy
from collab.coordinator.observing import LinkProber, StageClock, statuses, time_stage
from collab.coordinator.rebuilding import Build
from collab.core.ids import Digest, Epoch, NodeName
from collab.core.plan import NodeRef, Plan
from collab.core.profile import Profile
from collab.errors import CollabError, Conflict, PeerUnreachable, PlanError
from collab.planner.alternatives import standbys, used
from collab.planner.chains import Chain, Objective, Option, Solution, Wants
from collab.planner.drift import Drift, DriftRules, LinkFigures, LinkKey, corrected
from collab.planner.evaluate import Evaluator
from collab.planner.prediction import chain_of, stage_times, with_known_threads

log = logging.getLogger("collab.replan")

Solve = Callable[[Profile, Wants], Solution]

_IDLE_LOOKS: Final = 10
"""Devices that run nothing are timed once in so many looks."""
_BASIS: Final = "the profile, corrected by what was measured while another plan ran"


@dataclass(frozen=True)
class Decision:
    """What was decided, and on what figures."""

    plan: str
    reason: str
    objective: Objective
    running: float
    """Predicted of the running plan with what is measured now, in the objective's unit."""
    best: float
    """The same of the best plan; infinite where there is none."""
    switched: bool
    epoch: Epoch
    """The one that runs now."""
    stages: str
    """Of the plan that runs now."""
    note: str = ""

    @property
    def gain(self) -> float:
        """By how much the best is better, as a share of the running one."""
        return 1 - self.best / self.running if 0 < self.running < math.inf else 1.0

    def __str__(self) -> str:
        verdict = "switched" if self.switched else "kept"
        figures = f"{self.objective} {self.running:.4g} now, {self.best:.4g} at best ({self.gain:.1%} better)"
        note = f" ({self.note})" if self.note else ""
        return (
            f"plan {self.plan!r} epoch {self.epoch} {verdict}{note}: {self.reason}; {figures}; {self.stages}"
        )

    def to_json(self) -> dict[str, Any]:
        """As ``collab controller --json`` prints it."""
        finite = {name: value if math.isfinite(value) else None for name, value in self._figures()}
        return {
            "event": "replanned" if self.switched else "kept",
            "plan": self.plan,
            "epoch": self.epoch,
            "reason": self.reason,
            "objective": self.objective,
            **finite,
            "stages": self.stages,
            "note": self.note,
        }

    def _figures(self) -> tuple[tuple[str, float], ...]:
        return ("running", self.running), ("best", self.best)


@dataclass
class Running:
    """The plan that runs, and how it is known to the planner."""

    plan: Plan
    epoch: Epoch
    chain: Chain
    clock: StageClock
    lost_due_s: float | None = None
    """When to plan without nodes that do not answer; None while all do."""

    @classmethod
    def of(cls, plan: Plan, epoch: Epoch, profile: Profile) -> Running:
        """A plan that was just deployed, or was found running."""
        chain = with_known_threads(chain_of(plan), Evaluator(profile))
        return cls(plan, epoch, chain, StageClock(plan.name, epoch))

    @property
    def nodes(self) -> set[NodeName]:
        """Those that run a stage."""
        return {name for stage in self.chain.stages for name in stage.nodes}

    def __str__(self) -> str:
        return " → ".join(f"{' + '.join(s.nodes)} [{s.start}, {s.stop})" for s in self.chain.stages)


@dataclass(frozen=True)
class ReplanRules:
    """What a replanner is told by people."""

    wants: Wants
    drift: DriftRules = field(default_factory=DriftRules)
    every_s: float = 1.0
    requester_here: bool = False
    """Whether the plan's requester is on this machine, so that links from here are its links."""


class Replanner:
    """Watches one plan; run `run` as a task.  Needs an identity that may deploy.

    ``keep`` is given each new plan before the old one admits nothing more; ``decided`` each
    decision.  Both may block.
    """

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        profile: Profile,
        rules: ReplanRules,
        solve: Solve,
        build: Build,
        *,
        keep: Callable[[Plan], None] = lambda plan: None,
        decided: Callable[[Decision], None] = lambda decision: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._first = plan
        self._profile = profile
        self._rules = rules
        self._solve = solve
        self._build = build
        self._keep = keep
        self._decided = decided
        self._clock = clock
        self._evaluator = Evaluator(profile)
        self._refs = {ref.name: ref for ref in plan.nodes}
        self._timed: dict[NodeName, tuple[Digest, int, int, int]] = {}
        """Of each device the last stage that it ran: digest, range, threads."""
        self._others = cycle(self._pairs_of_profile())
        self._looks = 0
        self._running: Running | None = None
        for device in chain_of(plan).stages:
            for name in device.nodes:
                if name not in self._evaluator.devices:
                    raise PlanError(f"stages: the profile knows no device {name!r}; profile it and merge")
        self.drift = Drift(profile, self._bytes_moved(chain_of(plan)), rules.drift)
        here = profile.requester if rules.requester_here else None
        self._prober = LinkProber(cluster, self._refs, here, self._turns, self._known, self.drift.link)

    # --- life --------------------------------------------------------------------

    async def start(self, peers: Sequence[NodeName] = (), *, some: bool = False) -> None:
        """Find the plan running; ``peers`` are nodes that are linked and may be planned for too.

        With ``some`` it does without nodes of the plan that cannot be reached.  Raises
        `PeerUnreachable`, or `NotLoaded` where the plan is not deployed.
        """
        for view in (await self._cluster.describe(peers)).values() if peers else ():
            self._refs[view.name] = view.ref
        for ref in self._first.nodes:
            with suppress(*([PeerUnreachable] if some else [])):
                await self._cluster.reach_plan(self._first, [ref.name])
        epoch = await self._cluster.deployed_epoch(self._first)
        self._running = Running.of(self._first, epoch, self._profile)
        for name, ref in self._refs.items():
            link = self._cluster.links.get(name)
            known = ref.endpoints or ((link.connection.address,) if link is not None else ())
            self._cluster.links.keep_peer(name, known)
        self._remember_stages()

    async def run(self) -> None:
        """Look and decide until cancelled, or until somebody else deploys another plan of the name."""
        probing = asyncio.ensure_future(self._prober.run())
        try:
            while not probing.done():
                began_s = time.monotonic()
                try:
                    await self.look()
                except Conflict as error:
                    log.error("re-planning ends: %s", error)
                    return
                except CollabError as error:
                    log.warning("plan %r was not looked after: %s", self.running.plan.name, error)
                await asyncio.sleep(max(0.0, self._rules.every_s - (time.monotonic() - began_s)))
            probing.result()
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)

    @property
    def running(self) -> Running:
        """What runs now."""
        assert self._running is not None, "start it first"
        return self._running

    # --- looking -------------------------------------------------------------------

    async def look(self) -> Decision | None:
        """Measure once, and decide if it is due.

        Raises `Conflict` if somebody else deployed the plan anew.
        """
        running = self.running
        replies = await statuses(self._cluster, self._refs)
        for name, reply in replies.items():
            newer = [p.epoch for p in reply.plans if p.plan == running.plan.name and p.epoch > running.epoch]
            if newer and any(p.state == "serving" for p in reply.plans if p.epoch in newer):
                raise Conflict(
                    f"plan {running.plan.name!r} has epoch {max(newer)} on node {name!r}, deployed by "
                    "somebody else; start the controller with that plan"
                )
        times = stage_times(self._evaluator, running.chain)
        for name, reply in replies.items():
            measured = running.clock.take(name, {c.name: c.value for c in reply.counters})
            for stage, ms in measured.items():
                predicted_ms = times.get((running.plan.stage_index(stage), name), 0.0)
                if predicted_ms > 0:
                    self.drift.device(name, ms / predicted_ms, predicted_ms)
        self._prober.look(replies)
        await self._look_at_idle(replies.keys())
        return await self._decide_if_due(set(replies))

    async def decide_now(self, reason: str) -> Decision:
        """Decide though it is not due, without nodes that do not answer or that drain."""
        replies = await statuses(self._cluster, self._refs)
        there = {name for name, reply in replies.items() if reply.state != "draining"}
        return await self._decide(reason, there, without=(self.running.nodes - there) or None)

    def _turns(self) -> Iterator[LinkKey]:
        """The links of the running plan, and one of the others."""
        pairs = self._pairs_of_chain()
        yield from pairs
        other = next(self._others, None)
        if other is not None and not {other, (other[1], other[0], other[2])} & set(pairs):
            yield other

    def _known(self, pair: LinkKey) -> tuple[LinkFigures, LinkFigures] | None:
        """A link there and back; one that is listed in one direction only stands for both."""
        there, back = self.drift.figures(pair), self.drift.figures((pair[1], pair[0], pair[2]))
        either = there or back
        return None if either is None else (there or either, back or either)

    async def _look_at_idle(self, there: Collection[NodeName]) -> None:
        """A device that was slow and runs nothing now is timed on what it ran, so that it can come back."""
        self._looks += 1
        if self._looks % _IDLE_LOOKS:
            return
        factors = self.drift.factors()
        for name, (sha256, start, stop, threads) in self._timed.items():
            share = abs(factors.get(name, 1.0) - 1.0)
            if name not in there or name in self.running.nodes or share < self._rules.drift.threshold:
                continue
            predicted_ms = self._evaluator.stage_ms(self._evaluator.devices[name], start, stop, threads)
            try:
                ms = await time_stage(self._cluster, name, sha256, threads or 1)
            except CollabError as error:
                log.info("node %s is not timed: %s", name, error)
                continue
            for _ in range(self._rules.drift.window):
                self.drift.device(name, ms / predicted_ms, predicted_ms)

    def _pairs_of_chain(self) -> list[LinkKey]:
        """Links that the running plan uses, each pair of ends once."""
        chain, requester = self.running.chain, self._profile.requester
        ends = (requester,) if requester is not None else ()
        places = [ends, *(stage.nodes for stage in chain.stages), ends]
        found: dict[tuple[frozenset[str], str], LinkKey] = {}
        for move, (sources, targets) in zip(chain.moves, pairwise(places), strict=True):
            for source in sources:
                for target in targets:
                    if source != target:
                        first, second = (target, source) if target == requester else (source, target)
                        key = (first, second, move.transport)
                        found.setdefault((frozenset(key[:2]), move.transport), key)
        return list(found.values())

    def _pairs_of_profile(self) -> list[LinkKey]:
        found: dict[tuple[frozenset[str], str], LinkKey] = {}
        allowed = self._rules.wants.transports
        for entry in self._profile.links:
            if not allowed or entry.transport in allowed:
                key = (entry.source, entry.target, entry.transport)
                if entry.target == self._profile.requester:
                    key = (entry.target, entry.source, entry.transport)
                found.setdefault((frozenset(key[:2]), entry.transport), key)
        return list(found.values())

    def _bytes_moved(self, chain: Chain) -> int:
        """The most that the chain moves over a link, as raw."""
        at = [0, *chain.cuts, self._evaluator.op_count]
        return max(self._evaluator.raw_bytes(place) for place in at)

    # --- deciding ------------------------------------------------------------------

    async def _decide_if_due(self, there: set[NodeName]) -> Decision | None:
        running, now_s = self.running, self._clock()
        lost = running.nodes - there
        if not lost:
            running.lost_due_s = None
        elif running.lost_due_s is None:
            running.lost_due_s = now_s + self._rules.drift.hold_s
        verdict = self.drift.look(now_s)
        if running.lost_due_s is not None and now_s >= running.lost_due_s:
            names = ", ".join(sorted(lost))
            return await self._decide(f"no answer from {names}", there, without=lost)
        if verdict.state == "replan":
            return await self._decide(verdict.reason, there)
        return None

    async def _decide(
        self, reason: str, there: set[NodeName], without: set[NodeName] | None = None
    ) -> Decision:
        running, wants = self.running, self._rules.wants
        profile = corrected(self._profile, self.drift.factors(), self.drift.links())
        now = Evaluator(profile).evaluate(running.chain).costs.of(wants.objective)
        if without:
            now = math.inf
        absent = {device.name for device in profile.devices} - there
        allowed = replace(wants, forbidden=wants.forbidden | absent)
        note, switched, best = "", False, math.inf
        try:
            solution = await asyncio.to_thread(self._solve, profile, allowed)
        except PlanError as error:
            note = str(error)
        else:
            best = solution.best.costs.of(wants.objective)
            if solution.best.chain.stages != running.chain.stages and self.drift.is_better(now, best):
                note = await self._switch(solution.best, profile, there, allowed)
                switched = not note
        if switched:
            self.drift.forget()
        elif without:
            running.lost_due_s = self._clock() + self._rules.drift.cooldown_s
        self.drift.decided(self._clock(), switched)
        decision = Decision(
            running.plan.name,
            reason,
            wants.objective,
            now,
            best,
            switched,
            self.running.epoch,
            str(self.running),
            note,
        )
        await asyncio.to_thread(self._decided, decision)
        return decision

    async def _switch(self, option: Option, profile: Profile, there: set[NodeName], allowed: Wants) -> str:
        """Bring a plan up beside the running one, and close that; why it could not be, or nothing."""
        old = self.running
        try:
            found = await asyncio.to_thread(self._made, option.chain, profile, old.nodes & there, allowed)
            plan, deployment = await self._deploy(*found)
        except CollabError as error:
            return f"the better plan is not deployed: {error}"
        self._running = Running.of(plan, deployment.epoch, self._profile)
        self._remember_stages()
        try:
            await asyncio.to_thread(self._keep, plan)
        except CollabError as error:
            log.warning("plan %r runs, but clients may not find it: %s", plan.name, error)
        await asyncio.gather(*(self._retire(old, name) for name in old.nodes & there))
        return ""

    def _made(
        self, chain: Chain, profile: Profile, left: Collection[NodeName], allowed: Wants
    ) -> tuple[Plan, Blobs]:
        """The plan of a chain, with alternatives where the first plan had some, and its stages' bytes.

        Nodes that it leaves are listed in it, so that they go on with what they have admitted.
        """
        # Sources stay where they are.
        sources = {stream.source.node for stream in self._first.streams} - set(allowed.forbidden)
        plan, blobs = self._build(chain, self._listed({*used(chain), *left, *sources}))
        plan = plan.replace(predicted=predicted(profile, chain, _BASIS))
        if not self._first.alternatives:
            return plan, blobs
        offline = [one.placed[0] for one in self._first.alternatives if one.offline]
        offline = [name for name in offline if name not in allowed.forbidden and used(chain) != (name,)]
        found = standbys(profile, allowed, chain, lambda p, w, _: self._solve(p, w), offline)
        spare = []
        for standby in found.chosen:
            made, more = self._build(standby.option.chain, self._listed({*standby.nodes, *sources}))
            spare.append((standby, made, predicted(profile, standby.option.chain, _BASIS)))
            blobs = {**blobs, **more}
        return with_alternatives(plan, spare), blobs

    def _listed(self, names: Collection[NodeName]) -> list[NodeRef]:
        return [self._refs[name] for name in sorted(names)]

    async def _deploy(self, plan: Plan, blobs: Blobs) -> tuple[Plan, Deployment]:
        """Better without alternatives than not at all."""
        try:
            return plan, await deploy(self._cluster, plan, blobs)
        except CollabError as error:
            if not plan.alternatives or isinstance(error, Conflict):
                raise
            log.warning("plan %r goes without its alternatives: %s", plan.name, error)
        plan = plan.replace(alternatives=())
        return plan, await deploy(self._cluster, plan, blobs)

    async def _retire(self, old: Running, name: NodeName) -> None:
        """Admit nothing more to the former epoch; the node unloads it after its ``retire_s``."""
        with suppress(CollabError):
            control = self._cluster.control(name)
            await control.epoch("Retire", old.plan.name, old.epoch, "", "")

    def _remember_stages(self) -> None:
        for spec, choice in zip(self.running.plan.stages, self.running.chain.stages, strict=True):
            for name in spec.nodes:
                if spec.sha256 is not None:
                    self._timed[name] = (spec.sha256, choice.start, choice.stop, choice.threads)
