"""A node in the simulator: the real session, with an event loop and cores that take time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import exp
from typing import Final, Protocol

from collab.client.actions import Send
from collab.core.ids import Digest, EdgeId, Epoch, NodeName, PlanName
from collab.core.plan import Plan
from collab.core.token import Fault, Hop, Priority, Token
from collab.emulation.clock import Clock
from collab.emulation.workers import StageWorker
from collab.errors import DeadlineExceeded
from collab.link.suspicion import Health
from collab.node.actions import Action, Compute, Computed, Drop, Work
from collab.node.limits import SessionLimits
from collab.node.queue import Job
from collab.node.session import Session

EPOCH = Epoch(1)
_NEVER = float("inf")
COOLING_US: Final = 5_000.0
"""Pause after which two thirds of what a long one costs are due."""
Skips = Callable[[int], frozenset[EdgeId]]
"""Edges from a stage, by its index, that a guard keeps values of one result from."""


class DigestedPlan(Plan, frozen=True, kw_only=True):
    """A plan whose digest is worked out once, not by each of a thousand nodes."""

    known: Digest

    @property
    def digest(self) -> Digest:
        """See `Plan.digest`."""
        return self.known

    @staticmethod
    def of(plan: Plan) -> DigestedPlan:
        """The same plan."""
        fields = {name: getattr(plan, name) for name in plan.__struct_fields__}
        return DigestedPlan(**fields, known=plan.digest)


class Transmit(Protocol):
    """Hands a token to the link with a peer and says how that is; None if there is none."""

    def __call__(self, source: NodeName, target: NodeName, token: Token) -> Health | None:
        """Send it."""
        ...


class Loop:
    """An event loop: one thing after another.

    After a pause caches hold other things and cores sleep: what follows takes up to ``idle_us`` longer.
    """

    def __init__(self, clock: Clock, slower: float = 1.0, idle_us: float = 0.0) -> None:
        self._clock = clock
        self._slower, self._idle_us = slower, idle_us
        self._free_us = 0.0
        self.frozen = False
        self._held: list[tuple[float, Callable[[], None]]] = []

    def take(self, cost_us: float, act: Callable[[], None]) -> None:
        """Do something that takes ``cost_us``, after all that was asked for before."""
        if self.frozen:
            self._held.append((cost_us, act))
            return
        now = self._clock.now_us
        if cost_us <= 0 and self._free_us <= now:
            act()
            return
        if self._free_us < now:
            if self._idle_us:
                cost_us += self._idle_us * (1.0 - exp((self._free_us - now) / COOLING_US))
            self._free_us = now
        self._free_us += cost_us * self._slower
        self._clock.at(self._free_us, self._run, cost_us, act)

    def _run(self, cost_us: float, act: Callable[[], None]) -> None:
        if self.frozen:
            self._held.append((cost_us, act))
        else:
            act()

    def thaw(self) -> None:
        """Go on with what was held."""
        self.frozen = False
        held, self._held = self._held, []
        for cost_us, act in held:
            self.take(cost_us, act)


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage on one node, without queueing, in µs."""

    decode_us: float
    compute_us: float
    encode_us: float


class Timer:
    """Calls ``tick`` of a state machine when it is due."""

    def __init__(self, clock: Clock, due: Callable[[], int | None], tick: Callable[[int], None]) -> None:
        self._clock, self._due, self._tick = clock, due, tick
        self._armed_us = _NEVER
        self._on = True

    def arm(self) -> None:
        """Look again at when it is due."""
        due = self._due()
        if due is not None and due < self._armed_us:
            self._armed_us = due
            self._clock.at(due, self._ring, due)

    def _ring(self, due: int) -> None:
        if self._on and due == self._armed_us:
            self._armed_us = _NEVER
            self._tick(self._clock.now_us)

    def stop(self) -> None:
        """Ring no more."""
        self._on = False


