"""What a stage's tokens bring to it."""

from __future__ import annotations

from msgspec.structs import replace

from collab.client.wiring import wire
from collab.core.ids import EdgeId
from collab.core.plan import FireQuorum
from collab.core.token import Fault, Key, Kind, Token
from collab.node.join import Event, Join
from tests.unit.node.plans import GUARD, ensemble


def token(edge: int, kind: Kind, **more: object) -> Token:
    return Token(Key("p", 1, b"r" * 16, 1), EdgeId(edge), kind, "me", ("a", "b", "c", "d"), 1_000, **more)


def test_a_member_that_kept_its_numbers_back_is_told_from_one_that_did_not_come():
    plan = ensemble(FireQuorum(k=1, wait_ms=5))
    stage = wire(plan).stages[3]
    finite = replace(GUARD, measure="finite", tensor="t-a")
    edges = [replace(plan.edges[3], guard=finite), *plan.edges[4:6]]
    join = Join(stage)
    assert join.take(token(3, Kind.ABSENT, reason="guard"), 0, stage, 0) is Event.HOLD
    assert join.take(token(4, Kind.VALUE, payload="b"), 1, stage, 0) is Event.HOLD
    assert join.payloads(edges) == [(), "b", None]
    assert join.take(token(5, Kind.ERROR, fault=Fault("node_lost", "gone")), 2, stage, 0) is Event.FIRE
    assert join.payloads(edges) == [(), "b", None]
    assert join.payloads(plan.edges[3:6]) == [None, "b", None], "only a guard of finite numbers says so"
