"""A cluster without a network: sessions and requesters, and the messages between them, moved by hand.

Payloads are terms: what the requester gave is ``("in", plan, epoch, request, edge)``, what a
stage made is ``("out", key, stage, edge, inputs)``.  So a term says everything about how it came
about, and `explain` can tell whether the plan allows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from collab.client.actions import Answer, Resolve, Send
from collab.client.policy import RetryPolicy
from collab.client.requester import Requester
from collab.client.wiring import OUTSIDE, Wiring, wire
from collab.core.plan import Plan
from collab.core.token import Fault, Hop, Kind, Token
from collab.errors import NotLoaded, RequestError
from collab.node.attempts import Shelf
from collab.node.join import Phase
from collab.node.session import Compute, Computed, Drop, Free, Session, SessionLimits

GRAIN_US = 1_000
"""Timers may be late by this much."""


@dataclass
class Message:
    source: str
    target: str
    token: Token


@dataclass
class Job:
    node: str
    session: Session
    compute: Compute


@dataclass
class Request:
    requester: Requester
    id: bytes
    deadline_us: int
    outcomes: list = field(default_factory=list)
    resolved_us: int = -1


class Network:
    """Everything that happens is asked for by the test; only timers run by themselves, in `advance`."""

    def __init__(self, limits: SessionLimits = SessionLimits(), retry: RetryPolicy = RetryPolicy()) -> None:
        self.now_us = 1_000_000
        self.limits = limits
        self.retry = retry
        self.plans: dict[tuple[str, int], Plan] = {}
        self.wirings: dict[tuple[str, int], Wiring] = {}
        self.sessions: dict[str, Session] = {}
        self.requesters: dict[tuple[str, str, int], Requester] = {}
        self.messages: list[Message] = []
        self.jobs: list[Job] = []
        self.requests: dict[bytes, Request] = {}
        self.down: set[str] = set()
        self.cut: set[frozenset[str]] = set()
        self.suspects: set[tuple[str, str]] = set()
        """Nodes and the peers that they suspect."""
        self.stage_faults = 0

    # --- set-up --------------------------------------------------------------

    def deploy(self, plan: Plan, epoch: int) -> None:
        self.plans[plan.name, epoch] = plan
        self.wirings[plan.name, epoch] = wire(plan)
        for ref in plan.nodes:
            if ref.name not in self.down:
                session = self.sessions.setdefault(ref.name, Session(ref.name, self.limits))
                digest, current = plan.digest, session.current(plan.name)
                session.reserve(plan, epoch, "test", self.now_us, current)
                self.perform(ref.name, session.prepare(plan.name, epoch, digest, "test", self.now_us))
                session.commit(plan.name, epoch, digest, "test", self.now_us)

    def requester(self, name: str, plan: Plan, epoch: int) -> Requester:
        key = (name, plan.name, epoch)
        if key not in self.requesters:
            self.requesters[key] = Requester(name, plan, epoch, self.retry)
        return self.requesters[key]

    def lease(self, requester: Requester, want: int) -> None:
        for node in requester.needs_renewal(self.now_us):
            session = self.sessions[node]
            if node in self.down:
                continue
            try:
                lease = session.lease(requester.plan.name, requester.epoch, requester.name, want, self.now_us)
            except NotLoaded:
                continue
            requester.leased(lease.granted, lease.expires_us, node)

    # --- moves ---------------------------------------------------------------

    def submit(self, requester: Requester, request: bytes, budget_us: int) -> RequestError | None:
        wiring = self.wirings[requester.plan.name, requester.epoch]
        payloads = {e: ("in", requester.plan.name, requester.epoch, request, e) for e in wiring.entry_edges}
        entry = Request(requester, request, self.now_us + budget_us)
        try:
            actions = requester.submit(request, payloads, self.now_us, entry.deadline_us)
        except RequestError as error:
            return error
        self.requests[request] = entry
        self.perform(requester.name, actions, requester)
        return None

    def deliver(self, message: Message) -> None:
        self.messages.remove(message)
        self.hand_over(message)

    def hand_over(self, message: Message) -> None:
        """Deliver a message and keep it for another time."""
        token, peer = message.token, message.source
        session = self.sessions.get(message.target)
        if message.target in self.down:
            return
        if session is not None:
            self.perform(message.target, session.receive(peer, token, self.now_us))
            return
        requester = self.requesters.get((message.target, token.key.plan, token.key.epoch))
        if requester is not None:
            self.perform(message.target, requester.receive(peer, token, self.now_us), requester)

    def finish(self, job: Job, fault: bool = False) -> None:
        self.jobs.remove(job)
        if job.session is not self.sessions[job.node] or job.node in self.down:
            return
        self.stage_faults += fault
        result = Fault("stage_failed", "broke") if fault else self.compute(job)
        self.perform(job.node, job.session.computed(job.compute.work, result, self.now_us))

    def compute(self, job: Job) -> Computed:
        compute = job.compute
        key = compute.work.key
        plan = self.plans[key.plan, key.epoch]
        assert job.node in plan.stages[compute.stage].nodes
        inputs = tuple(compute.inputs)
        skipped = frozenset(e for e in compute.out_edges if not passes(plan, e, key.request))
        made = {e: ("out", key, compute.stage, e, inputs) for e in compute.out_edges if e not in skipped}
        return Computed(made, skipped, Hop(compute.stage, job.node, compute_us=1))

    def cancel(self, request: Request) -> None:
        self.perform(
            request.requester.name, request.requester.cancel(request.id, self.now_us), request.requester
        )

    def kill(self, node: str) -> None:
        """The node's memory is gone; what it has sent may still arrive."""
        self.down.add(node)
        self.jobs = [job for job in self.jobs if job.node != node]

    def revive(self, node: str) -> None:
        self.down.discard(node)
        self.sessions[node] = Session(node, self.limits)
        for (name, epoch), plan in self.plans.items():
            session = self.sessions[node]
            if any(ref.name == node for ref in plan.nodes):
                session.reserve(plan, epoch, "test", self.now_us, session.current(name))
                session.prepare(name, epoch, plan.digest, "test", self.now_us)
                session.commit(name, epoch, plan.digest, "test", self.now_us)
        for requester in self.requesters.values():
            requester.node_back(node)

    def sever(self, one: str, other: str) -> None:
        """The link breaks: what is on the way is lost, and both ends notice."""
        ends = frozenset((one, other))
        self.messages = [m for m in self.messages if {m.source, m.target} != ends]
        for end, peer in ((one, other), (other, one)):
            self.notice(end, peer)

    def notice(self, end: str, peer: str) -> None:
        """One end sees that its link is gone."""
        if end in self.down:
            return
        if end in self.sessions:
            self.perform(end, self.sessions[end].peer_lost(peer, self.now_us))
        for (name, _, _), requester in list(self.requesters.items()):
            if name == end and peer in self.sessions:
                self.perform(end, requester.node_lost(peer, self.now_us), requester)

    def suspect(self, end: str, peer: str) -> None:
        """A node finds a peer silent; what it sends there may arrive all the same."""
        if end in self.sessions and end not in self.down:
            self.suspects.add((end, peer))
            self.perform(end, self.sessions[end].peer_suspected(peer, self.now_us))

    def advance(self, by_us: int) -> None:
        """Let time pass; every timer goes off when it is due."""
        until = self.now_us + by_us
        while True:
            machines: list[Any] = [s for n, s in self.sessions.items() if n not in self.down]
            machines += self.requesters.values()
            due = [(at, i) for i, m in enumerate(machines) if (at := m.next_wakeup_us()) is not None]
            if not due or min(due)[0] > until:
                break
            at, index = min(due)
            self.now_us = max(self.now_us, at)
            machine = machines[index]
            if isinstance(machine, Session):
                self.perform(machine.node, machine.tick(self.now_us))
            else:
                self.perform(machine.name, machine.tick(self.now_us), machine)
            again = machine.next_wakeup_us()
            assert again is None or again > self.now_us, "a timer that has gone off is still due"
        self.now_us = until

    def settle(self) -> None:
        """Deliver and compute until nothing moves."""
        while self.messages or self.jobs:
            if self.messages:
                self.deliver(self.messages[0])
            else:
                self.finish(self.jobs[0])

    # --- what machines ask for -----------------------------------------------

    def perform(self, name: str, actions: list, requester: Requester | None = None) -> None:
        for action in actions:
            if isinstance(action, Send):
                assert action.peer != name
                if frozenset((name, action.peer)) in self.cut:
                    self.bounce(name, action, requester)
                else:
                    self.messages.append(Message(name, action.peer, action.token))
                    if (name, action.peer) in self.suspects:
                        self.perform(name, self.sessions[name].doubtful(action.token))
            elif isinstance(action, Compute):
                self.jobs.append(Job(name, self.sessions[name], action))
            elif isinstance(action, Resolve):
                request = self.requests[action.request]
                request.outcomes.append(action.outcome)
                request.resolved_us = self.now_us
                assert len(request.outcomes) == 1, "answered twice"
                assert self.now_us <= request.deadline_us + GRAIN_US, "resolved after its deadline"
                if isinstance(action.outcome, Answer):
                    self.check(request, action.outcome)
            elif isinstance(action, Drop):
                dropped = [j for j in self.jobs if j.node == name and j.compute.work == action.work]
                self.jobs = [job for job in self.jobs if job not in dropped]
            else:
                assert isinstance(action, Free)

    def bounce(self, name: str, action: Send, requester: Requester | None) -> None:
        if requester is not None:
            more: list = requester.undeliverable(action.peer, action.token, self.now_us)
        else:
            more = self.sessions[name].undeliverable(action.token, self.now_us)
        self.perform(name, more, requester)

    # --- what must hold ------------------------------------------------------

    def check(self, request: Request, answer: Answer) -> None:
        requester = request.requester
        key = (requester.plan.name, requester.epoch)
        wiring = self.wirings[key]
        if answer.absent is None:
            explain(self.plans[key], wiring, wiring.output_edge, answer.payload, request.id, answer.attempt)
            route = answer.path
            for hop in answer.hops:
                assert hop.node == route[hop.stage]
        assert len(answer.path) == len(requester.plan.stages)

    def check_consistent(self) -> None:
        """Books of every machine agree with themselves."""
        for session in self.sessions.values():
            attempts = session._attempts
            live = [s for s in attempts if s.shelf is Shelf.LIVE]
            assert attempts.live == len(live) == session.in_flight <= self.limits.attempts
            assert attempts.tombstones <= self.limits.tombstones
            assert len(list(attempts)) == attempts.live + attempts.tombstones
            for state in attempts:
                assert bool(state.joins) == (state.shelf is Shelf.LIVE)
                for index, join in state.joins.items():
                    assert not state.settled >> index & 1
                    assert not state.closed
                    if join.phase is Phase.WAITING:
                        assert join.missing == sum(t is None for t in join.tokens)
            for info in session._deployments._loaded.values():
                mine = [s for s in live if s.loaded is info]
                assert info.live == len(mine) == sum(info.live_by_requester.values())
                assert sum(info.admitted.values()) == sum(s.admitted for s in mine)
                assert info.live <= self.limits.rooms_per_credit * info.credits
            assert not session._flow._looped
        for requester in self.requesters.values():
            tries = [t for r in requester._requests.values() for t in r.tries.values() if not t.over]
            assert requester._credits.used() == len(tries)
            load: dict[str, int] = {}
            for attempt in tries:
                for node in attempt.way.route:
                    load[node] = load.get(node, 0) + 1
            assert {n: c for n, c in requester._router._load.items() if c} == load

    def check_empty(self) -> None:
        """Nothing is left after every deadline: first no attempt, and a little later no tombstone."""
        last = max((r.deadline_us for r in self.requests.values()), default=0)
        self.advance(max(0, last - self.now_us) + 2 * GRAIN_US)
        for request in self.requests.values():
            assert len(request.outcomes) == 1, "not resolved at its deadline"
        for session in self.up():
            assert session.in_flight == 0
        self.advance(self.limits.linger_us + 2_000_000)
        for session in self.up():
            assert session.tombstones == 0
            assert not list(session._attempts)
            assert session.next_wakeup_us() is None
            assert len(session._flow.waits) == 0
            assert not session._attempts._live_by_requester
        for requester in self.requesters.values():
            assert requester.in_flight == 0
            assert requester._credits.used() == 0
            assert requester.next_wakeup_us() is None
        self.check_consistent()

    def up(self) -> list[Session]:
        return [session for name, session in self.sessions.items() if name not in self.down]


