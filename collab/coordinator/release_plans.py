"""The plans of one family: what their nodes report, and a release on all of them or on none."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from collab.client.control import Control
from collab.coordinator.cluster import Cluster
from collab.coordinator.plan_update import Outcome, Progress, Rules, undo, update_plan
from collab.coordinator.plan_versions import PlanVersions
from collab.coordinator.release_agent import Came, Seen
from collab.coordinator.update_source import Offer
from collab.core.ids import NodeName
from collab.core.plan import Plan, ReleaseRef
from collab.errors import CollabError, ConfigError, InputError, PeerError
from collab.transport.aio import timeout
from collab.updates.policies.condition import Condition, Known, state_of_plan
from collab.updates.policies.state import DeviceState
from collab.updates.policies.worst import worst_of
from collab.updates.release import Release

log = logging.getLogger("collab.releases")

_CALL_S: Final = 5.0
"""A node that does not say how it is in time counts as away."""
_AT_ONCE_S: Final = 0.0
"""What was decided already is put in, and proves itself afterwards."""


class ReleasePlans:
    """Plans by their files' journals, in the order in which they are updated.

    Args:
        name: of who decides.
        watch: told of each update's progress, with the plan's file.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        plans: Sequence[PlanVersions],
        rules: Rules = Rules(),
        watch: Callable[[Path, Progress], None] = lambda path, progress: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._plans = plans
        self._rules = rules
        self._watch = watch
        self._clock = clock

    # --- seeing --------------------------------------------------------------------

    async def look(self, time_s: float, baseline: float | None) -> Seen:
        """As `collab.coordinator.release_agent.Plans` says."""
        states: list[DeviceState] = []
        known = Known(device=self._name, baseline=baseline)
        away: list[str] = []
        for versions in self._plans:
            plan = (await asyncio.to_thread(versions.candidates))[0]
            told, lost = await self._conditions(plan)
            away += lost
            if told:
                try:
                    states.append(state_of_plan(told, plan.name, known))
                except InputError as error:
                    log.warning("plan %r: %s", plan.name, error)
        return Seen(worst_of(states, self._name, time_s), away[0] if away else "")

    async def _conditions(self, plan: Plan) -> tuple[list[Condition], list[str]]:
        """What each node reports, and why some report nothing."""
        answers = await asyncio.gather(
            *(self._condition(plan, name) for name in plan.placed), return_exceptions=True
        )
        told: list[Condition] = []
        lost: list[str] = []
        for name, answer in zip(plan.placed, answers, strict=True):
            if isinstance(answer, Condition):
                told.append(answer)
            elif isinstance(answer, (PeerError, TimeoutError, asyncio.TimeoutError)):
                lost.append(f"node {name!r} cannot be reached")
            elif isinstance(answer, CollabError):
                # One that cannot say how it is can run a model all the same.
                log.info("node %r does not say how it is: %s", name, answer)
            else:
                raise answer
        return told, lost

    async def _condition(self, plan: Plan, name: NodeName) -> Condition:
        await self._cluster.reach_plan(plan, [name])
        async with timeout(_CALL_S):
            return await self._control(name).condition()

    def _control(self, name: NodeName) -> Control:
        return self._cluster.control(name)

    # --- doing ---------------------------------------------------------------------

    async def update(self, release: Release, file: Path, committed: Callable[[], Awaitable[None]]) -> Came:
        """As `collab.coordinator.release_agent.Plans` says."""
        begun, done = self._clock(), list[PlanVersions]()
        last: Came | None = None
        for versions in self._plans:
            is_last = versions is self._plans[-1]
            outcome = await self._updated(versions, release, file, committed if is_last else None)
            came = _came(outcome, versions.path.name if len(self._plans) > 1 else "")
            if came.result in ("dropped", "rolled back"):
                await self._take_back(done, release)
                last = came
                break
            done.append(versions)
            if last is None or last.result == "healthy":
                last = came
        assert last is not None, "a family without a plan"
        return replace(last, seconds=self._clock() - begun)

    async def bring(self, release: Release, file: Path, reason: str) -> Came:
        """As `collab.coordinator.release_agent.Plans` says."""
        begun, last, changed = self._clock(), Came("committed"), False
        for versions in self._plans:
            before = (await asyncio.to_thread(versions.state)).versions
            outcome = await self._brought(versions, release, file)
            if outcome.result in ("dropped", "rolled back") and outcome.release is not None:
                # That it does not run is not what was decided: it is tried again.
                raise ConfigError(f"{versions.path.name}: version {release.version}: {outcome.reason}")
            changed = changed or not before or before[-1].epoch != outcome.epoch
            last = _came(outcome, "")
        return replace(last, result="committed", seconds=self._clock() - begun, changed=changed)

    async def _updated(
        self,
        versions: PlanVersions,
        release: Release,
        file: Path,
        committed: Callable[[], Awaitable[None]] | None,
    ) -> Outcome:
        """One plan; whoever waits for the commit is told of it while the release proves itself."""
        telling: list[asyncio.Task[None]] = []

        def tell(progress: Progress) -> None:
            self._watch(versions.path, progress)
            if progress.phase == "probation" and committed is not None and not telling:
                telling.append(asyncio.ensure_future(_awaited(committed)))

        try:
            return await update_plan(
                self._cluster, versions, Offer(file, release), self._rules, tell, self._clock
            )
        finally:
            await asyncio.gather(*telling)

    async def _brought(self, versions: PlanVersions, release: Release, file: Path) -> Outcome:
        state = await asyncio.to_thread(versions.state)
        before = state.versions[-2].release if len(state.versions) > 1 else None
        if _is(before, release):
            outcome = await undo(self._cluster, versions)
            # What was taken back is not what was asked for.
            return replace(outcome, result="committed", reason="")
        rules = replace(self._rules, trial=False, patience_s=_AT_ONCE_S)
        return await update_plan(self._cluster, versions, Offer(file, release), rules, clock=self._clock)

    async def _take_back(self, done: Sequence[PlanVersions], release: Release) -> None:
        """Plans that had taken what another plan has not, in the other order."""
        for versions in reversed(done):
            state = await asyncio.to_thread(versions.state)
            now = state.running.release
            if len(state.versions) > 1 and _is(now, release):
                await undo(self._cluster, versions, "sibling")


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _is(named: ReleaseRef | None, release: Release) -> bool:
    """Whether a plan's release is that one; the same content may have come under several versions."""
    return named is not None and (named.version, named.sha256) == (release.version, release.sha256)


def _came(outcome: Outcome, plan: str) -> Came:
    reason = f"{plan}: {outcome.reason}" if plan and outcome.reason else outcome.reason
    touched = sum(counts.touched for counts in outcome.counts.values())
    return Came(outcome.result, reason, outcome.epoch, touched, outcome.seconds)
