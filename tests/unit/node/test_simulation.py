"""Whole clusters under random orders of delivery, loss, duplication, death and time."""

from __future__ import annotations

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from collab.client.actions import Answer
from collab.client.policy import RetryPolicy
from collab.core.token import Fault, Hop, Kind
from collab.node.session import SessionLimits
from tests.unit.node.network import Message, Network, expected_kind
from tests.unit.node.plans import chain, plans

RELAXED = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], print_blob=True
)
LONG_US = 60_000_000

ids = st.binary(min_size=16, max_size=16)


def scripts(steps):
    """A step for every three bytes: what to do, and a number that chooses to what."""
    return (
        st.integers(0, 4)
        .flatmap(lambda n: st.binary(min_size=120 * n, max_size=120 * n))
        .map(
            lambda data: [
                (steps[a % len(steps)], b << 8 | c) for a, b, c in zip(*[iter(data)] * 3, strict=True)
            ]
        )
    )


def pick(items, number):
    return items[number % len(items)] if items else None


@settings(RELAXED, max_examples=200)
@given(
    plan=plans(),
    other=plans(),
    requests=st.lists(ids, min_size=1, max_size=5, unique=True),
    order=scripts("mmmmjjjdt"),
)
def test_without_faults_every_request_is_answered_as_the_dataflow_says(plan, other, requests, order):
    net = Network()
    net.deploy(plan, 1)
    net.deploy(other, 2)
    clients = [
        net.requester(name, p, epoch) for name, p, epoch in (("r", plan, 1), ("q", plan, 1), ("r", other, 2))
    ]
    for client in clients:
        net.lease(client, 16)
    for i, request in enumerate(requests):
        assert net.submit(clients[i % 3], request, LONG_US) is None
    copies = 0
    for what, number in order:
        if what == "m" and net.messages:
            net.deliver(pick(net.messages, number))
        elif what == "d" and net.messages and copies < 30:
            copies += 1
            net.hand_over(pick(net.messages, number))
        elif what == "j" and net.jobs:
            net.finish(pick(net.jobs, number))
        elif what == "t":
            net.advance(1000 * (number % 64))
        net.check_consistent()
    for _ in range(20):
        net.settle()
        net.advance(100_000)
    for request in requests:
        client = net.requests[request].requester
        key = (client.plan.name, client.epoch)
        kind = expected_kind(net.plans[key], net.wirings[key], request)
        (outcome,) = net.requests[request].outcomes
        assert isinstance(outcome, Answer), outcome
        assert (outcome.absent is None) == (kind is Kind.VALUE)
    for session in net.up():
        refused = {
            k: v for k, v in session.counters.items() if v and k not in ("duplicates", "late", "cancelled")
        }
        assert not refused
    net.check_empty()


@settings(RELAXED, max_examples=200)
@given(plan=plans(credits=4, replicas=1), order=scripts("mmmjjjst"), seed=ids)
def test_on_links_that_keep_the_order_a_tight_lease_is_never_refused(plan, order, seed):
    net = Network()
    net.deploy(plan, 1)
    clients = [net.requester(name, plan, 1) for name in "rq"]
    for client in clients:
        net.lease(client, 2)
    serial = 0
    for what, number in order + [("s", n) for n in range(8)]:
        if what == "s":
            serial += 1
            client = clients[number % 2]
            free = client.available(net.now_us)
            assert (net.submit(client, bytes([serial]) + seed[1:], LONG_US) is None) == (free > 0)
        elif what == "m" and net.messages:
            links = list(dict.fromkeys((m.source, m.target) for m in net.messages))
            link = pick(links, number)
            net.deliver(next(m for m in net.messages if (m.source, m.target) == link))
        elif what == "j" and net.jobs:
            net.finish(pick(net.jobs, number))
        elif what == "t":
            net.advance(1000 * (number % 64))
        if serial % 8 == 7:
            net.check_consistent()
    for _ in range(20):
        net.settle()
        net.advance(100_000)
    assert all(isinstance(r.outcomes[0], Answer) for r in net.requests.values())
    assert not any(session.counters["no_lease"] for session in net.up())
    net.check_empty()