class SimulatedNode:
    """One node: its session decides, its cores compute one stage after another."""

    def __init__(
        self,
        name: NodeName,
        plan: Plan,
        times: Mapping[int, StageTime],
        *,
        clock: Clock,
        loop: Loop,
        cores: int,
        transmit: Transmit,
        skips: Skips,
        longer: Callable[[], float] | None,
    ) -> None:
        """``longer`` draws how many times its usual time a run takes."""
        self.name = name
        self.loop = loop
        self.down = False
        self._plan, self._times = plan, times
        self._clock, self._cores = clock, cores
        self._transmit, self._skips = transmit, skips
        self._longer = longer
        self._out_edges = {stage: plan.edges_from(plan.stages[stage].id) for stage in times}
        self._start()

    def _start(self) -> None:
        """A fresh process that has loaded the plan."""
        now = self._clock.now_us
        self.session = Session(self.name, SessionLimits(), self._expected_us)
        self.session.restore(self._plan, EPOCH, now)
        self._workers = {stage: StageWorker() for stage in self._times}
        self._waiting: deque[int] = deque()
        """Stages that could run and wait for a core."""
        self._busy = 0
        self._timer = Timer(self._clock, self.session.next_wakeup_us, self._tick)

    def _expected_us(
        self, plan: PlanName, epoch: Epoch, stage: int, priority: Priority, requester: NodeName
    ) -> int | None:
        return self._workers[stage].expected_us(priority, requester, self._clock.now_us)

    def kill(self) -> None:
        """The process is gone with all that it held."""
        self.down = True
        self._timer.stop()

    def revive(self) -> None:
        """It is started again."""
        self.down = False
        self._start()

    # --- events ------------------------------------------------------------------------

    def receive(self, peer: NodeName, token: Token) -> None:
        """A token came out of the event loop."""
        if not self.down:
            self._perform(self.session.receive(peer, token, self._clock.now_us))

    def peer_lost(self, peer: NodeName) -> None:
        """The link with a peer broke."""
        if not self.down:
            self._perform(self.session.peer_lost(peer, self._clock.now_us))

    def peer_suspected(self, peer: NodeName) -> None:
        """A peer is silent; one that is frozen itself does not see that."""
        if not (self.down or self.loop.frozen):
            self._perform(self.session.peer_suspected(peer, self._clock.now_us))

    def _tick(self, now_us: int) -> None:
        self._perform(self.session.tick(now_us))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                health = self._transmit(self.name, action.peer, action.token)
                if health is None:
                    self._perform(self.session.undeliverable(action.token, self._clock.now_us))
                elif health is Health.SUSPECTED:
                    self._perform(self.session.doubtful(action.token))
            elif isinstance(action, Compute):
                self._workers[action.stage].submit(action, self._clock.now_us)
                self._queue_up(action.stage)
                self._compute()
            elif isinstance(action, Drop):
                self._workers[action.work.stage].drop(action.work)
            else:
                self._workers = {stage: StageWorker() for stage in self._times}  # its one plan was unloaded
        self._timer.arm()

    # --- cores -------------------------------------------------------------------------

    def _queue_up(self, stage: int) -> None:
        if self._workers[stage].ready and stage not in self._waiting:
            self._waiting.append(stage)

    def _compute(self) -> None:
        """Let stages run, one job each, as far as there are cores."""
        while self._waiting and self._busy < self._cores:
            stage = self._waiting.popleft()
            job = self._workers[stage].begin(self._clock.now_us)
            if job is not None:
                self._run(stage, job)

    def _run(self, stage: int, job: Job) -> None:
        now, times = self._clock.now_us, self._times[stage]
        if now > job.deadline_us:
            late = Fault(DeadlineExceeded.code, "the deadline passed while it waited for the stage")
            self._done(stage, job.work, late)
            return
        self._busy += 1
        compute_us = times.compute_us if self._longer is None else times.compute_us * self._longer()
        hop = Hop(
            *(stage, self.name, now - job.queued_us),
            *(round(times.decode_us), round(compute_us), round(times.encode_us)),
        )
        done_us = now + times.decode_us + compute_us + times.encode_us
        self._clock.at(done_us, self._ran, self.session, stage, job.work, hop)

    def _ran(self, session: Session, stage: int, work: Work, hop: Hop) -> None:
        if session is not self.session or self.down:
            return
        self._busy -= 1
        skipped = self._skips(stage)
        made = {edge: True for edge in self._out_edges[stage] if edge not in skipped}
        self._done(stage, work, Computed(made, skipped, hop))
        self._compute()

    def _done(self, stage: int, work: Work, result: Computed | Fault) -> None:
        """A stage is done with a job, and the event loop gets the result."""
        self._workers[stage].end()
        self._queue_up(stage)
        self.loop.take(0.0, partial(self._computed, self.session, work, result))

    def _computed(self, session: Session, work: Work, result: Computed | Fault) -> None:
        if session is not self.session or self.down:
            return
        service_us = result.hop.total_us - result.hop.queue_us if isinstance(result, Computed) else None
        self._workers[work.stage].finished(work, service_us)
        self._perform(session.computed(work, result, self._clock.now_us))
