"""A client in the simulator: the real requester, under a workload."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from collab.client.actions import Action, Answer, Send
from collab.client.policy import RetryPolicy
from collab.client.requester import Requester
from collab.core.ids import EdgeId, NodeName, RequestId
from collab.core.plan import Plan
from collab.core.token import Fault, Token
from collab.emulation.clock import Clock
from collab.emulation.machines import EPOCH, Loop, Timer, Transmit
from collab.errors import RequestError
from collab.node.leases import Lease

Lend = Callable[[NodeName, NodeName, int], "Lease | None"]
"""Asks an entry node for credits of a requester; None if it cannot be reached."""
Resolved = Callable[["Asker", int, int, "Answer | str"], None]
"""Gets the request's number, its start, and its answer or the code of its error."""

_RENEW_US = 10_000_000
"""A third of a lease, as real clients do."""
_AGAIN_US = 100_000


class Asker:
    """One client process: leases credits, asks, and says what came of it."""

    def __init__(
        self,
        name: NodeName,
        host: str,
        plan: Plan,
        *,
        clock: Clock,
        loop: Loop,
        transmit: Transmit,
        lend: Lend,
        resolved: Resolved,
        retry: RetryPolicy,
        chance: Random,
        credits: int,
    ) -> None:
        self.name = name
        self.host = host
        self.loop = loop
        self._clock, self._transmit = clock, transmit
        self._lend, self._resolved = lend, resolved
        self._requester = Requester(name, plan, EPOCH, retry, chance)
        self._edges = [EdgeId(i) for i, edge in enumerate(plan.edges) if edge.source == "@requester"]
        self._starts: dict[RequestId, tuple[int, int]] = {}
        self._credits = credits
        self._timer = Timer(clock, self._requester.next_wakeup_us, self._tick)
        self._renewing = False
        self._entries: tuple[NodeName, ...] = self._requester.needs_renewal(0)

    def open(self) -> None:
        """Lease credits, and keep them."""
        self._renew()

    def _renew(self) -> None:
        self._renewing = False
        now = self._clock.now_us
        missing = False
        for node in self._entries:
            lease = self._lend(node, self.name, self._credits)
            if lease is None:
                missing = True
            else:
                self._requester.leased(lease.granted, lease.expires_us, node)
                self._requester.node_back(node)
        self._renew_at(now + (_AGAIN_US if missing else _RENEW_US))

    def _renew_at(self, when_us: int) -> None:
        if not self._renewing:
            self._renewing = True
            self._clock.at(when_us, self._renew)

    def ask(self, number: int, budget_us: int) -> None:
        """Start a request."""
        now = self._clock.now_us
        request = RequestId(number.to_bytes(16, "big"))
        self._starts[request] = (number, now)
        try:
            actions = self._requester.submit(request, dict.fromkeys(self._edges, True), now, now + budget_us)
        except RequestError as error:
            del self._starts[request]
            self._resolved(self, number, now, error.code)
            return
        self._perform(actions)

    def receive(self, peer: NodeName, token: Token) -> None:
        """A token came out of the event loop."""
        self._perform(self._requester.receive(peer, token, self._clock.now_us))

    def peer_lost(self, peer: NodeName) -> None:
        """A node cannot be reached, or is silent."""
        self._perform(self._requester.node_lost(peer, self._clock.now_us))

    def peer_back(self, peer: NodeName) -> None:
        """It can be reached again."""
        if peer in self._entries:
            lease = self._lend(peer, self.name, self._credits)
            if lease is None:
                return
            self._requester.leased(lease.granted, lease.expires_us, peer)
        self._requester.node_back(peer)

    def _tick(self, now_us: int) -> None:
        self._perform(self._requester.tick(now_us))

    def _perform(self, actions: list[Action]) -> None:
        todo: Iterator[Action] = iter(actions)
        for action in todo:
            if isinstance(action, Send):
                if not self._transmit(self.name, action.peer, action.token):
                    self._perform(
                        self._requester.undeliverable(action.peer, action.token, self._clock.now_us)
                    )
                continue
            number, start_us = self._starts.pop(action.request)
            outcome = action.outcome
            self._resolved(self, number, start_us, outcome.code if isinstance(outcome, Fault) else outcome)
        if self._requester.in_doubt:
            self._renew_at(self._clock.now_us + _AGAIN_US // 2)
        self._timer.arm()