@settings(RELAXED, max_examples=100)
@given(
    order=scripts("mmmjjjst"),
    victim=st.sampled_from("abcdef"),
    dies=st.integers(0, 60),
    noticed=st.sampled_from([0, 0, 7, 30]),
    far=st.booleans(),
)
def test_with_replicas_and_a_retry_a_node_that_dies_costs_no_answer(order, victim, dies, noticed, far):
    # Far: the requester has no link of its own to the nodes in the middle.
    plan = chain(("a", "b"), ("c", "d"), ("e", "f"))
    net = Network(retry=RetryPolicy(max_attempts=2))
    net.deploy(plan, 1)
    client = net.requester("r", plan, 1)
    net.lease(client, 32)
    serial = 0
    for at, (what, number) in enumerate([("s", 0)] * 4 + order + [("t", 1)] * 100 + [("s", 0)] * 4):
        if at == dies:
            net.kill(victim)
        if at == dies + noticed:
            ends = [*net.sessions, "r"] if not far or victim in "abef" else [*net.sessions]
            net.cut = {frozenset((end, victim)) for end in ends}
            for end in ends:
                net.notice(end, victim)
        if what == "s":
            serial += 1
            assert (
                net.submit(client, bytes([serial]) * 16, LONG_US) is None or client.available(net.now_us) == 0
            )
        elif what == "m" and net.messages:
            net.deliver(pick(net.messages, number))
        elif what == "j" and net.jobs:
            net.finish(pick(net.jobs, number))
        elif what == "t":
            net.advance(1000 * (number % 64))
        net.check_consistent()
    for _ in range(20):
        net.settle()
        net.advance(100_000)
    for request in net.requests.values():
        (outcome,) = request.outcomes
        assert isinstance(outcome, Answer), outcome
    net.check_empty()


STEPS = (
    ["deliver"] * 12
    + ["finish"] * 8
    + ["submit"] * 5
    + [
        "pass",
        "pass",
        "cancel",
        "lose",
        "copy",
        "copy",
        "fail",
        "kill",
        "revive",
        "sever",
        "cut",
        "mend",
        "notice",
        "suspect",
        "suspect",
        "trust",
    ]
    + ["lease", "retire", "unload", "drain", "forge", "forge", "mangle", "mangle"]
)


