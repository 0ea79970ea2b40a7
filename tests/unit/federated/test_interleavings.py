"""Whatever order events come in, forged and repeated ones among them, a run keeps its promises and ends."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.core.ids import Digest
from collab.federated import actions as do
from collab.federated import entries
from collab.federated import events as on
from collab.federated.journal import MemoryJournal
from collab.federated.ledger import Ledger
from collab.federated.orders import Capabilities, OrderId, UpdateRef
from collab.federated.rounds import Rounds
from tests.unit.federated.test_rounds import task

NAMES = [f"c{i}" for i in range(5)]
TASKS = [
    task(clients={"minimum": 3}),
    task(clients={"minimum": 3}, round={"on_lack": "skip"}),
    task(cohort={"select": "random", "count": 3, "over_selection": 1.4}, round={"quorum": 0.6}),
    task(cohort={"select": "available", "count": 2}, round={"late": {"policy": "discount"}}),
    task(mode="async", buffered={"buffer": 2, "concurrency": 3, "max_staleness": 1}),
    task(round={"on_lack": "fail", "quorum": 1.0}, quarantine={"rounds": 1}),
    task(secure_aggregation=True, round={"on_lack": "skip", "quorum": 0.6}),
    task(secure_aggregation={"threshold": 3}, round={"extensions": 3}),
]


class Monkey:
    """Answers what the server asks in any order, or not at all, and tells it what was never asked."""

    def __init__(self, task, seed):
        self.chance = random.Random(seed)
        self.malice = self.chance.choice([0.02, 0.1, 0.5])
        """How often something goes wrong."""
        self.task = task
        self.journal = MemoryJournal()
        self.rounds = self.server()
        self.now = 0.0
        self.open: list[on.Event] = []
        """What could come next."""
        self.writing: list[int] = []
        """Steps on their way to the disk."""
        self.asked: set[tuple[str, OrderId]] = set()
        self.finish = None
        self.aggregated: list[do.Aggregate] = []
        self.take(self.begin())

    def server(self):
        return Rounds(self.task, self.journal.read())

    def begin(self):
        return self.rounds.begin("run", Digest("0" * 64), Digest("1" * 64), 8, 0.0)

    def take(self, actions):
        for action in actions:
            assert self.finish is None, f"{action} after the end"
            match action:
                case do.Persist(step, entry):
                    self.journal.append(entry)
                    self.writing.append(step)
                    if isinstance(entry, entries.Asked):
                        order = OrderId("run", entry.round, entry.attempt)
                        new = {(client, order) for client in entry.clients}
                        assert not self.asked & new, "an order's name was used before"
                        self.asked |= new
                case do.Offer(client, order, work):
                    assert (client, order) in self.asked
                    assert work.deadline_s >= 0
                    self.open += [
                        on.Accepted(client, order),
                        on.Announced(client, order, Digest("a" * 64), 8),
                    ]
                    if self.goes_wrong():
                        self.open += [on.Declined(client, order, "busy"), on.Failed(client, order, "broke")]
                case do.Send(client, order):
                    self.open += [on.Sent(client, order, 8), on.Announced(client, order, Digest("a" * 64), 8)]
                case do.Fetch(client, order, digest):
                    self.open.append(on.Arrived(client, order, UpdateRef(digest, 8, 3)))
                    if self.goes_wrong():
                        self.open.append(on.Refused(client, order, "w", "nan"))
                case do.Agree(round_, clients, attempt):
                    assert len(clients) >= 3
                    self.open += [on.Agreed(round_, some, attempt) for some in (clients[1:], clients)]
                    self.open += [on.AggregationFailed(round_, "no keys", attempt)] * self.goes_wrong()
                case do.Sum(round_, clients):
                    assert not self.rounds.ledger.total, "a sum is opened once"
                    self.open += [on.Summed(round_, Digest("4" * 64))] * 2
                    self.open += [on.AggregationFailed(round_, "too few stay")] * self.goes_wrong()
                case do.Aggregate():
                    self.check_aggregate(action)
                    self.open += [on.Aggregated(action.round, Digest("2" * 64), 8)] * 2
                    self.open += [on.AggregationFailed(action.round, "too few")] * self.goes_wrong()
                case do.Evaluate(round_, _, clients):
                    self.open += [on.Evaluated(round_, client, 3, {"loss": 1.0}) for client in clients]
                    self.open += [on.EvaluationFailed(round_, client, "gone") for client in clients]
                case do.Finish():
                    self.finish = action

    def check_aggregate(self, action):
        keys = [(update.client, update.order) for update in action.updates]
        assert len(set(keys)) == len(keys)
        assert set(keys) <= self.asked
        before = {
            (u.client, u.order)
            for made in self.aggregated
            if made.round != action.round
            for u in made.updates
        }
        assert not before & set(keys), "counted twice"
        self.aggregated.append(action)
        assert (action.total is None) == (self.task.secure is None)
        fresh = [update for update in action.updates if update.order.round == action.round]
        late = [action.round - update.order.round for update in action.updates]
        if self.task.mode == "async":
            assert len(keys) >= self.task.round.quorum_of(2)
            assert max(late) <= 1 + 1  # one more where the round ended while it was being written
        else:
            assert len(fresh) >= self.rounds.ledger.quorum
            assert self.task.round.late.policy == "discount" or len(fresh) == len(keys)

    def tell(self, event):
        self.take(self.rounds.handle(event, self.now))

    def goes_wrong(self):
        return self.chance.random() < self.malice

    def step(self):
        draw = self.chance.random()
        if self.writing and draw < 0.4:
            self.tell(on.Persisted(self.writing.pop(0)))
        elif self.open and draw < 0.8:
            at = self.chance.randrange(len(self.open))
            self.tell(self.open[at] if self.chance.random() < 0.2 else self.open.pop(at))
        elif self.goes_wrong():
            self.tell(self.nonsense())
        else:
            self.now += 400 if self.goes_wrong() else self.chance.choice([0.1, 1, 10])
            self.tell(on.Tick())

    def nonsense(self):
        client = self.chance.choice(NAMES)
        order = OrderId(
            self.chance.choice(["run", "dead"]), self.chance.randint(0, 5), self.chance.randint(0, 2)
        )
        update = UpdateRef(Digest("b" * 64), 8, 1)
        return self.chance.choice(
            [
                on.Joined(client, Capabilities(samples=3, willing=self.chance.random() < 0.9)),
                on.Left(client),
                on.Arrived(client, order, update),
                on.Announced(client, order, Digest("b" * 64), 8),
                on.Accepted(client, order),
                on.Refused(client, order, "w", "nan"),
                on.Failed(client, order, "broke"),
                on.Aggregated(order.round, Digest("3" * 64), 8) if order.run == "dead" else on.Tick(),
                on.Agreed(order.round, (client,)),
                on.Evaluated(order.round, client, 3, {"loss": float("nan")}),
                on.Persisted(1000),
                on.Released(client),
            ]
        )

    def crash(self):
        """The server dies with whatever was on its way; all that was begun to be written had come through."""
        self.writing, self.open = [], []
        self.rounds = self.server()
        self.take(self.begin())
        for client in NAMES:
            if self.finish is None:
                self.tell(on.Joined(client, Capabilities(samples=3)))

    def let_time_pass(self):
        """Nobody answers any more; deadlines alone have to bring the run to its end."""
        for _ in range(400):
            if self.finish is not None:
                return
            if self.writing:
                self.tell(on.Persisted(self.writing.pop(0)))
                continue
            summing = self.rounds.ledger.total is None and self.task.secure is not None
            wanted = on.Summed if summing else on.Aggregated
            aggregating = [event for event in self.open if isinstance(event, wanted)]
            if self.rounds.ledger.closing is not None and aggregating:
                self.open.clear()
                self.tell(aggregating[-1])
                continue
            wake = self.rounds.wake_at
            assert wake is not None, "it waits for nothing"
            self.now = max(self.now, wake)
            self.tell(on.Tick())
        pytest.fail("no end in 400 steps")


def plain(ledger: Ledger):
    return msgspec.to_builtins(ledger, order="deterministic") | {"tried": sorted(ledger.tried)}


@given(st.integers(0, 2**32), st.sampled_from(range(len(TASKS))), st.integers(0, 400), st.booleans())
def test_any_order_of_events_keeps_the_promises(seed, which, steps, crashes):
    monkey = Monkey(TASKS[which], seed)
    for client in NAMES:
        if monkey.finish is None:
            monkey.tell(on.Joined(client, Capabilities(samples=3)))
    for _ in range(steps):
        if monkey.finish is not None:
            break
        if crashes and monkey.chance.random() < 0.02:
            monkey.crash()
        else:
            monkey.step()
    if monkey.finish is None:
        monkey.let_time_pass()
    assert plain(monkey.journal.read()) == plain(monkey.rounds.ledger)
    assert (monkey.finish.exit_code == 0) == (monkey.finish.outcome == "done")
