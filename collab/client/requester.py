"""The requester of one plan, without I/O: requests and tokens in, actions out.

It fixes the node of every stage for each attempt, honours its lease of credits, and
ends every request exactly once: by the first complete attempt, by an error, or at its
deadline.  Times are integers of microseconds on one monotonic clock that the caller
reads.  The rules and their reasons are in ``docs/adr/0003-dataflow-session.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from collab.client.actions import Action, Answer, Resolve, Send
from collab.client.credits import Credits
from collab.client.routing import Router, Way
from collab.client.wheel import Wheel
from collab.client.wiring import wire
from collab.core.ids import Attempt, EdgeId, Epoch, NodeName, RequestId
from collab.core.plan import Plan
from collab.core.token import Fault, Key, Kind, Token
from collab.errors import (
    Cancelled,
    DeadlineExceeded,
    InputError,
    LinkLost,
    NodeLost,
    NotLoaded,
    Overloaded,
    PeerUnreachable,
    RequestError,
)

RETRYABLE: Final = frozenset(e.code for e in (NodeLost, LinkLost, PeerUnreachable, Overloaded, NotLoaded))
"""Codes of faults that another attempt on other nodes may not meet."""

GRAIN_US: Final = 1_000

_VALUE, _ABSENT, _ERROR, _CANCEL, _FAILED = Kind.VALUE, Kind.ABSENT, Kind.ERROR, Kind.CANCEL, Kind.FAILED


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How hard a requester tries, and what it may have under way."""

    max_attempts: int = 1
    grace_us: int = 250_000
    """How long an answer may still come after a node on its way was lost."""
    renew_us: int = 10_000_000
    """A lease is renewed when it ends within this time."""
    max_requests: int = 4096


@dataclass(slots=True)
class Counters:
    """What a requester dropped; each only grows."""

    late: int = 0
    """Tokens of requests or attempts that are over; answers to a request that is answered are among them."""
    forged: int = 0
    """Tokens from somebody whom the plan does not place there, or that contradict their attempt."""
    retries: int = 0
    """Attempts started because an earlier one failed."""


class _Try:
    """One attempt at a request."""

    __slots__ = ("done", "entry", "given_up_us", "lost", "number", "over", "request", "way", "why")

    def __init__(self, request: _Request, number: Attempt, way: Way, entry: NodeName) -> None:
        self.request = request
        self.number = number
        self.way = way
        self.entry = entry
        self.lost: set[NodeName] = set()
        """Nodes that cannot serve it."""
        self.given_up_us: int | None = None
        """When it is given up because of them."""
        self.why: Fault | None = None
        self.over = False
        """It holds no credit any more, and its nodes were told."""
        self.done = False
        """No answer is taken from it any more."""


class _Request:
    __slots__ = ("avoid", "deadline_us", "id", "last_fault", "payloads", "start_us", "trace", "tries")

    def __init__(
        self, name: RequestId, payloads: Mapping[EdgeId, Any], start_us: int, deadline_us: int, trace: bytes
    ) -> None:
        self.id = name
        self.payloads = payloads
        self.start_us = start_us
        self.deadline_us = deadline_us
        self.trace = trace
        self.tries: dict[Attempt, _Try] = {}
        self.avoid: set[NodeName] = set()
        self.last_fault: Fault | None = None


