"""The requester of one plan, without I/O: requests and tokens in, actions out.

It fixes the node of every stage for each attempt, honours its lease of credits, and
ends every request exactly once: by the first complete attempt, by an error, or at its
deadline.  Times are integers of microseconds on one monotonic clock that the caller
reads.  The rules and their reasons are in ``docs/adr/0003-dataflow-session.md``; those of
further attempts in ``docs/adr/0019-attempts.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from random import Random
from typing import Any, Final

from collab.client.actions import Action, Answer, Resolve
from collab.client.admission import Admission
from collab.client.budget import RetryBudget
from collab.client.credits import Credits
from collab.client.latency import LatencyWindow
from collab.client.policy import PARK_US, RETRYABLE, Counters, RetryPolicy
from collab.client.routing import Router, Way
from collab.client.tries import Asked, Try, late_if_begun
from collab.client.wheel import Wheel, earliest
from collab.client.wiring import wire
from collab.core.ids import Attempt, EdgeId, Epoch, NodeName, RequestId
from collab.core.plan import Plan
from collab.core.token import Fault, Hop, Kind, Priority, Token
from collab.errors import (
    Cancelled,
    InputError,
    LinkLost,
    NodeLost,
    Overloaded,
    RequestError,
)

GRAIN_US: Final = 1_000

_VALUE, _ABSENT, _ERROR, _CANCEL, _FAILED = Kind.VALUE, Kind.ABSENT, Kind.ERROR, Kind.CANCEL, Kind.FAILED


class Requester:
    """Requests of one client to one epoch of one plan."""

    def __init__(
        self,
        name: NodeName,
        plan: Plan,
        epoch: Epoch,
        retry: RetryPolicy = RetryPolicy(),
        chance: Random | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        """``chance`` chooses among replicas, else the name does; ``budget`` is one that others share."""
        self.name = name
        self.plan = plan
        self.epoch = epoch
        self._retry = retry
        self._wiring = wire(plan)
        self._router = Router(name, self._wiring, chance or Random(name))
        self._credits = Credits(self._wiring.entry_stage.nodes)
        self._requests: dict[RequestId, Asked] = {}
        self._deadlines: Wheel[Asked] = Wheel(GRAIN_US)
        self._graces: Wheel[Try] = Wheel(GRAIN_US)
        self._hedges: Wheel[Asked] = Wheel(GRAIN_US)
        self._waiting: dict[RequestId, Asked] = {}
        """Requests that have no attempt because no credit was free, in order; looked at again then:"""
        self._look_us = 0
        self._latencies = LatencyWindow()
        self._budget = budget or retry.budget(plan)
        self._counters = Counters()
        self._admission = Admission(self._counters)

    # --- credits -------------------------------------------------------------

    def leased(self, granted: int, expires_us: int, node: NodeName | None = None) -> None:
        """An entry node leased credits, until a time on this end's clock.

        Without ``node`` the lease holds at each entry node; plans whose entry has
        replicas name it.
        """
        self._credits.leased(granted, expires_us, node)

    def available(self, now_us: int) -> int:
        """Requests that may be submitted now."""
        return sum(map(self._credits.free_at(now_us), self._router.enterable()))

    def needs_renewal(self, now_us: int) -> tuple[NodeName, ...]:
        """Entry nodes to ask for a lease: it ends soon, or they refused what it allows."""
        return self._credits.to_renew(now_us + self._retry.renew_us)

    @property
    def in_doubt(self) -> bool:
        """Whether an entry node that is there refused what its lease allows."""
        return bool(self._credits.doubted.difference(self._router.lost))

    @property
    def short(self) -> bool:
        """Whether a request found no credit since the last lease."""
        return self._credits.short

    @property
    def serves(self) -> bool:
        """Whether an answer is possible with the nodes that are not lost."""
        return self._router.possible()

    @property
    def in_flight(self) -> int:
        """Requests that are not resolved."""
        return len(self._requests)

    @property
    def counters(self) -> dict[str, int]:
        """What was dropped and tried again so far, by the names in `Counters`."""
        return asdict(self._counters)

    # --- requests ------------------------------------------------------------

    def submit(
        self,
        request: RequestId,
        payloads: Mapping[EdgeId, Any],
        now_us: int,
        deadline_us: int,
        trace: bytes = b"",
        priority: Priority = Priority.NORMAL,
        before: int = 0,
    ) -> list[Action]:
        """Start a request with a payload for each edge from here, after ``before`` attempts over other plans.

        Raises:
            InputError: the payloads are not those of the plan's entry edges, or the id is in use.
            Overloaded: no leased credit is free, or no answer is to be expected before the deadline.
            NodeLost: no answer is possible without the nodes that are lost.
        """
        if payloads.keys() != set(self._wiring.entry_edges):
            wanted = ", ".join(map(str, self._wiring.entry_edges))
            raise InputError(f"payloads: edges {sorted(payloads)}; give one for each of {wanted}")
        if request in self._requests:
            raise InputError(f"request {request.hex()}: the id is in use; draw a new one")
        if len(self._requests) >= self._retry.max_requests:
            raise Overloaded(f"{len(self._requests)} requests are under way; try again later")
        actions: list[Action] = []
        if self._retry.refuse_hopeless:
            self._admission.check(priority, deadline_us - now_us, now_us)
        way = self._first_way(now_us)
        ahead = self._admission.enter(priority)
        entry = Asked(request, payloads, now_us, deadline_us, trace, priority, ahead, before)
        self._requests[request] = entry
        self._deadlines.add(deadline_us, entry)
        if not before:
            self._budget.earn()
        if now_us >= deadline_us:
            self._expire(entry, now_us, actions)
        elif way is None:
            self._park(entry, now_us)
        else:
            self._begin(entry, way, now_us, actions)
        return actions

    def cancel(self, request: RequestId, now_us: int) -> list[Action]:
        """Withdraw a request: it resolves as cancelled; nothing happens if it is not under way."""
        actions: list[Action] = []
        entry = self._requests.get(request)
        if entry is not None:
            self._resolve(entry, Fault(Cancelled.code, "the request was withdrawn"), None, now_us, actions)
            self._serve_waiting(now_us, actions)
        return actions

    # --- tokens --------------------------------------------------------------

    def receive(self, peer: NodeName, token: Token, now_us: int) -> list[Action]:
        """Take an answer or a failure that came over the link with ``peer``."""
        actions: list[Action] = []
        attempt = self._find(token)
        if attempt is None:
            self._counters.late += 1
            return actions
        way = attempt.way
        if token.route != way.route or token.requester != self.name or not way.gives(peer, token):
            self._counters.forged += 1
            return actions
        request = attempt.request
        if token.kind is _FAILED and token.fault is not None:
            self._failed(attempt, token.fault, now_us, actions)
        elif token.kind is _VALUE or token.kind is _ABSENT:
            absent = token.reason if token.kind is _ABSENT else None
            count, hedged = len(request.tries), request.hedged
            answer = Answer(token.payload, token.hops, way.route, attempt.number, absent, count, hedged)
            self._learn(attempt, token.hops, now_us)
            self._resolve(request, answer, attempt, now_us, actions)
        elif token.kind is _ERROR and token.fault is not None:
            attempt.done = True
            if not attempt.over:
                self._blame(attempt, token.fault, now_us)
                self._end(attempt, token.fault, now_us, actions)
        self._serve_waiting(now_us, actions)
        return actions

    def undeliverable(self, peer: NodeName, token: Token, now_us: int) -> list[Action]:
        """A token from a `Send` could certainly not be handed over."""
        actions: list[Action] = []
        attempt = self._find(token)
        if attempt is not None and token.kind is _VALUE:
            stage = self._wiring.stages[self._wiring.edges[token.edge].target]
            message = f"requester {self.name!r} cannot reach it"
            self._failed(attempt, Fault(NodeLost.code, message, peer, stage.id), now_us, actions)
        return actions

    # --- nodes ---------------------------------------------------------------

    def node_lost(self, node: NodeName, now_us: int) -> list[Action]:
        """A node cannot be reached: choose others from now on, also for what it holds.

        Where there is no other way, an answer may still come within the grace.
        """
        actions: list[Action] = []
        self._router.lost.add(node)
        for request in tuple(self._requests.values()):
            for attempt in tuple(request.tries.values()):
                if node in attempt.way.nodes:
                    self._suspect(attempt, node, now_us, actions)
        self._serve_waiting(now_us, actions)
        return actions

    def node_back(self, node: NodeName) -> None:
        """A node can be reached again; what it held before may be gone all the same."""
        if node in self._router.lost:
            self._router.lost.discard(node)
            self._router.standing.forgive(node)

    def node_draining(self, node: NodeName, draining: bool) -> None:
        """A node has said that it takes nothing new, or has come back; what it holds goes on."""
        (self._router.draining.add if draining else self._router.draining.discard)(node)

    # --- time ----------------------------------------------------------------

    def tick(self, now_us: int) -> list[Action]:
        """Do what has fallen due; call it at `next_wakeup_us`, or whenever convenient."""
        actions: list[Action] = []
        for request in self._deadlines.due(now_us):
            self._expire(request, now_us, actions)
        for attempt in self._graces.due(now_us):
            if attempt.why is not None and not attempt.over:
                self._end(attempt, attempt.why, now_us, actions)
        for request in self._hedges.due(now_us):
            self._hedge(request, now_us, actions)
        if self._waiting and now_us >= self._look_us:
            self._serve_waiting(now_us, actions)
            self._give_up_waiting(now_us, actions)
            self._look_us = now_us + PARK_US
        return actions

    def next_wakeup_us(self) -> int | None:
        """When `tick` has something to do; None if never."""
        look_us = self._look_us if self._waiting else None
        return earliest(self._deadlines.next_us(), self._graces.next_us(), self._hedges.next_us(), look_us)

    # --- attempts ------------------------------------------------------------

    def _find(self, token: Token) -> Try | None:
        """The attempt that a token may still change."""
        key = token.key
        request = self._requests.get(key.request)
        if request is None or key.plan != self.plan.name or key.epoch != self.epoch:
            return None
        attempt = request.tries.get(key.attempt)
        return attempt if attempt is not None and not attempt.done else None

    def _first_way(self, now_us: int) -> Way | None:
        """Where a request starts; None if it has to wait for a credit that went with an entry node."""
        before, router = len(self._waiting), self._router
        missing = partial(self._credits.missing, router.lost, router.draining, now_us)
        if before and self.available(now_us) <= before < missing():
            return None
        try:
            return router.pick(self._credits.free_at(now_us), now_us)
        except Overloaded:
            self._credits.short = True
            if before >= missing():
                raise
            return None

    def _begin(self, request: Asked, way: Way, now_us: int, actions: list[Action]) -> None:
        """The first attempt; another follows if it takes long and the requester wants that."""
        self._start(request, way, now_us, actions)
        if self._retry.hedge:
            usual_us = self._latencies.quantile_us(self._retry.hedge_quantile)
            if usual_us is not None:
                request.hedge_us = now_us + usual_us
                self._hedges.add(request.hedge_us, request)

    def _start(self, request: Asked, way: Way, now_us: int, actions: list[Action]) -> None:
        number = Attempt(len(request.tries))
        attempt = Try(request, number, way, way.route[self._wiring.entry], now_us)
        request.tries[number] = attempt
        self._waiting.pop(request.id, None)
        self._credits.take(attempt.entry)
        self._router.start(way)
        actions.extend(attempt.tokens(self.plan.name, self.epoch, self.name, _VALUE))

    def _failed(self, attempt: Try, fault: Fault, now_us: int, actions: list[Action]) -> None:
        """Some edge cannot be served; an ensemble may do without it, unless the entry refused the attempt."""
        if attempt.over:
            return
        if fault.code == LinkLost.code and fault.node in attempt.way.nodes:
            self._suspect(attempt, NodeName(fault.node), now_us, actions)
            return
        refused = fault.code == Overloaded.code and fault.stage == self._wiring.entry_stage.id
        if refused:
            self._credits.doubt(attempt.entry)
        if refused and fault.granted is not None:
            self._credits.shrunk(attempt.entry, fault.granted)
        else:
            self._blame(attempt, fault, now_us)
        if refused or fault.node not in attempt.way.nodes or not self._survives(attempt):
            attempt.done = True
            self._end(attempt, fault, now_us, actions)

    def _blame(self, attempt: Try, fault: Fault, now_us: int) -> None:
        """An attempt lacks the node that a fault names; what a request does wrong is not the node's."""
        if fault.code in RETRYABLE and fault.node in attempt.way.nodes:
            attempt.lost.add(NodeName(fault.node))
            if fault.code == Overloaded.code:
                attempt.request.full.add(NodeName(fault.node))
            else:
                self._router.standing.failed(NodeName(fault.node), now_us)

    def _survives(self, attempt: Try) -> bool:
        return self._wiring.survives(self.name, attempt.way.route, attempt.lost)

    def _suspect(self, attempt: Try, node: NodeName, now_us: int, actions: list[Action]) -> None:
        """Without a node the attempt will fail, but the answer may be past it already."""
        attempt.lost.add(node)
        if attempt.given_up_us is not None or attempt.over:
            return
        self._router.standing.failed(node, now_us)
        if self._survives(attempt):
            return
        attempt.why = attempt.without(node, self._wiring)
        others = [t for t in attempt.request.live() if t is not attempt]
        in_doubt = all(t.given_up_us is not None for t in others)
        if in_doubt and self._replaceable(attempt, attempt.why, now_us):
            for other in others:
                self._close(other, actions, tell=True)
            self._end(attempt, attempt.why, now_us, actions)
        else:
            attempt.given_up_us = now_us + self._retry.grace_us
            self._graces.add(attempt.given_up_us, attempt)

    def _end(self, attempt: Try, fault: Fault, now_us: int, actions: list[Action]) -> None:
        """An attempt has failed: leave it to another that lives, try once more, or pass the fault on."""
        request, attempt.ended = attempt.request, (fault, now_us)
        self._close(attempt, actions, tell=True)
        request.last_fault = fault
        request.failed_last = frozenset(attempt.lost)
        if not request.live():
            self._try_again(request, fault, now_us, actions)

    # --- further attempts ----------------------------------------------------

    def _may_retry(self, request: Asked, fault: Fault, now_us: int) -> bool:
        return (
            fault.code in RETRYABLE
            and request.before + len(request.tries) < self._retry.max_attempts
            and now_us < request.deadline_us
        )

    def _other_way(self, request: Asked, free: Callable[[NodeName], int], now_us: int) -> Way:
        """A way without nodes that failed last and have not come back; failed before, if possible."""
        failing = self._router.standing.failing(request.failed_last) | request.full
        shun = request.failed_before | request.failed_last
        return self._router.pick_other(free, now_us, failing, shun, request.unreached())

    def _replaceable(self, attempt: Try, fault: Fault, now_us: int) -> bool:
        """Whether a further attempt can start in place of one that is in doubt."""
        request = attempt.request
        if not self._may_retry(request, fault, now_us) or not self._budget.covers(now_us):
            return False
        with suppress(NodeLost):
            self._router.pick(lambda _: 1, now_us, attempt.lost)
            return True
        return False

    def _try_again(self, request: Asked, fault: Fault, now_us: int, actions: list[Action]) -> None:
        """One more attempt, if that is worth it and paid for; else the fault is passed on."""
        if self._may_retry(request, fault, now_us):
            try:
                way = self._other_way(request, self._credits.free_at(now_us), now_us)
            except Overloaded:
                if fault.code != Overloaded.code or fault.granted is not None:
                    self._park(request, now_us)
                    return
            except NodeLost:
                pass
            else:
                if self._budget.take(now_us):
                    self._counters.retries += 1
                    request.failed_before |= request.failed_last
                    self._start(request, way, now_us, actions)
                    return
                self._counters.unpaid += 1
        self._resolve(request, late_if_begun(fault, self._wiring.entry_stage.id), None, now_us, actions)

    def _park(self, request: Asked, now_us: int) -> None:
        """Let a request wait until a credit is free; one that waits already keeps its place."""
        if request.id not in self._waiting:
            self._counters.waited += 1
            self._look_us = self._look_us if self._waiting else now_us + PARK_US
            self._waiting[request.id] = request

    def _serve_waiting(self, now_us: int, actions: list[Action]) -> None:
        """Start what waits for credits, first come first served, as far as there are any now."""
        while self._waiting and self.available(now_us) > 0:
            request = next(iter(self._waiting.values()))
            if request.last_fault is not None:
                self._try_again(request, request.last_fault, now_us, actions)
            else:
                with suppress(NodeLost):
                    way = self._router.pick(self._credits.free_at(now_us), now_us)
                    self._begin(request, way, now_us, actions)
            if request.id in self._waiting:
                return  # the credits are where it has failed before

    def _give_up_waiting(self, now_us: int, actions: list[Action]) -> None:
        """End what waits although no credit could help, for too many nodes are lost."""
        for request in tuple(self._waiting.values()):
            try:
                self._other_way(request, lambda _: 1, now_us)
            except NodeLost as error:
                fault = request.last_fault or Fault(NodeLost.code, str(error))
                self._resolve(request, fault, None, now_us, actions)

    def _hedge(self, request: Asked, now_us: int, actions: list[Action]) -> None:
        """A second attempt beside one that takes long; not where only the same way is there."""
        request.hedge_us = None
        first = request.tries[Attempt(0)]
        if len(request.tries) > 1 or first.given_up_us is not None or self._retry.max_attempts < 2:
            return
        try:
            way = self._router.pick(self._credits.free_at(now_us), now_us, shun=first.way.nodes)
        except RequestError:
            return
        if way.route == first.way.route:
            return
        if self._budget.take(now_us):
            self._counters.hedged += 1
            request.hedged = True
            self._start(request, way, now_us, actions)
        else:
            self._counters.unpaid += 1

    def _learn(self, attempt: Try, hops: Sequence[Hop], now_us: int) -> None:
        """Take from an answer how nodes do; latencies of requests that met no fault make what is usual."""
        request = attempt.request
        self._router.answered(attempt.way, hops, attempt.start_us, now_us)
        for other in request.live():
            if other.start_us < attempt.start_us:
                self._router.beaten(other.way, attempt.way, now_us - other.start_us, now_us)
        if self._retry.hedge and request.last_fault is None:
            self._latencies.add(now_us - request.start_us)

    # --- the end -------------------------------------------------------------

    def _expire(self, request: Asked, now_us: int, actions: list[Action]) -> None:
        self._resolve(request, request.too_late(self.plan.name), None, now_us, actions)

    def _resolve(
        self, request: Asked, outcome: Answer | Fault, by: Try | None, now_us: int, actions: list[Action]
    ) -> None:
        """End a request, and what is left of its attempts; everything about it is forgotten.

        ``by`` is the attempt that answered; its nodes are told only if some may still be at it.
        """
        del self._requests[request.id]
        self._admission.leave(request, outcome, now_us)
        self._waiting.pop(request.id, None)
        self._deadlines.discard(request.deadline_us, request)
        if request.hedge_us is not None:
            self._hedges.discard(request.hedge_us, request)
        early = self._wiring.races or (isinstance(outcome, Answer) and outcome.absent is not None)
        for attempt in request.tries.values():
            self._close(attempt, actions, tell=attempt is not by or early)
        actions.append(Resolve(request.id, outcome, len(request.tries), request.tried(by, now_us)))

    def _close(self, attempt: Try, actions: list[Action], *, tell: bool) -> None:
        """Give an attempt's credit back; ``tell`` its nodes to do nothing more for it."""
        if attempt.over:
            return
        attempt.over = True
        self._credits.give_back(attempt.entry)
        self._router.end(attempt.way)
        if attempt.given_up_us is not None:
            self._graces.discard(attempt.given_up_us, attempt)
        if tell:
            actions.extend(attempt.tokens(self.plan.name, self.epoch, self.name, _CANCEL))
