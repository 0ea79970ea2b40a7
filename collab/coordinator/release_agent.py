"""Keeps plans at the releases of one family, as a policy says: looks, fetches, tries, goes back.

The store of releases says what is to run.  Whoever changes it, this agent or a person by hand, the
agent brings the plans to it.  What it begins is on the disk before it begins.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from collab.errors import BackendError, CollabError, Conflict, InputError, IntegrityError
from collab.updates import agenda as rules
from collab.updates.agenda import Agenda, Report, Result
from collab.updates.agenda_file import AgendaFile
from collab.updates.policies.base import UpdatePolicy
from collab.updates.policies.decide import Decision
from collab.updates.policies.state import DeviceState
from collab.updates.release import Release
from collab.updates.store.state import State
from collab.updates.store.store import Store

log = logging.getLogger("collab.releases")

_SHORTEST_S: Final = 0.05
_RELEASES_FAULT: Final = (InputError, BackendError, IntegrityError)
"""Errors that another try of the same release would meet again."""

Tell = Callable[[dict[str, Any], str], None]
"""Told of an event: for scripts and for people.  May block."""


@dataclass(frozen=True)
class Came:
    """What came of a release on the plans."""

    result: Result
    reason: str = ""
    epoch: int = 0
    touched: int = 0
    seconds: float = 0.0
    changed: bool = True
    """Whether any plan had run something else."""


@dataclass(frozen=True)
class Seen:
    """What the plans' nodes report."""

    state: DeviceState
    away: str = ""
    """Why nothing can be deployed: which node cannot be reached."""


class Plans(Protocol):
    """The plans of one family, as their nodes run them."""

    async def look(self, time_s: float, baseline: float | None) -> Seen:
        """Ask the nodes; one that cannot be reached is named, not raised.

        ``baseline`` is the accuracy that labelled answers are compared with.
        """

    async def update(self, release: Release, file: Path, committed: Callable[[], Awaitable[None]]) -> Came:
        """Let a release prove itself on every plan, and put it in; on all of them or on none.

        ``committed`` is called once all run it.  A plan that runs it already is not asked to change.
        Cancelled it leaves what ran before the commit.  Raises `CollabError` where that could not be
        tried: nothing has changed then.
        """

    async def bring(self, release: Release, file: Path, reason: str) -> Came:
        """Put a release in without a trial, since it was decided by hand or ran before."""


class Supplied(Protocol):
    """Where releases come from; blocks."""

    def newest(self) -> Release | None:
        """The newest that is offered."""

    def take(self, release: Release) -> str:
        """Fetch it and make it the store's candidate; how it came."""

    def stop(self) -> None:
        """End what is under way in another thread."""


RunRound = Callable[[int], Awaitable[str]]
"""Runs the federated round of a number to its end; what came of it.  Raises `CollabError`."""


@dataclass
class _Work:
    """The one thing that is under way."""

    what: str
    task: asyncio.Task[None]
    release: Release | None
    activation: int
    """The store's when it began."""
    committed: bool = False
    """Whether the next activation is this work's own."""

    def is_over_with(self, store: State) -> bool:
        """Whether somebody decided otherwise meanwhile."""
        if self.release is None:
            return False
        if self.committed:
            return store.active not in (self.release, None) and store.candidate != self.release
        return store.activation != self.activation or self.release not in (store.candidate, store.active)