class Requester:
    """Requests of one client to one epoch of one plan."""

    def __init__(self, name: NodeName, plan: Plan, epoch: Epoch, retry: RetryPolicy = RetryPolicy()) -> None:
        self.name = name
        self.plan = plan
        self.epoch = epoch
        self._retry = retry
        self._wiring = wire(plan)
        self._router = Router(name, self._wiring)
        self._credits = Credits(self._wiring.stages[self._wiring.entry].nodes)
        self._requests: dict[RequestId, _Request] = {}
        self._deadlines: Wheel[_Request] = Wheel(GRAIN_US)
        self._graces: Wheel[_Try] = Wheel(GRAIN_US)
        self._counters = Counters()

    # --- credits -------------------------------------------------------------

    def leased(self, granted: int, expires_us: int, node: NodeName | None = None) -> None:
        """An entry node leased credits, until a time on this end's clock.

        Without ``node`` the lease holds at each entry node; plans whose entry has
        replicas name it.
        """
        self._credits.leased(granted, expires_us, node)

    def available(self, now_us: int) -> int:
        """Requests that may be submitted now."""
        entry = self._wiring.stages[self._wiring.entry]
        return sum(self._credits.free(node, now_us) for node in entry.nodes if node not in self._router.lost)

    def needs_renewal(self, now_us: int) -> tuple[NodeName, ...]:
        """Entry nodes to ask for a lease: it ends soon, or they refused what it allows."""
        return self._credits.to_renew(now_us + self._retry.renew_us)

    @property
    def in_flight(self) -> int:
        """Requests that are not resolved."""
        return len(self._requests)

    @property
    def counters(self) -> dict[str, int]:
        """What was dropped so far, by the names in `Counters`."""
        return asdict(self._counters)

    # --- requests ------------------------------------------------------------

    def submit(
        self,
        request: RequestId,
        payloads: Mapping[EdgeId, Any],
        now_us: int,
        deadline_us: int,
        trace: bytes = b"",
    ) -> list[Action]:
        """Start a request with one payload for each edge from the requester.

        Raises:
            InputError: the payloads are not those of the plan's entry edges, or the id is in use.
            Overloaded: no leased credit is free.
            NodeLost: no answer is possible without the nodes that are lost.
        """
        if payloads.keys() != set(self._wiring.entry_edges):
            wanted = ", ".join(map(str, self._wiring.entry_edges))
            raise InputError(f"payloads: edges {sorted(payloads)}; give one for each of {wanted}")
        if request in self._requests:
            raise InputError(f"request {request.hex()}: the id is in use; draw a new one")
        if len(self._requests) >= self._retry.max_requests:
            raise Overloaded(f"{len(self._requests)} requests are under way; try again later")
        entry = _Request(request, payloads, now_us, deadline_us, trace)
        way = self._router.pick(lambda node: self._credits.free(node, now_us))
        self._requests[request] = entry
        self._deadlines.add(deadline_us, entry)
        actions: list[Action] = []
        if now_us >= deadline_us:
            self._expire(entry, actions)
        else:
            self._start(entry, way, actions)
        return actions

    def cancel(self, request: RequestId, now_us: int) -> list[Action]:
        """Withdraw a request: it resolves as cancelled; nothing happens if it is not under way."""
        actions: list[Action] = []
        entry = self._requests.get(request)
        if entry is not None:
            self._resolve(entry, Fault(Cancelled.code, "the request was withdrawn"), None, actions)
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
        if token.route != way.route or token.requester != self.name or not self._may_send(peer, token, way):
            self._counters.forged += 1
            return actions
        request = attempt.request
        if token.kind is _FAILED and token.fault is not None:
            self._failed(attempt, token.fault, now_us, actions)
        elif token.kind is _VALUE or token.kind is _ABSENT:
            absent = token.reason if token.kind is _ABSENT else None
            answer = Answer(token.payload, token.hops, way.route, attempt.number, absent)
            self._resolve(request, answer, attempt, actions)
        elif token.kind is _ERROR and token.fault is not None:
            attempt.done = True
            if not attempt.over:
                self._end(attempt, token.fault, now_us, actions)
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
        """A node cannot be reached: choose others from now on, and give up on it after the grace."""
        self._router.lost.add(node)
        for request in self._requests.values():
            for attempt in request.tries.values():
                if node in attempt.way.nodes:
                    self._suspect(attempt, node, now_us)
        return []

    def node_back(self, node: NodeName) -> None:
        """A node can be reached again; what it held before may be gone all the same."""
        self._router.lost.discard(node)

    # --- time ----------------------------------------------------------------

    def tick(self, now_us: int) -> list[Action]:
        """Do what has fallen due; call it at `next_wakeup_us`, or whenever convenient."""
        actions: list[Action] = []
        for request in self._deadlines.due(now_us):
            self._expire(request, actions)
        for attempt in self._graces.due(now_us):
            if attempt.why is not None and not attempt.over:
                self._end(attempt, attempt.why, now_us, actions)
        return actions

    def next_wakeup_us(self) -> int | None:
        """When `tick` has something to do; None if never."""
        due = (self._deadlines.next_us(), self._graces.next_us())
        return min((at for at in due if at is not None), default=None)

    # --- attempts ------------------------------------------------------------

    def _find(self, token: Token) -> _Try | None:
        """The attempt that a token may still change."""
        key = token.key
        request = self._requests.get(key.request)
        if request is None or key.plan != self.plan.name or key.epoch != self.epoch:
            return None
        attempt = request.tries.get(key.attempt)
        return attempt if attempt is not None and not attempt.done else None

    def _may_send(self, peer: NodeName, token: Token, way: Way) -> bool:
        if token.kind is _FAILED:
            return (token.edge, peer) in way.first
        return token.edge == self._wiring.output_edge and peer == way.last

    def _start(self, request: _Request, way: Way, actions: list[Action]) -> None:
        attempt = _Try(request, Attempt(len(request.tries)), way, way.route[self._wiring.entry])
        request.tries[attempt.number] = attempt
        self._credits.take(attempt.entry)
        self._router.start(way)
        self._send(attempt, _VALUE, actions)

    def _send(self, attempt: _Try, kind: Kind, actions: list[Action]) -> None:
        """One token along each edge from the requester."""
        request = attempt.request
        key = Key(self.plan.name, self.epoch, request.id, attempt.number)
        for edge, node in attempt.way.first:
            payload = request.payloads[edge] if kind is _VALUE else None
            token = Token(
                key,
                edge,
                kind,
                self.name,
                attempt.way.route,
                request.deadline_us,
                payload,
                trace=request.trace,
            )
            actions.append(Send(node, token))

    def _failed(self, attempt: _Try, fault: Fault, now_us: int, actions: list[Action]) -> None:
        """Some edge cannot be served; an ensemble may do without it, unless the entry refused the attempt."""
        if attempt.over:
            return
        if fault.code == LinkLost.code and fault.node in attempt.way.nodes:
            self._suspect(attempt, NodeName(fault.node), now_us)
            return
        attempt.lost.add(NodeName(fault.node))
        refused = fault.code == Overloaded.code and fault.stage == self._wiring.stages[self._wiring.entry].id
        if refused:
            self._credits.doubt(attempt.entry)
        if refused or fault.node not in attempt.way.nodes or not self._survives(attempt):
            attempt.done = True
            self._end(attempt, fault, now_us, actions)

    def _survives(self, attempt: _Try) -> bool:
        return self._wiring.survives(self.name, attempt.way.route, attempt.lost)

    def _suspect(self, attempt: _Try, node: NodeName, now_us: int) -> None:
        """Without a node the attempt will fail, but the answer may be past it already."""
        attempt.lost.add(node)
        if attempt.given_up_us is not None or attempt.over or self._survives(attempt):
            return
        route = attempt.way.route
        held = [s.id for s, n in zip(self._wiring.stages, route, strict=True) if n == node]
        what = (
            "stages " + ", ".join(map(repr, held)) if len(held) > 1 else repr(held[0]) if held else "a relay"
        )
        message = f"node {node!r} was lost while it held {what} of the request"
        attempt.why = Fault(NodeLost.code, message, node, held[0] if held else "")
        attempt.given_up_us = now_us + self._retry.grace_us
        self._graces.add(attempt.given_up_us, attempt)

    def _end(self, attempt: _Try, fault: Fault, now_us: int, actions: list[Action]) -> None:
        """An attempt has failed: try once more, or pass the fault on."""
        request = attempt.request
        self._close(attempt, actions, tell=True)
        request.last_fault = fault
        way = self._next_way(request, fault, now_us)
        if way is None:
            self._resolve(request, fault, None, actions)
        else:
            self._counters.retries += 1
            self._start(request, way, actions)

    def _next_way(self, request: _Request, fault: Fault, now_us: int) -> Way | None:
        """Where to try again, avoiding the nodes that failed; None if it is not worth it."""
        if fault.code not in RETRYABLE or len(request.tries) >= self._retry.max_attempts:
            return None
        if now_us >= request.deadline_us:
            return None
        if fault.node:
            request.avoid.add(NodeName(fault.node))
        try:
            return self._router.pick(lambda node: self._credits.free(node, now_us), request.avoid)
        except RequestError:
            return None

    def _expire(self, request: _Request, actions: list[Action]) -> None:
        budget_ms = (request.deadline_us - request.start_us) / 1000
        after = f"; before that, {request.last_fault.message}" if request.last_fault is not None else ""
        message = f"no answer from plan {self.plan.name!r} within {budget_ms:g} ms{after}"
        self._resolve(request, Fault(DeadlineExceeded.code, message), None, actions)

    def _resolve(
        self, request: _Request, outcome: Answer | Fault, by: _Try | None, actions: list[Action]
    ) -> None:
        """End a request, and what is left of its attempts; everything about it is forgotten.

        ``by`` is the attempt that answered; its nodes are told only if some may still be at it.
        """
        del self._requests[request.id]
        self._deadlines.discard(request.deadline_us, request)
        early = self._wiring.races or (isinstance(outcome, Answer) and outcome.absent is not None)
        for attempt in request.tries.values():
            self._close(attempt, actions, tell=attempt is not by or early)
        actions.append(Resolve(request.id, outcome))

    def _close(self, attempt: _Try, actions: list[Action], *, tell: bool) -> None:
        """Give an attempt's credit back; ``tell`` its nodes to do nothing more for it."""
        if attempt.over:
            return
        attempt.over = True
        self._credits.give_back(attempt.entry)
        self._router.end(attempt.way)
        if attempt.given_up_us is not None:
            self._graces.discard(attempt.given_up_us, attempt)
        if tell:
            self._send(attempt, _CANCEL, actions)