class Script:
    """Interprets steps on a network; numbers choose among what is there."""

    def __init__(self, net, clients):
        self.net = net
        self.clients = clients
        self.serial = 0

    def run(self, what, number):
        getattr(self, what)(number)
        self.net.check_consistent()

    def deliver(self, number):
        if self.net.messages:
            self.net.deliver(pick(self.net.messages, number))

    def finish(self, number):
        if self.net.jobs:
            self.net.finish(pick(self.net.jobs, number))

    def fail(self, number):
        if self.net.jobs:
            self.net.finish(pick(self.net.jobs, number), fault=True)

    def submit(self, number):
        self.serial += 1
        request = bytes([self.serial, number & 255]) + bytes((number >> i) & 255 for i in range(14))
        self.net.submit(pick(self.clients, number), request, (5_000, 50_000, 400_000)[number % 3])

    def cancel(self, number):
        self.net.cancel(pick(list(self.net.requests.values()), number)) if self.net.requests else None

    def lose(self, number):
        if self.net.messages:
            self.net.messages.remove(pick(self.net.messages, number))

    def copy(self, number):
        if self.net.messages:
            self.net.messages.append(pick(self.net.messages, number))

    def kill(self, number):
        self.net.kill(pick(sorted(self.net.sessions), number))

    def revive(self, number):
        if self.net.down:
            self.net.revive(pick(sorted(self.net.down), number))

    def ends(self, number):
        names = sorted(self.net.sessions) + sorted({c.name for c in self.clients})
        one = pick(names, number)
        return one, pick([n for n in names if n != one], number // 7)

    def sever(self, number):
        self.net.sever(*self.ends(number))

    def notice(self, number):
        self.net.notice(*self.ends(number))

    def suspect(self, number):
        self.net.suspect(*self.ends(number))

    def trust(self, number):
        self.net.suspects.clear()

    def cut(self, number):
        self.net.cut.add(frozenset(self.ends(number)))

    def mend(self, number):
        self.net.cut.clear()

    def lease(self, number):
        self.net.lease(pick(self.clients, number), number % 5)

    def retire(self, number):
        session = pick(self.net.up(), number)
        if session and session.epochs("p"):
            session.retire("p", pick(session.epochs("p"), number))

    def unload(self, number):
        session = pick(self.net.up(), number)
        if number % 5 == 0 and session and session.epochs("p"):
            self.net.perform(
                session.node, session.unload("p", pick(session.epochs("p"), number), self.net.now_us)
            )

    def drain(self, number):
        session = pick(self.net.up(), number)
        if number % 7 == 0 and session:
            session.drain()

    def forge(self, number):
        """A true token from somebody who has no business to send it."""
        if self.net.messages:
            message = pick(self.net.messages, number)
            names = sorted({*self.net.sessions, "mallory"} - {message.source, message.target})
            self.net.hand_over(Message(pick(names, number // 3), message.target, message.token))

    def mangle(self, number):
        """A stranger sends any nonsense."""
        if not self.net.messages:
            return
        message = pick(self.net.messages, number)
        token = message.token
        changes = (
            {"requester": "mallory"},
            {"edge": number % 12},
            {"edge": -1, "requester": "mallory"},
            {"route": token.route[1:]},
            {"route": ("mallory", *token.route[1:]), "requester": "mallory"},
            {"kind": Kind(1 + number // 9 % 5), "fault": None, "requester": "mallory"},
            {"kind": Kind.FAILED, "fault": Fault("node_lost", "", "nobody"), "requester": "mallory"},
            {"hops": (Hop(0, "n0"),) * 9, "requester": "mallory"},
            {"key": token.key._replace(epoch=7)},
            {"key": token.key._replace(attempt=5), "requester": "mallory"},
            {"deadline_us": 0, "requester": "mallory"},
        )
        self.net.hand_over(Message("mallory", message.target, replace(token, **pick(changes, number // 5))))

    def __getattr__(self, name):
        assert name == "pass"
        return lambda number: self.net.advance((200, 5_000, 60_000)[number % 3])


@settings(RELAXED, max_examples=400)
@given(
    plan=plans(credits=3),
    other=plans(credits=64),
    attempts=st.integers(1, 3),
    small=st.booleans(),
    script=scripts(STEPS),
)
def test_under_any_faults_a_request_ends_once_and_in_time_and_is_answered_right(
    plan, other, attempts, small, script
):
    limits = (
        SessionLimits(attempts=4, attempts_per_requester=3, tombstones=3, routes=2)
        if small
        else SessionLimits()
    )
    net = Network(limits, RetryPolicy(max_attempts=attempts, grace_us=20_000))
    net.deploy(plan, 1)
    net.deploy(other, 2)
    clients = [
        net.requester(name, p, epoch) for name, p, epoch in (("r", plan, 1), ("q", plan, 1), ("r", other, 2))
    ]
    for client in clients:
        net.lease(client, 4)
    steps = Script(net, clients)
    for number in range(3):
        steps.run("submit", number)
    for what, number in script:
        steps.run(what, number)
    net.settle()
    net.check_empty()
    for request in net.requests.values():
        outcome = request.outcomes[0]
        event(outcome.code if isinstance(outcome, Fault) else f"answer {outcome.attempt} {outcome.absent}")