class ReleaseAgent:
    """One family's; run `run` as a task.

    Args:
        name: of who decides; jitter of policies is drawn from it.
        root: the store's folder.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        family: str,
        policy: UpdatePolicy,
        store: Store,
        root: Path,
        supply: Supplied,
        plans: Plans,
        *,
        clock: Callable[[], float],
        tell: Tell,
        cadence_s: float,
        run_round: RunRound | None = None,
        round_pause_s: float = 0.0,
    ) -> None:
        self._name = name
        self._family = family
        self._policy = policy
        self._store = store
        self._root = root
        self._supply = supply
        self._plans = plans
        self._clock = clock
        self._tell = tell
        self._cadence_s = cadence_s
        self._run_round = run_round
        self._round_pause_s = round_pause_s
        self._file = AgendaFile(root)
        self._agenda = Agenda()
        self._work: _Work | None = None
        self._round: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._fault: Exception | None = None
        """A mistake of this program in what was under way."""
        self._said: dict[str, str] = {}
        """By event what was told last, so that the same is not told with each look."""

    # --- life ----------------------------------------------------------------------

    async def run(self) -> None:
        """Look, decide and act until cancelled.

        Raises `Conflict` while another process looks after the same store, `StoreError` where what it
        remembers cannot be read.
        """
        with ExitStack() as stack:
            await asyncio.to_thread(stack.enter_context, self._file.locked())
            await self.start()
            try:
                while True:
                    delay_s = await self._looked()
                    with suppress(TimeoutError, asyncio.TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), delay_s)
            finally:
                await self.close()

    async def start(self) -> None:
        """Take up what is remembered; `run` does this itself."""
        self._agenda = await asyncio.to_thread(self._file.read)
        last = self._agenda.round
        if last is not None and last.over_s is None:
            over = msgspec.structs.replace(last, over_s=self._clock())
            text = f"round {last.number}: this process ended before it; its folder says what came of it"
            await self._keep(msgspec.structs.replace(self._agenda, round=over))
            await self._report("round", text)

    async def close(self) -> None:
        """End what is under way; what was begun is gone on with after the next start."""
        self._supply.stop()
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._work = self._round = None

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        while tasks := self._tasks():
            await asyncio.wait(tasks)

    def _tasks(self) -> list[asyncio.Task[None]]:
        work = None if self._work is None else self._work.task
        return [task for task in (work, self._round) if task is not None]

    async def _looked(self) -> float:
        try:
            return await self.look()
        except CollabError as error:
            log.warning("releases of %s were not looked after: %s", self._family, error)
            await self._say("failed", str(error), once=True)
            return self._cadence_s

    # --- one look --------------------------------------------------------------------

    async def look(self) -> float:
        """See, decide, begin what is to be done; seconds until the next look at the latest."""
        self._wake.clear()
        if self._fault is not None:
            raise self._fault
        store = await asyncio.to_thread(self._store.state)
        await self._give_way(store)
        if self._work is None:
            self._take_up(store)
        now = self._clock()
        seen = await self._plans.look(now, rules.promised(store))
        obstacles = rules.obstacles(
            self._agenda,
            store,
            now,
            busy=self._work.what if self._work is not None else "",
            away=seen.away,
            rounds=self._no_round(now),
        )
        device = rules.facing(seen.state, store, self._agenda)
        # It reads a time zone's file the first time, and may be anybody's.
        decision = await asyncio.to_thread(self._policy.decide, device, self._agenda.memory, obstacles)
        if decision.memory != self._agenda.memory:
            await self._keep(msgspec.structs.replace(self._agenda, memory=decision.memory))
        await self._decided(decision, device)
        await self._act(decision, store)
        return self._pause(decision, self._clock())

    def _no_round(self, now: float) -> str:
        if self._run_round is None:
            return "no command for rounds is set: releases.round"
        if self._round is not None:
            return "one is under way"
        due = rules.round_due(self._agenda, self._round_pause_s, now)
        return f"the next may be asked for in {(due - now) / 3600:.1f} h" if due > now else ""

    def _pause(self, decision: Decision, now: float) -> float:
        moments = [now + self._cadence_s]
        if decision.again_s is not None:
            moments.append(decision.again_s)
        due = rules.waits_until(self._agenda, now), rules.round_due(self._agenda, self._round_pause_s, now)
        moments += [moment for moment in due if moment > now]
        return max(min(moments) - now, _SHORTEST_S)

    # --- what the store says -----------------------------------------------------------

    async def _give_way(self, store: State) -> None:
        """End work that somebody made pointless by hand."""
        work = self._work
        if work is not None and work.is_over_with(store):
            work.task.cancel()
            await asyncio.gather(work.task, return_exceptions=True)
            self._work = None
            # Some of the plans may run what was tried.
            await self._keep(msgspec.structs.replace(self._agenda, carried=-1))
            await self._say("given up", f"{work.what}: somebody decided otherwise")

    def _take_up(self, store: State) -> None:
        """Begin what the store asks for: nobody has to decide it again."""
        now = self._clock()
        if rules.waits_until(self._agenda, now) > now:
            return
        active = store.active
        if active is not None and store.activation != self._agenda.carried:
            self._begin(f"putting in version {active.version}", self._carry(store, active), store, active)
        elif store.candidate is not None:
            candidate = store.candidate
            self._begin(f"the trial of version {candidate.version}", self._try(candidate), store, candidate)
        elif active is not None and not store.healthy:
            self._begin(f"the probation of version {active.version}", self._try(active), store, active)

    def _begin(
        self,
        what: str,
        work: Coroutine[Any, Any, None],
        store: State,
        release: Release | None = None,
    ) -> None:
        async def carried_out() -> None:
            try:
                await work
            except CollabError as error:
                await self._failed(what, error)
            except Exception as error:
                self._fault = error
            finally:
                self._work = None
                self._wake.set()

        task = asyncio.get_running_loop().create_task(carried_out())
        self._work = _Work(what, task, release, store.activation)

    async def _failed(self, what: str, error: CollabError) -> None:
        """Later again, whatever it was."""
        log.warning("%s: %s: %s", self._family, what, error)
        with suppress(CollabError):  # the disk is at fault, as was just said
            await self._keep(rules.failed(self._agenda, self._clock()))
        await self._say("failed", f"{what}: {error}", once=self._agenda.failures > 1)

    # --- acting --------------------------------------------------------------------------

    async def _act(self, decision: Decision, store: State) -> None:
        offered = self._agenda.offered
        if decision.action == "check":
            self._begin("a look for a release", self._check(), store)
        elif decision.action == "install" and offered is not None:
            self._begin(f"fetching version {offered.version}", self._install(offered), store)
        elif decision.action == "rollback":
            with suppress(Conflict):  # somebody was first; the next look sees what they did
                await asyncio.to_thread(
                    self._store.rollback, f"{self._policy.name}: {decision.why}", 0, store.active
                )
            self._wake.set()
        elif decision.action == "round":
            await self._ask_round(decision.why)

    async def _check(self) -> None:
        offered = await asyncio.to_thread(self._supply.newest)
        await self._keep(rules.checked(self._agenda, offered, self._clock()))

    async def _install(self, offered: Release) -> None:
        try:
            way = await asyncio.to_thread(self._supply.take, offered)
        except Conflict:
            return
        await self._keep(rules.succeeded(self._agenda))
        await self._say("fetched", f"version {offered.version}, {way}", version=offered.version)

    async def _try(self, release: Release) -> None:
        """Let the candidate, or what runs unproven, prove itself; then tell the store."""
        await self._keep(rules.trying(self._agenda, release.version))
        if self._agenda.trials > rules.MAX_TRIALS:
            reason = f"the process ended {self._agenda.trials - 1} times while it was judged"
            await self._end(release, Came("dropped", reason))
            return
        try:
            came = await self._plans.update(release, self._path(release), lambda: self._committed(release))
        except _RELEASES_FAULT as error:
            came = Came("dropped", str(error))
        except CollabError:
            # The process lives: that was no trial.
            await self._keep(msgspec.structs.replace(self._agenda, trials=0))
            raise
        await self._end(release, came)

    async def _committed(self, release: Release) -> None:
        """The plans run it: so does the store, from here on."""
        if self._work is not None:
            self._work.committed = True
        state = await asyncio.to_thread(self._store.state)
        if state.active != release:
            state = await asyncio.to_thread(self._store.activate, release)
        await self._keep(msgspec.structs.replace(self._agenda, carried=state.activation))

    async def _end(self, release: Release, came: Came) -> None:
        state = await asyncio.to_thread(self._store.state)
        ran = state.active == release
        if came.result in ("dropped", "rolled back"):
            if not ran:
                state = await asyncio.to_thread(self._store.drop, came.reason, release)
            elif state.previous:
                state = await asyncio.to_thread(self._store.rollback, came.reason, 0, release)
            else:
                state = await asyncio.to_thread(self._store.abandon, came.reason, release)
        else:
            await self._committed(release)
            state = await asyncio.to_thread(self._store.state)
            if came.result == "healthy":
                state = await asyncio.to_thread(self._store.healthy, release)
        # Where it was the store that went back, the plans have done so already, or never left.
        carried = state.activation if came.result != "dropped" or not ran else self._agenda.carried
        await self._keep(rules.settled(self._agenda, carried))
        last = self._agenda.reports[-1] if self._agenda.reports else None
        if (
            came.result == "committed"
            and last
            and (last.result, last.version) == ("committed", release.version)
        ):
            return  # nobody asks it anything, as was said
        await self._report(came.result, came.reason, release.version, came)

    async def _carry(self, store: State, release: Release) -> None:
        """Bring the plans to what the store says."""
        last = next((event for event in reversed(store.history) if event.action != "healthy"), None)
        reason = last.reason if last is not None else ""
        came = await self._plans.bring(release, self._path(release), reason)
        await self._keep(rules.settled(self._agenda, store.activation))
        if not came.changed:
            return
        rolled = last is not None and last.action == "rolled back"
        await self._report("rolled back" if rolled else came.result, reason, release.version, came)

    def _path(self, release: Release) -> Path:
        return self._root / self._store.path(release)

    # --- rounds ----------------------------------------------------------------------------

    async def _ask_round(self, why: str) -> None:
        run_round, last = self._run_round, self._agenda.round
        if run_round is None:
            return
        number = 1 if last is None else last.number + 1
        begun = rules.Round(number=number, began_s=self._clock())
        await self._keep(msgspec.structs.replace(self._agenda, round=begun))

        async def carried_out() -> None:
            try:
                text = await run_round(number)
            except CollabError as error:
                text = f"failed: {error}"
            finally:
                self._round = None
            over = msgspec.structs.replace(begun, over_s=self._clock())
            try:
                await self._keep(msgspec.structs.replace(self._agenda, round=over))
                await self._report("round", f"round {number}: {text}")
            except CollabError as error:
                log.warning("%s: round %d: %s", self._family, number, error)
            self._wake.set()

        self._round = asyncio.get_running_loop().create_task(carried_out())

    # --- telling ---------------------------------------------------------------------------

    async def _keep(self, agenda: Agenda) -> None:
        self._agenda = agenda
        await asyncio.to_thread(self._file.write, agenda)

    async def _report(self, result: Result, reason: str, version: int = 0, came: Came | None = None) -> None:
        came = came or Came(result)
        report = Report(
            at=self._clock(),
            result=result,
            version=version,
            reason=reason,
            epoch=came.epoch,
            touched=came.touched,
            seconds=round(came.seconds, 3),
        )
        await self._keep(rules.reported(self._agenda, report))
        await self._say(result, reason, version=version, epoch=came.epoch)

    async def _decided(self, decision: Decision, device: DeviceState) -> None:
        fields = {"action": decision.action, "rule": decision.rule, "pace": decision.pace}
        versions = {"running": device.running, "offered": device.offered}
        if decision.action != "wait":
            self._said.pop("decided", None)
        await self._say("decided", decision.why, once=True, **fields, **versions)

    async def _say(self, event: str, why: str, *, once: bool = False, **fields: Any) -> None:
        """Tell of an event; ``once``: unless only numbers changed since the last one of its kind."""
        key = re.sub(r"[\d.]+", "#", f"{fields.get('action')} {why}")
        if once and self._said.get(event) == key:
            return
        self._said[event] = key
        document = {"event": f"release {event}", "family": self._family, "why": why, **fields}
        version = f" {fields['version']}" if fields.get("version") else ""
        text = f"{self._family}{version}: {fields.get('action') or event}" + (f": {why}" if why else "")
        await asyncio.to_thread(self._tell, document, text)