def passes(plan: Plan, edge: int, request: bytes) -> bool:
    """Whether an edge's guard lets a request's value through: one measure for each source and request."""
    guard, source = plan.edges[edge].guard, plan.edges[edge].source
    return guard is None or bool(request[plan.stage_index(source) % 16] & 1) == (guard.when == "at_least")


def explain(plan: Plan, wiring: Wiring, edge: int, term: Any, request: bytes, attempt: int) -> None:
    """Assert that the dataflow of one attempt can put ``term`` on ``edge``."""
    wired = wiring.edges[edge]
    if wired.source == OUTSIDE:
        assert term[0] == "in"
        assert term[1] == plan.name
        assert term[3:] == (request, edge)
        return
    kind, key, stage, on, inputs = term
    assert (kind, key.request, key.attempt, stage, on) == ("out", request, attempt, wired.source, edge)
    assert passes(plan, edge, request)
    spec = wiring.stages[stage]
    assert tuple(e for e, _ in inputs) == spec.in_edges
    given = [(e, value) for e, value in inputs if value is not None]
    assert len(given) >= spec.need
    for e, value in given:
        explain(plan, wiring, e, value, request, attempt)
        assert value[0] == "in" or value[1] == key


def expected_kind(plan: Plan, wiring: Wiring, request: bytes) -> Kind:
    """What the answer is when nothing goes wrong."""
    carries: dict[int, bool] = {}
    fires: dict[int, bool] = {}
    for index in wiring.order:
        stage = wiring.stages[index]
        for e in stage.in_edges:
            source = wiring.edges[e].source
            carries[e] = source == OUTSIDE or (fires[source] and passes(plan, e, request))
        fires[index] = sum(carries[e] for e in stage.in_edges) >= stage.need
    output = wiring.output_edge
    value = fires[wiring.edges[output].source] and passes(plan, output, request)
    return Kind.VALUE if value else Kind.ABSENT
