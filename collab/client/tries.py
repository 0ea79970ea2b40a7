"""What a requester remembers of a request under way, and of each attempt at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from collab.client.actions import Send, Tried
from collab.client.routing import Way
from collab.client.wiring import Wiring
from collab.core.ids import Attempt, EdgeId, Epoch, NodeName, PlanName, RequestId
from collab.core.token import Fault, Key, Kind, Priority, Token
from collab.errors import DeadlineExceeded, LinkLost, NodeLost, Overloaded, PeerUnreachable

_UNREACHED: Final = frozenset((NodeLost.code, LinkLost.code, PeerUnreachable.code))


class Try:
    """One attempt at a request."""

    __slots__ = (
        *("done", "entry", "given_up_us", "lost", "number", "over"),
        *("ended", "request", "start_us", "way", "why"),
    )

    def __init__(self, request: Asked, number: Attempt, way: Way, entry: NodeName, start_us: int) -> None:
        self.request = request
        self.number = number
        self.way = way
        self.entry = entry
        self.start_us = start_us
        self.lost: set[NodeName] = set()
        """Nodes that cannot serve it."""
        self.given_up_us: int | None = None
        """When it is given up because of them."""
        self.why: Fault | None = None
        self.ended: tuple[Fault, int] | None = None
        """Why and when it failed; kept for traces."""
        self.over = False
        """It holds no credit any more, and its nodes were told."""
        self.done = False
        """No answer is taken from it any more."""

    def without(self, node: NodeName, wiring: Wiring) -> Fault:
        """Why it fails when a node is lost."""
        held = [s.id for s, n in zip(wiring.stages, self.way.route, strict=True) if n == node]
        what = (
            "stages " + ", ".join(map(repr, held)) if len(held) > 1 else repr(held[0]) if held else "a relay"
        )
        message = f"node {node!r} was lost while it held {what} of the request"
        return Fault(NodeLost.code, message, node, held[0] if held else "")

    def tokens(self, plan: PlanName, epoch: Epoch, requester: NodeName, kind: Kind) -> list[Send]:
        """One token of a kind along each edge from the requester."""
        asked, made = self.request, []
        key = Key(plan, epoch, asked.id, self.number)
        for edge, node in self.way.first:
            token = Token(
                *(key, edge, kind, requester, self.way.route, asked.deadline_us),
                asked.payloads[edge] if kind is Kind.VALUE else None,
                trace=asked.trace,
                priority=asked.priority,
            )
            made.append(Send(node, token))
        return made


class Asked:
    """One request that is not resolved."""

    __slots__ = (
        *("ahead", "before", "deadline_us", "failed_before", "failed_last", "full", "hedge_us", "hedged"),
        *("id", "last_fault", "payloads", "priority", "start_us", "trace", "tries"),
    )

    def __init__(
        self,
        name: RequestId,
        payloads: Mapping[EdgeId, Any],
        start_us: int,
        deadline_us: int,
        trace: bytes,
        priority: Priority,
        ahead: int,
        before: int = 0,
    ) -> None:
        self.id = name
        self.payloads = payloads
        self.start_us = start_us
        self.deadline_us = deadline_us
        self.trace = trace
        self.priority = priority
        self.ahead = ahead
        """Requests that it may have to wait for, when it was submitted."""
        self.full: set[NodeName] = set()
        """Nodes that had too much to do for it."""
        self.before = before
        """Attempts at it that were made over other plans."""
        self.tries: dict[Attempt, Try] = {}
        self.failed_last: frozenset[NodeName] = frozenset()
        """Nodes that the last attempt lacked."""
        self.failed_before: frozenset[NodeName] = frozenset()
        """Those that attempts before it lacked."""
        self.last_fault: Fault | None = None
        self.hedge_us: int | None = None
        """When a second attempt starts if no answer has come."""
        self.hedged = False

    def unreached(self) -> list[Way]:
        """The ways tried, if the last has failed because one of its nodes did not reach another."""
        met = self.last_fault is not None and self.last_fault.code in _UNREACHED
        return [attempt.way for attempt in self.tries.values()] if met else []

    def too_late(self, plan: PlanName) -> Fault:
        """Why it fails at its deadline."""
        budget_ms = (self.deadline_us - self.start_us) / 1000
        after = f"; before that, {self.last_fault.message}" if self.last_fault is not None else ""
        return Fault(DeadlineExceeded.code, f"no answer from plan {plan!r} within {budget_ms:g} ms{after}")

    def tried(self, by: Try | None, now_us: int) -> tuple[Tried, ...]:
        """What became of each attempt, one of which has answered now or none; nothing without a trace."""
        if not self.trace:
            return ()
        found = []
        for attempt in self.tries.values():
            fault, end_us = attempt.ended or (None, now_us)
            why = "given up" if fault is None else f"{fault.code}: {fault.message}"
            said = None if attempt is by else why
            found.append(Tried(attempt.number, attempt.start_us, end_us, attempt.way.route, said))
        return tuple(found)

    def live(self) -> list[Try]:
        """Attempts that hold a credit."""
        return [attempt for attempt in self.tries.values() if not attempt.over]


def late_if_begun(fault: Fault, entry: str) -> Fault:
    """What a request ends with: refused is only what its plan's entry stage has not let in.

    One that a later stage had no time left for has cost others their turn, as one that is late.
    """
    if fault.code == Overloaded.code and fault.stage not in ("", entry):
        return Fault(DeadlineExceeded.code, fault.message, fault.node, fault.stage)
    return fault
