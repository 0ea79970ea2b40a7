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

Lend = Callable[[NodeName, NodeName, int, bool], "Lease | None"]
"""Asks an entry node for so many credits of a requester, which may have been short of some; None if the
node cannot be reached."""
Resolved = Callable[["Asker", int, int, "Answer | str"], None]
"""Gets the request's number, its start, and its answer or the code of its error."""

_RENEW_US = 10_000_000
"""A third of a lease; these pauses are those of `collab.client.runner`."""
_AGAIN_US = 100_000
"""Where a node gave no answer."""
_PAUSE_US = 50_000
"""Where a node refused what the lease allows."""
_SHORT_PAUSE_US = 200_000
"""At least, between a lease that was not enough and the next."""
_NEVER = float("inf")


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
        self._leased_us = 0
        self._renew_us = _NEVER
        self._granted = 0
        self._entries: tuple[NodeName, ...] = self._requester.needs_renewal(0)
        self._all_held = min(credits * len(self._entries), max(plan.credits, len(self._entries)))

    def open(self) -> None:
        """Lease credits, and keep them."""
        self._renew(self._renew_us)

    def _renew_by(self, when_us: float) -> None:
        """Lease again at a time, if not before."""
        if when_us < self._renew_us:
            self._renew_us = when_us
            self._clock.at(when_us, self._renew, when_us)

    def _renew(self, due_us: float) -> None:
        if due_us != self._renew_us:
            return  # another time was earlier
        self._renew_us = _NEVER
        self._leased_us = self._clock.now_us
        short = self._requester.short
        leases = [self._lease(node, short) for node in self._entries]
        self._granted = sum(granted or 0 for granted in leases)
        gone = None in leases or not self._granted
        self._renew_by(self._leased_us + (_AGAIN_US if gone else _RENEW_US))

    def _lease(self, node: NodeName, short: bool) -> int | None:
        """Credits that an entry node gave; None if it cannot be reached."""
        lease = self._lend(node, self.name, self._credits, short)
        if lease is None:
            return None
        self._requester.leased(lease.granted, lease.expires_us, node)
        self._requester.node_back(node)
        return lease.granted

    def _renew_if_short(self) -> None:
        """Lease again where a node refused what the last lease allows, or others hold what is missing."""
        if self._requester.in_doubt:
            self._renew_by(self._clock.now_us + _PAUSE_US)
        elif self._requester.short and self._granted < self._all_held:
            self._renew_by(max(self._clock.now_us, self._leased_us + _SHORT_PAUSE_US))

    def ask(self, number: int, budget_us: int) -> None:
        """Start a request."""
        now = self._clock.now_us
        request = RequestId(number.to_bytes(16, "big"))
        self._starts[request] = (number, now)
        try:
            actions = self._requester.submit(request, dict.fromkeys(self._edges, True), now, now + budget_us)
        except RequestError as error:
            del self._starts[request]
            self._renew_if_short()
            self._resolved(self, number, now, error.code)
            return
        self._perform(actions)

    def receive(self, peer: NodeName, token: Token) -> None:
        """A token came out of the event loop."""
        self._perform(self._requester.receive(peer, token, self._clock.now_us))

    def peer_lost(self, peer: NodeName) -> None:
        """A node cannot be reached."""
        self._perform(self._requester.node_lost(peer, self._clock.now_us))

    def peer_suspected(self, peer: NodeName) -> None:
        """A node is silent: as good as lost until it is heard."""
        self.peer_lost(peer)

    def peer_back(self, peer: NodeName) -> None:
        """It can be reached again."""
        if peer in self._entries:
            self._lease(peer, self._requester.short)
        else:
            self._requester.node_back(peer)

    def _tick(self, now_us: int) -> None:
        self._perform(self._requester.tick(now_us))

    def _perform(self, actions: list[Action]) -> None:
        todo: Iterator[Action] = iter(actions)
        for action in todo:
            if isinstance(action, Send):
                if self._transmit(self.name, action.peer, action.token) is None:
                    self._perform(
                        self._requester.undeliverable(action.peer, action.token, self._clock.now_us)
                    )
                continue
            number, start_us = self._starts.pop(action.request)
            outcome = action.outcome
            self._resolved(self, number, start_us, outcome.code if isinstance(outcome, Fault) else outcome)
        self._renew_if_short()
        self._timer.arm()
