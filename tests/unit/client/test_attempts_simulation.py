"""Whole clusters with replicas that die, come back, are slow: nothing lost, nothing twice, all paid for."""

from __future__ import annotations

from hypothesis import event, given
from hypothesis import strategies as st

from collab.client.actions import Answer
from collab.client.latency import ENOUGH
from collab.client.policy import RetryPolicy
from collab.client.requester import Requester
from tests.unit.node.network import Network
from tests.unit.node.plans import chain
from tests.unit.node.test_simulation import LONG_US, RELAXED, pick, scripts

STAGES = (("a", "b"), ("c", "d"), ("e", "f"))


def extra(client: Requester) -> int:
    return client.counters["retries"] + client.counters["hedged"]


class Cluster:
    """Three stages with two replicas each, at most one of them down; links keep the order."""

    def __init__(self, retry: RetryPolicy, credits: int, warm: bool) -> None:
        self.net = Network(retry=retry)
        self.net.deploy(chain(*STAGES), 1)
        self.client = self.net.requester("r", self.net.plans["p", 1], 1)
        self.net.lease(self.client, credits)
        self.serial = 0
        self.start_us = self.net.now_us
        if warm:
            for _ in range(ENOUGH):
                self.submit()
                self.net.advance(5_000)
                self.net.settle()

    def submit(self) -> bool:
        self.serial += 1
        request = self.serial.to_bytes(2, "big") * 8
        return self.net.submit(self.client, request, LONG_US) is None

    def run(self, what: str, number: int) -> None:
        net = self.net
        if what == "s":
            self.submit()
        elif what == "m" and net.messages:
            link = pick(list(dict.fromkeys((m.source, m.target) for m in net.messages)), number)
            net.deliver(next(m for m in net.messages if (m.source, m.target) == link))
        elif what == "j" and net.jobs:
            net.finish(pick(net.jobs, number))
        elif what == "t":
            net.advance(1000 * (number % 64))
        elif what == "k":
            pair = STAGES[number % 3]
            if not net.down.intersection(pair):
                self.kill(pair[number // 3 % 2])
        elif what == "b" and net.down:
            self.revive(pick(sorted(net.down), number))
        net.check_consistent()

    def kill(self, node: str) -> None:
        """A process dies, and everybody who had a link to it sees that."""
        self.net.kill(node)
        for end in (*self.net.sessions, "r"):
            if end != node:
                self.net.cut.add(frozenset((end, node)))
        for end in (*self.net.sessions, "r"):
            if end != node:
                self.net.sever(end, node)

    def revive(self, node: str) -> None:
        self.net.cut = {ends for ends in self.net.cut if node not in ends}
        self.net.revive(node)
        if node in STAGES[0]:
            self.net.sessions[node].lease("p", 1, "r", 8, self.net.now_us)

    def finish(self) -> None:
        for _ in range(30):
            self.net.settle()
            self.net.advance(100_000)


@RELAXED
@given(order=scripts("mmmmmmjjjjsstkb"), hedge=st.booleans(), credits=st.integers(1, 8))
def test_while_each_stage_has_a_node_no_request_is_lost_or_answered_twice(order, hedge, credits):
    cluster = Cluster(RetryPolicy(max_attempts=16, hedge=hedge), credits, warm=hedge)
    for what, number in [("s", 0)] * 4 + order:
        cluster.run(what, number)
    cluster.finish()
    for request in cluster.net.requests.values():
        (outcome,) = request.outcomes
        assert isinstance(outcome, Answer), outcome
    event(f"retries {min(cluster.client.counters['retries'], 5)}")
    event(f"hedged {min(cluster.client.counters['hedged'], 5)}")
    event(f"waited {min(cluster.client.counters['waited'], 5)}")
    cluster.net.check_empty()


@RELAXED
@given(
    order=scripts("mmmmjjjsssttkkbb"),
    hedge=st.booleans(),
    burst=st.integers(0, 4),
    floor=st.sampled_from([0.0, 10.0]),
    ratio=st.sampled_from([0.0, 0.1]),
    attempts=st.integers(1, 4),
)
def test_attempts_keep_to_their_number_and_their_budget(order, hedge, burst, floor, ratio, attempts):
    retry = RetryPolicy(
        max_attempts=attempts,
        hedge=hedge,
        budget_burst=burst,
        budget_floor_per_s=floor,
        budget_ratio=ratio,
    )
    cluster = Cluster(retry, 8, warm=hedge)
    for what, number in [("s", 0)] * 4 + order:
        cluster.run(what, number)
        for asked in cluster.client._requests.values():
            assert len(asked.tries) <= attempts
            assert len(asked.live()) <= (2 if hedge else 1)
    cluster.finish()
    seconds = (cluster.net.now_us - cluster.start_us) / 1e6
    submitted = len(cluster.net.requests)
    assert extra(cluster.client) <= burst + floor * seconds + ratio * submitted + 1e-6
    assert cluster.client.counters["hedged"] <= submitted
    assert all(len(request.outcomes) == 1 for request in cluster.net.requests.values())
    event(f"extra {min(extra(cluster.client), 5)}, unpaid {min(cluster.client.counters['unpaid'], 5)}")
    cluster.net.check_empty()
