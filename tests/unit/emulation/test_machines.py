"""Nodes and clients of the simulator: that they do with their machines what real ones do."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from collab.client.policy import RetryPolicy
from collab.core.token import Kind
from collab.emulation.askers import Asker
from collab.emulation.clock import Clock
from collab.emulation.machines import COOLING_US, EPOCH, Loop, SimulatedNode, StageTime
from collab.link.suspicion import Health
from collab.node.leases import Lease
from tests.unit.node.cases import token
from tests.unit.node.plans import chain

PLAN = chain("a", "b")
TIME = StageTime(decode_us=0, compute_us=10_000, encode_us=0)


class Node:
    """Node ``a``, which requester ``r`` has leased; what it sent and how often it ran its stage."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.sent: list[tuple[str, bytes, Kind, str]] = []
        self.runs = 0
        made: Any = SimulatedNode
        self.node = made(
            "a",
            PLAN,
            {0: TIME},
            clock=self.clock,
            loop=Loop(self.clock),
            cores=1,
            transmit=self._transmit,
            skips=self._skips,
            longer=None,
        )
        self.node.session.lease("p", EPOCH, "r", 64, 0)

    def _transmit(self, source: Any, target: Any, sent: Any) -> Health:
        code = sent.fault.code if sent.fault else ""
        self.sent.append((target, sent.key.request, sent.kind, code))
        return Health.ALIVE

    def _skips(self, stage: int) -> frozenset:
        self.runs += 1
        return frozenset()

    def ask(self, number: int, kind: Kind = Kind.VALUE, **more: Any) -> None:
        self.node.receive("r", token(PLAN, 0, kind, request=bytes([number]), **more))


def test_what_is_cancelled_or_late_before_it_began_is_not_computed():
    node = Node()
    node.ask(1)
    node.ask(2)
    node.ask(3, deadline_us=5_000)
    node.ask(4)
    node.ask(2, Kind.CANCEL)
    node.clock.at(1_000_000, node.clock.stop)
    node.clock.run()
    values = [request[0] for target, request, kind, _ in node.sent if (target, kind) == ("b", Kind.VALUE)]
    assert values == [1, 4]
    assert node.runs == 2


def test_what_the_queue_leaves_no_time_for_is_refused_by_the_node():
    node = Node()
    node.ask(1)
    node.clock.at(10_001, node.ask, 2)
    node.clock.at(10_002, lambda: node.ask(3, deadline_us=25_000))
    node.clock.at(10_003, lambda: node.ask(4, deadline_us=35_000))
    node.clock.at(1_000_000, node.clock.stop)
    node.clock.run()
    assert [(request[0], code) for target, request, _, code in node.sent if target == "r"] == [
        (3, "overloaded")
    ]
    assert [request[0] for target, request, *_ in node.sent if target == "b"] == [1, 2, 4]


def test_a_client_that_was_short_of_credits_leases_again_soon_and_says_so():
    clock, leases, resolved = Clock(), [], []

    def lend(node: Any, requester: Any, want: int, short: bool) -> Lease:
        leases.append((clock.now_us, want, short))
        return Lease(1 + len(leases), clock.now_us + 30_000_000)

    made: Any = Asker
    asker = made(
        *("@me", "me", PLAN),
        clock=clock,
        loop=Loop(clock),
        transmit=lambda source, target, sent: Health.ALIVE,
        lend=lend,
        resolved=lambda asker, number, start_us, outcome: resolved.append((number, outcome)),
        retry=RetryPolicy(),
        chance=Random(1),
        credits=8,
    )
    asker.open()
    for number in range(3):
        clock.at(1000, asker.ask, number, 60_000_000)
    clock.at(1_000_000, asker.ask, 3, 60_000_000)
    clock.at(1_000_001, clock.stop)
    clock.run()
    assert resolved == [(2, "overloaded")]
    assert leases == [(0, 8, False), (200_000, 8, True)]


def test_a_loop_takes_longer_for_what_comes_after_a_pause_and_no_longer_for_what_comes_at_once():
    clock, done = Clock(), []
    loop = Loop(clock, idle_us=1_000)
    clock.at(50_000, loop.take, 100, lambda: done.append(clock.now_us))
    clock.at(50_000, loop.take, 100, lambda: done.append(clock.now_us))
    clock.at(51_200 + COOLING_US, loop.take, 100, lambda: done.append(clock.now_us))
    clock.run()
    after = done[2] - 51_200 - COOLING_US
    # A long pause, none, and one after which two thirds are due.
    assert done[:2] == pytest.approx([51_100, 51_200], abs=2)
    assert after == pytest.approx(100 + 632, abs=2)
