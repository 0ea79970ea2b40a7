"""A client's machine: one order at a time, one training an order, state settled by the server's word."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.core.ids import Digest
from collab.federated import participant as part
from collab.federated.orders import OrderId, Work
from collab.federated.update import LocalTraining

MODEL, UPDATE = Digest("1" * 64), Digest("2" * 64)
FIRST, SECOND = OrderId("run", 1), OrderId("run", 2)


def work(counted=None, deadline_s=60.0):
    return Work(MODEL, LocalTraining(), deadline_s, counted=counted)


def ready(order=FIRST):
    """A client whose update of an order is ready."""
    client = part.Participant()
    for event in (part.Offered(order, work()), part.ModelCame(order), part.Finished(order, UPDATE, 8)):
        client.handle(event, 0.0)
    return client


def test_an_order_goes_from_offer_to_acknowledgement():
    client = part.Participant()
    phases = [client.phase]
    actions = []
    for event in (
        part.Offered(FIRST, work()),
        part.ModelCame(FIRST),
        part.Finished(FIRST, UPDATE, 8),
        part.Acknowledged(FIRST, counted=True),
    ):
        actions += client.handle(event, 0.0)
        phases.append(client.phase)
    assert phases == ["idle", "fetching", "training", "uploading", "done"]
    kept = part.Standing(order=FIRST, digest=UPDATE, bytes=8)
    assert actions == [
        part.Accept(FIRST),
        part.Train(FIRST, work()),
        part.Remember(kept),
        part.Announce(FIRST, UPDATE, 8),
        part.Settle(FIRST, keep=True),
        part.Remember(part.Standing(order=FIRST, digest=UPDATE, bytes=8, settled=True)),
    ]


def test_a_repeated_offer_goes_on_where_the_client_is():
    client = part.Participant()
    offer = part.Offered(FIRST, work())
    client.handle(offer, 0.0)
    assert client.handle(offer, 1.0) == [part.Accept(FIRST)]
    client.handle(part.ModelCame(FIRST), 1.0)
    assert client.handle(offer, 2.0) == [], "it trains already"
    client.handle(part.Finished(FIRST, UPDATE, 8), 3.0)
    assert client.handle(offer, 4.0) == [part.Announce(FIRST, UPDATE, 8)]
    client.handle(part.Acknowledged(FIRST, counted=True), 5.0)
    assert client.handle(offer, 6.0) == [part.Announce(FIRST, UPDATE, 8)]


def test_a_model_that_comes_twice_is_trained_once():
    client = part.Participant()
    client.handle(part.Offered(FIRST, work()), 0.0)
    assert client.handle(part.ModelCame(FIRST), 0.0) == [part.Train(FIRST, work())]
    assert client.handle(part.ModelCame(FIRST), 0.0) == []


def test_what_the_policy_forbids_is_declined_with_its_reason():
    client = part.Participant()
    assert client.handle(part.Offered(FIRST, work(), "not charging"), 0.0) == [
        part.Decline(FIRST, "not charging")
    ]
    assert client.phase == "idle"


def test_an_order_from_before_and_one_of_another_run_while_it_is_busy_are_declined():
    client = part.Participant()
    client.handle(part.Offered(SECOND, work()), 0.0)
    assert client.handle(part.Offered(FIRST, work()), 0.0) == [part.Decline(FIRST, "round 1 is over here")]
    other = OrderId("other", 1)
    assert client.handle(part.Offered(other, work()), 0.0) == [part.Decline(other, "busy with run run")]
    assert client.order == SECOND


def test_a_dead_servers_order_ends_with_its_time_and_another_run_may_come():
    client = part.Participant()
    client.handle(part.Offered(FIRST, work(deadline_s=5)), 10.0)
    assert client.wake_at == 15.0
    assert client.handle(part.Tick(), 14.0) == []
    assert client.handle(part.Tick(), 15.0) == [part.Stop(FIRST), part.Tell(FIRST, "its time has passed")]
    assert client.handle(part.Offered(OrderId("other", 1), work()), 16.0) == [
        part.Accept(OrderId("other", 1))
    ]


@pytest.mark.parametrize(("counted", "keep"), [(FIRST, True), (None, False), (OrderId("run", 0), False)])
def test_a_missed_acknowledgement_is_made_up_for_by_the_next_offer(counted, keep):
    client = ready()
    actions = client.handle(part.Offered(SECOND, work(counted)), 0.0)
    assert actions == [part.Settle(FIRST, keep=keep), part.Free(UPDATE), part.Accept(SECOND)]


def test_a_newer_order_ends_the_one_that_is_trained():
    client = part.Participant()
    client.handle(part.Offered(FIRST, work()), 0.0)
    client.handle(part.ModelCame(FIRST), 0.0)
    assert client.handle(part.Offered(SECOND, work()), 0.0) == [part.Stop(FIRST), part.Accept(SECOND)]
    assert client.handle(part.Finished(FIRST, UPDATE, 8), 0.0) == [], "of an order that is over"
    assert client.phase == "fetching"


def test_a_cancelled_order_ends_and_its_state_is_forgotten():
    client = part.Participant()
    client.handle(part.Offered(FIRST, work()), 0.0)
    client.handle(part.ModelCame(FIRST), 0.0)
    assert client.handle(part.Cancelled(FIRST, "over"), 0.0) == [part.Stop(FIRST)]
    assert client.phase == "idle"
    client = ready()
    assert part.Settle(FIRST, keep=False) in client.handle(part.Cancelled(FIRST, "over"), 0.0)
    assert client.phase == "done"


def test_training_that_fails_is_told():
    client = part.Participant()
    client.handle(part.Offered(FIRST, work()), 0.0)
    client.handle(part.ModelCame(FIRST), 0.0)
    assert client.handle(part.Broke(FIRST, "out of memory"), 0.0) == [part.Tell(FIRST, "out of memory")]
    assert client.phase == "idle"


def test_a_restarted_client_announces_what_it_had_made():
    client = part.Participant(part.Standing(order=FIRST, digest=UPDATE, bytes=8))
    assert client.handle(part.Offered(FIRST, work()), 0.0) == [part.Announce(FIRST, UPDATE, 8)]
    settled = part.Participant(part.Standing(order=FIRST, digest=UPDATE, bytes=8, settled=True))
    actions = settled.handle(part.Offered(SECOND, work(FIRST)), 0.0)
    assert actions == [part.Free(UPDATE), part.Accept(SECOND)], "settled once only"


@given(st.integers(0, 2**32))
def test_in_any_order_of_events_an_update_is_made_once_and_settled_once(seed):
    chance = random.Random(seed)
    client = part.Participant()
    trained, settled = [], []
    running: set = set()
    for now in range(60):
        order = OrderId(chance.choice(["run", "other"]), chance.randint(1, 4))
        event = chance.choice(
            [
                part.Offered(order, work(chance.choice([None, order])), chance.choice(["", "", "busy"])),
                part.ModelCame(order),
                part.Finished(order, UPDATE, 8),
                part.Broke(order, "broke"),
                part.Acknowledged(order, chance.random() < 0.5),
                part.Cancelled(order, "over"),
                part.Tick(),
            ]
        )
        before = client.phase
        for action in client.handle(event, float(now)):
            match action:
                case part.Train(of):
                    assert not running, "two at a time"
                    running.add(of)
                case part.Stop(of):
                    running.discard(of)
                case part.Remember(standing) if not standing.settled:
                    running.discard(standing.order)
                    trained.append(standing.order)
                case part.Tell(of):
                    running.discard(of)
                case part.Settle(of):
                    settled.append(of)
        assert (client.phase == "training") == bool(running), (before, event)
    assert len(settled) <= len(trained)
    if client.phase != "uploading":
        assert len(settled) == len(trained)
