"""Tokens and sessions for tests of one node; names, ids and epochs are plain literals here."""

from __future__ import annotations

from typing import Any

from collab.client.actions import Send
from collab.client.wiring import entry
from collab.core.plan import Plan
from collab.core.token import Fault, Hop, Key, Kind, Token
from collab.node.flow import Expected, unknown
from collab.node.session import Compute, Computed, Session, SessionLimits

R = b"r" * 16
LATER = 10_000_000
"""A deadline."""


def bare(node: Any, limits: SessionLimits = SessionLimits()) -> Any:
    """A node without plans."""
    return Session(node, limits)


def session(
    node: Any,
    plan: Plan,
    epoch: Any = 1,
    limits: SessionLimits = SessionLimits(),
    lease: int = 64,
    expected: Expected = unknown,
) -> Any:
    """A node with a plan; where requests enter, requester ``r`` has a lease."""
    made: Any = Session(node, limits, expected)
    made.restore(plan, epoch, 0)
    if node in plan.stage(entry(plan)).nodes:
        made.lease(plan.name, epoch, "r", lease, 0)
    return made


def route(plan: Plan, *nodes: str) -> tuple[str, ...]:
    return nodes or tuple(stage.nodes[0] for stage in plan.stages)


def token(
    plan: Plan, edge: Any, kind: Kind = Kind.VALUE, *, request: Any = R, epoch: Any = 1, **more: Any
) -> Token:
    more.setdefault("route", route(plan))
    more.setdefault("requester", "r")
    more.setdefault("deadline_us", LATER)
    if kind is Kind.VALUE:
        more.setdefault("payload", f"on {edge}")
    if kind in (Kind.ERROR, Kind.FAILED):
        more.setdefault("fault", Fault("stage_failed", "broke", "elsewhere", "s"))
    return Token(Key(plan.name, epoch, request, more.pop("attempt", 0)), edge, kind, **more)


def result(compute: Compute, node: Any = "n") -> Computed:
    made = {edge: f"made for {edge}" for edge in compute.out_edges}
    return Computed(made, frozenset(), Hop(compute.stage, node))


def only(actions: list) -> Any:
    assert len(actions) == 1, actions
    return actions[0]


def sent(actions: list) -> list[tuple[str, int, Kind]]:
    """Peer, edge and kind of every token that is to be sent."""
    return [(a.peer, a.token.edge, a.token.kind) for a in actions if isinstance(a, Send)]


def counted(session: Any) -> dict[str, int]:
    return {name: count for name, count in session.counters.items() if count}
