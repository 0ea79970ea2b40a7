"""A chain under load in virtual time: real requesters, sessions and queues, stages that only take time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from collab.client.actions import Answer, Resolve, Send
from collab.client.policy import RetryPolicy
from collab.client.requester import Requester
from collab.core.token import Hop, Priority
from collab.emulation.workers import StageWorker
from collab.errors import Overloaded
from collab.node.queue import Job
from collab.node.session import Compute, Computed, Drop, Session
from tests.unit.node.plans import chain

SERVICE_US = 20_000
LINK_US = 500
TICK_US = 2_000
RENEW_US = 200_000


@dataclass
class Client:
    """A requester and what became of what it asked."""

    requester: Requester
    ends: list[tuple[str, Priority, int]] = field(default_factory=list)
    """How each request ended, its class, and after how many µs."""
    asked: dict[bytes, tuple[Priority, int]] = field(default_factory=dict)

    def count(self, end: str, priority: Priority | None = None) -> int:
        return sum(e == end and priority in (None, p) for e, p, _ in self.ends)

    def share(self, end: str, priority: Priority | None = None) -> float:
        return self.count(end, priority) / max(1, sum(priority in (None, p) for _, p, _ in self.ends))


class Stage:
    """The worker of one node."""

    def __init__(self, world: World, node: str) -> None:
        self.world, self.node = world, node
        self.worker = StageWorker()
        self.most = 0

    def expected_us(
        self, plan: Any, epoch: Any, stage: int, priority: Priority, requester: Any
    ) -> int | None:
        return self.worker.expected_us(priority, requester, self.world.now_us) if self.world.refuse else None

    def submit(self, c: Compute) -> None:
        self.worker.submit(c, self.world.now_us)
        self.most = max(self.most, len(self.worker))
        self.kick(c.out_edges)

    def kick(self, out_edges: Any) -> None:
        if self.worker.ready and (job := self.worker.begin(self.world.now_us)) is not None:
            service_us = round(SERVICE_US * self.world.chance.uniform(0.8, 1.2))
            self.world.after(service_us, lambda: self.done(job, service_us, out_edges))

    def done(self, job: Job, service_us: int, out_edges: Any) -> None:
        self.worker.end()
        self.worker.finished(job.work, service_us)
        hop: Any = Hop(job.work.stage, self.node, compute_us=service_us)
        result = Computed(dict.fromkeys(out_edges, "made"), frozenset(), hop)
        session = self.world.sessions[self.node]
        self.world.perform(self.node, session.computed(job.work, result, self.world.now_us))
        self.kick(out_edges)


class World:
    """Nodes ``a``, ``b`` and ``c`` with a stage each, and clients that ask at random times."""

    def __init__(self, names: str, *, refuse: bool = True, credits: int = 64, seed: int = 1) -> None:
        self.now_us, self.refuse, self.chance = 0, refuse, Random(seed)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()
        self.plan = chain("a", "b", "c", credits=credits)
        self.stages = {node: Stage(self, node) for node in "abc"}
        self.sessions: dict[str, Any] = {}
        for node, stage in self.stages.items():
            name: Any = node
            self.sessions[node] = Session(name, expected=stage.expected_us)
            self.sessions[node].restore(self.plan, 1, 0)
        retry = RetryPolicy(refuse_hopeless=refuse)
        self.clients = {}
        for name in names:
            requester: Any = Requester(name, self.plan, 1, retry)
            self.clients[name] = Client(requester)
        self._lease()
        self._tick()

    def after(self, us: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_us + int(us), next(self._numbers), what))

    def run(self, seconds: float) -> None:
        until = self.now_us + int(seconds * 1e6)
        while self._events[0][0] <= until:
            self.now_us, _, what = heapq.heappop(self._events)
            what()
        self.now_us = until

    def ask(
        self, name: str, rate: float, deadline_us: int, classes: dict[Priority, float] | None = None
    ) -> None:
        """Let a client ask so many a second from now on."""
        client, kinds = self.clients[name], classes or {Priority.NORMAL: 1.0}

        def one() -> None:
            (priority,) = self.chance.choices(list(kinds), list(kinds.values()))
            request = next(self._numbers).to_bytes(16, "big")
            client.asked[request] = priority, self.now_us
            try:
                self.perform(
                    name,
                    client.requester.submit(
                        request,
                        {0: "x"},
                        self.now_us,
                        self.now_us + deadline_us,
                        priority=priority,
                    ),
                )
            except Overloaded:
                client.ends.append(("overloaded", priority, 0))
            self.after(self.chance.expovariate(rate) * 1e6, one)

        self.after(self.chance.expovariate(rate) * 1e6, one)

    def forget(self) -> None:
        """Count anew from now on."""
        for client in self.clients.values():
            client.ends.clear()

    def perform(self, name: str, actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.after(LINK_US, lambda send=action: self._deliver(name, send))  # type: ignore[misc]
            elif isinstance(action, Compute):
                self.stages[name].submit(action)
            elif isinstance(action, Drop):
                self.stages[name].worker.drop(action.work)
            elif isinstance(action, Resolve):
                client = self.clients[name]
                priority, start_us = client.asked.pop(action.request)
                end = "answered" if isinstance(action.outcome, Answer) else action.outcome.code
                client.ends.append((end, priority, self.now_us - start_us))

    def _deliver(self, source: Any, send: Send) -> None:
        peer = send.peer
        machine = self.sessions[peer] if peer in self.sessions else self.clients[peer].requester
        self.perform(peer, machine.receive(source, send.token, self.now_us))

    def _tick(self) -> None:
        machines = {name: client.requester for name, client in self.clients.items()} | self.sessions
        for name, machine in machines.items():
            due_us = machine.next_wakeup_us()
            if due_us is not None and due_us <= self.now_us:
                self.perform(name, machine.tick(self.now_us))
        self.after(TICK_US, self._tick)

    def _lease(self) -> None:
        for name, client in self.clients.items():
            short = client.requester.short
            lease = self.sessions["a"].lease("p", 1, name, self.plan.credits, self.now_us, short)
            client.requester.leased(lease.granted, lease.expires_us)
        self.after(RENEW_US, self._lease)
