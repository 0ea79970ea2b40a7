"""The server's machine, driven with real clients' machines in virtual time."""

from __future__ import annotations

import pytest

from collab.core.ids import Digest
from collab.errors import ConfigError
from collab.federated import actions as do
from collab.federated import events as on
from collab.federated.ledger import Ledger
from collab.federated.orders import Capabilities, OrderId, UpdateRef
from collab.federated.rounds import Rounds
from collab.federated.task import convert_task
from tests.unit.federated.world import World

NAMES = [f"c{i}" for i in range(4)]
NEVER = 1e9


def task(**fields):
    return convert_task({"name": "toy", "model": "m", "rounds": 3, "clients": {"minimum": 4}} | fields)


def took(world, round_):
    return [part.client for part in world.records[round_].took_part]


def left_out(world, round_):
    return {out.client: out.kind for out in world.records[round_].left_out}


def notices(world, kind):
    return [notice for notice in world.notices if notice.kind == kind]


# --- synchronous rounds ---------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_every_client_takes_part_in_every_round_and_trains_once(delay):
    world = World(task(), NAMES, delay=delay).run()
    assert (world.finish.outcome, world.finish.exit_code, world.finish.rounds) == ("done", 0, 3)
    assert sorted(world.records) == [1, 2, 3]
    assert [took(world, n) for n in (1, 2, 3)] == [NAMES] * 3
    assert all(set(client.trainings.values()) == {1} for client in world.clients.values())
    assert all(len(client.trainings) == 3 for client in world.clients.values())
    assert {counted for _, _, counted in world.acknowledged} == {True}


def test_a_record_tells_bytes_loss_seconds_and_evaluation():
    record = World(task(), NAMES).run().records[2]
    assert (record.up_bytes, record.down_bytes) == (4 * 40, 4 * 40)
    assert record.loss == 1.0
    assert record.samples == 40
    assert record.seconds == pytest.approx(1 + 3 / 8)
    assert record.evaluation == {"accuracy": 0.2, "samples": 40.0}
    assert record.present == 4


def test_the_same_seed_gives_the_same_model_and_another_one_does_not():
    first, second, other = (World(task(seed=seed), NAMES).run().model for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_a_round_closes_at_its_deadline_with_those_that_came():
    world = World(task(round={"deadline_s": 10}), NAMES)
    world.clients["c3"].seconds = NEVER
    world.run()
    assert [took(world, n) for n in (1, 2, 3)] == [["c0", "c1", "c2"]] * 3
    assert left_out(world, 1) == {"c3": "late"}
    assert world.records[1].seconds == pytest.approx(10)


def test_more_are_asked_than_are_wanted_and_the_slowest_are_left_out():
    world = World(task(cohort={"select": "random", "count": 2, "over_selection": 2}), NAMES).run()
    assert [took(world, n) for n in (1, 2, 3)] == [["c0", "c1"]] * 3
    assert left_out(world, 1) == {"c2": "late", "c3": "late"}
    world.deliver()
    assert world.clients["c3"].machine.phase == "idle"
    assert not world.clients["c3"].trainings, "it was told to stop"


def test_one_that_declines_or_fails_is_replaced():
    world = World(task(cohort={"select": "random", "count": 2}), NAMES)
    world.clients["c0"].refusal = world.clients["c1"].refusal = "on battery"
    world.run()
    assert [took(world, n) for n in (1, 2, 3)] == [["c2", "c3"]] * 3
    reasons = {out.reason for record in world.records.values() for out in record.left_out}
    assert reasons == {"on battery"}


def test_a_round_that_lacks_its_quorum_goes_on_and_asks_again():
    world = World(task(round={"deadline_s": 10, "quorum": 1.0}), NAMES)
    world.clients["c3"].here = False
    world.clients["c3"].seconds = 2
    world.later(0.5, lambda: _comes(world, "c3"))
    world.clients["c2"].refusal = "busy"
    world.later(15, lambda: setattr(world.clients["c2"], "refusal", ""))
    world.run()
    assert world.records[1].extensions == 2
    assert took(world, 1) == NAMES
    assert len(notices(world, "lack")) == 2
    assert world.finish.exit_code == 0


def _comes(world, name):
    world.clients[name].here = True
    world.feed(on.Joined(name, world.clients[name].capabilities))


def _goes(world, name):
    world.clients[name].here = False
    world.feed(on.Left(name))


@pytest.mark.parametrize(
    ("policy", "rounds", "outcome"), [("extend", 0, "failed"), ("fail", 0, "failed"), ("skip", 0, "failed")]
)
def test_without_a_quorum_in_any_round_the_run_has_failed(policy, rounds, outcome):
    world = World(task(round={"deadline_s": 10, "on_lack": policy, "quorum": 1.0}), NAMES)
    world.clients["c3"].seconds = NEVER
    world.run()
    assert (world.finish.outcome, world.finish.exit_code, world.finish.rounds) == (outcome, 1, rounds)
    assert not world.aggregated


def test_a_skipped_round_leaves_the_model_and_the_next_one_goes_on():
    world = World(task(round={"deadline_s": 10, "on_lack": "skip", "quorum": 1.0}), NAMES)
    world.clients["c3"].seconds = 12
    world.later(9.5, lambda: setattr(world.clients["c3"], "seconds", 1))
    world.run()
    assert [world.records[n].outcome for n in (1, 2, 3)] == ["skipped", "made", "made"]
    assert left_out(world, 1) == {"c0": "skipped", "c1": "skipped", "c2": "skipped", "c3": "late"}
    assert world.records[1].reason == "3 of 4 updates by the deadline"
    assert (world.finish.exit_code, world.finish.rounds) == (0, 2)


def test_too_few_clients_fail_as_peers_that_cannot_be_reached():
    world = World(task(), NAMES)
    world.clients["c3"].here = False
    world.run()
    assert (world.finish.outcome, world.finish.exit_code) == ("failed", 3)
    assert "needs 4 clients: 3 connected" in world.finish.reason
    assert world.now == pytest.approx(60)


def test_a_late_update_counts_in_the_next_round_with_its_staleness():
    world = World(task(round={"deadline_s": 10, "late": {"policy": "discount"}}), NAMES)
    world.clients["c3"].seconds = 11
    world.run()
    assert took(world, 2) == NAMES
    assert [part.staleness for part in world.records[2].took_part] == [0, 0, 0, 1]
    assert world.clients["c3"].settled[0][1] is True


def test_an_update_that_is_too_late_is_dropped_and_its_client_told():
    rules = {"deadline_s": 10, "late": {"policy": "discount", "max_staleness": 1}}
    world = World(task(rounds=4, round=rules, cohort={"select": "random", "count": 3}), NAMES)
    for client in world.clients.values():
        client.seconds = 1
    world.clients["c0"].seconds = NEVER
    world.run()
    kinds = [out.kind for record in world.records.values() for out in record.left_out if out.client == "c0"]
    assert "late" in kinds
    assert all("c0" not in took(world, n) for n in world.records)


# --- bad clients ---------------------------------------------------------------------


def test_a_refused_client_is_named_left_out_for_some_rounds_and_comes_back():
    world = World(task(rounds=6, quarantine={"rounds": 2}), NAMES)
    world.clients["c1"].poison = True
    world.later(1.2, lambda: setattr(world.clients["c1"], "poison", False))
    world.run()
    assert left_out(world, 1) == {"c1": "refused"}
    assert world.records[1].left_out[0].field == "w"
    assert world.records[1].quarantined == ("c1",)
    assert [("c1" in took(world, n)) for n in range(1, 7)] == [False, False, False, True, True, True]
    assert "not asked until round 4" in notices(world, "quarantined")[0].text
    assert [notice.client for notice in notices(world, "returned")] == ["c1"]
    assert world.clients["c1"].settled[0][1] is False, "it keeps the state from before the bad update"


def test_one_in_quarantine_for_good_comes_back_by_hand():
    world = World(task(rounds=5, quarantine={"rounds": None}), NAMES)
    world.clients["c1"].poison = True
    world.later(1.2, lambda: setattr(world.clients["c1"], "poison", False))
    world.later(3.0, lambda: world.feed(on.Released("c1")))
    world.run()
    assert [("c1" in took(world, n)) for n in range(1, 6)] == [False, False, False, True, True]


def test_refusals_below_the_threshold_do_not_put_a_client_out():
    world = World(task(rounds=4, quarantine={"after": 2}), NAMES)
    world.clients["c1"].poison = True
    world.run()
    assert [record.quarantined for record in world.records.values()] == [(), ("c1",), ("c1",), ("c1",)]
    assert len(notices(world, "refused")) == 1


def test_if_everybody_is_in_quarantine_the_run_fails_by_its_own_fault():
    world = World(task(), NAMES)
    for client in world.clients.values():
        client.poison = True
    world.run()
    assert (world.finish.outcome, world.finish.exit_code) == ("failed", 1)


# --- clients that come and go ----------------------------------------------------------


def test_a_client_that_comes_back_in_mid_round_goes_on_and_does_not_train_again():
    world = World(task(round={"deadline_s": 30}), NAMES)
    world.later(1.1, lambda: _goes(world, "c3"))
    world.later(5, lambda: _comes(world, "c3"))
    world.run()
    assert took(world, 1) == NAMES
    assert set(world.clients["c3"].trainings.values()) == {1}
    assert world.records[1].seconds == pytest.approx(5)


def test_a_client_process_that_was_killed_before_its_upload_sends_the_same_update():
    world = World(task(), NAMES, delay=0.05)
    whole = World(task(), NAMES, delay=0.05).run()

    def killed():
        client = world.clients["c3"]
        assert client.standing is not None
        _goes(world, "c3")
        client.restart()

    world.later(1.375 + 0.2 + 0.01, killed)
    world.later(5, lambda: _comes(world, "c3"))
    world.run()
    assert set(world.clients["c3"].trainings.values()) == {1}
    assert world.model == whole.model


def test_a_client_process_that_was_killed_in_training_trains_anew():
    world = World(task(), NAMES)
    whole = World(task(), NAMES).run()

    def killed():
        _goes(world, "c3")
        world.clients["c3"].restart()

    world.later(1.0, killed)
    world.later(2, lambda: _comes(world, "c3"))
    world.run()
    assert world.model == whole.model
    assert took(world, 1) == NAMES


# --- asynchronous rounds -------------------------------------------------------------


def test_a_buffer_makes_the_next_model_and_slow_clients_go_on():
    world = World(task(mode="async", rounds=6, buffered={"buffer": 2, "concurrency": 4}), NAMES)
    world.clients["c3"].seconds = 3.3
    world.run()
    assert all(len(world.records[n].took_part) == 2 for n in world.records)
    slow = [p.staleness for r in world.records.values() for p in r.took_part if p.client == "c3"]
    assert slow
    assert min(slow) > 0
    assert world.finish.exit_code == 0


def test_concurrency_bounds_how_many_train_at_a_time():
    world = World(task(mode="async", rounds=6, buffered={"buffer": 2, "concurrency": 2}), NAMES)
    world.run()
    assert world.most_training == 2


def test_an_older_update_than_allowed_is_dropped():
    rules = {"buffer": 1, "concurrency": 4, "max_staleness": 1}
    world = World(task(mode="async", rounds=8, buffered=rules), NAMES)
    world.clients["c3"].seconds = 2.9
    world.run()
    stale = [p.staleness for record in world.records.values() for p in record.took_part]
    assert max(stale) <= 1
    assert any(out.kind == "late" for record in world.records.values() for out in record.left_out)


def test_a_client_that_hangs_in_asynchronous_rounds_is_given_up_at_its_deadline():
    rules = {"buffer": 2, "concurrency": 4}
    world = World(task(mode="async", rounds=6, buffered=rules, round={"deadline_s": 2.5}), NAMES)
    world.clients["c3"].seconds = NEVER
    world.run()
    assert world.finish.exit_code == 0
    assert any("c3" in left_out(world, n) for n in world.records)


# --- the end -----------------------------------------------------------------------


def test_a_run_ends_when_its_target_is_reached():
    world = World(task(rounds=9, target={"value": 0.2}), NAMES).run()
    assert (world.finish.exit_code, world.finish.rounds) == (0, 2)
    assert "accuracy 0.2 reached" in world.finish.reason


def test_a_target_that_is_missed_is_a_failure():
    world = World(task(target={"value": 0.9}), NAMES).run()
    assert (world.finish.outcome, world.finish.exit_code, world.finish.rounds) == ("failed", 1, 3)


def test_a_spent_budget_ends_the_run_as_refused_by_policy():
    world = World(task(), NAMES, spent=lambda models: "epsilon 8 is spent" if models == 2 else "").run()
    assert (world.finish.outcome, world.finish.exit_code, world.finish.rounds) == ("spent", 4, 2)
    assert world.finish.reason == "epsilon 8 is spent"


def test_a_stopped_run_goes_on_to_the_same_model():
    whole = World(task(), NAMES).run()
    world = World(task(), NAMES)
    world.later(2.0, lambda: world.feed(on.StopAsked()))
    world.run()
    assert (world.finish.outcome, world.finish.exit_code) == ("stopped", 1)
    world.finish = None
    world.kill()
    assert world.run().model == whole.model
    assert world.records[2].resumed == 1


def test_a_finished_run_that_is_resumed_is_finished():
    world = World(task(), NAMES).run()
    first, world.finish = world.finish, None
    world.kill()
    assert world.finish == first


def test_a_run_is_not_resumed_with_another_task():
    rounds, _, _ = driven()
    with pytest.raises(ConfigError, match="task: it has changed"):
        Rounds(task(), rounds.ledger).begin("run", Digest("f" * 64), Digest("1" * 64), 8, 0.0)


def test_evaluation_is_due_every_few_rounds_and_at_the_end():
    world = World(task(rounds=5, evaluation={"every": 2, "count": 2}), NAMES).run()
    assert [evaluate.round for evaluate in world.evaluated] == [2, 4, 5]
    assert {len(evaluate.clients) for evaluate in world.evaluated} == {2}
    assert [bool(world.records[n].evaluation) for n in range(1, 6)] == [False, True, False, True, True]


# --- single events -------------------------------------------------------------------


def driven(clients=(Capabilities(samples=9),) * 4, **fields):
    """A server whose entries are durable at once, its clients here; and all its actions."""
    rounds = Rounds(task(**fields), Ledger())
    done = []

    def take(actions):
        for action in actions:
            done.append(action)
            if isinstance(action, do.Persist):
                take(rounds.handle(on.Persisted(action.step), 0.0))

    take(rounds.begin("run", Digest("0" * 64), Digest("1" * 64), 8, 0.0))
    for name, capabilities in zip(NAMES, clients, strict=False):
        take(rounds.handle(on.Joined(name, capabilities), 0.0))
    return rounds, done, take


def ref(digit="a"):
    return UpdateRef(Digest(digit * 64), 8, 9)


def test_messages_of_a_dead_incarnation_are_known_and_never_counted():
    rounds, done, take = driven()
    for order in (OrderId("dead", 1), OrderId("run", 7), OrderId("run", 1, 5)):
        done.clear()
        for event in (
            on.Accepted("c0", order),
            on.Announced("c0", order, Digest("a" * 64), 8),
            on.Arrived("c0", order, ref()),
            on.Refused("c0", order, "w", "nan"),
            on.Declined("c0", order, "no"),
            on.Failed("c0", order, "no"),
            on.Sent("c0", order, 8),
        ):
            take(rounds.handle(event, 1.0))
        assert {type(action) for action in done} == {do.Cancel, do.Acknowledge}
        assert not any(action.counted for action in done if isinstance(action, do.Acknowledge))
    assert not rounds.ledger.counted
    assert not rounds.ledger.quarantine


def test_an_update_that_is_told_twice_counts_once_and_is_acknowledged_twice():
    rounds, done, take = driven()
    order = OrderId("run", 1)
    take(rounds.handle(on.Arrived("c0", order, ref()), 1.0))
    take(rounds.handle(on.Arrived("c0", order, ref("b")), 1.0))
    take(rounds.handle(on.Announced("c0", order, Digest("a" * 64), 8), 1.0))
    assert [update.digest[0] for update in rounds.ledger.counted] == ["a"]
    acknowledged = [action.counted for action in done if isinstance(action, do.Acknowledge)]
    assert acknowledged == [True, True, True]
    assert not any(isinstance(action, do.Fetch) for action in done)


def test_an_update_is_not_counted_for_another_client():
    rounds, _, take = driven()
    take(rounds.handle(on.Arrived("stranger", OrderId("run", 1), ref()), 1.0))
    assert not rounds.ledger.counted


def test_an_offer_tells_what_is_held_so_that_only_changes_are_sent():
    rounds, done, take = driven()
    held = (Digest("5" * 64),)
    take(rounds.handle(on.Joined("c0", Capabilities(samples=9, holds=held)), 0.0))
    take(rounds.handle(on.Accepted("c0", OrderId("run", 1)), 0.0))
    assert [action.holds for action in done if isinstance(action, do.Send)] == [held]


def test_seeds_of_clients_differ_and_are_the_same_when_an_offer_is_repeated():
    rounds, done, take = driven()
    take(rounds.handle(on.Left("c0"), 0.0))
    take(rounds.handle(on.Joined("c0", Capabilities(samples=9)), 0.0))
    seeds: dict = {}
    for action in done:
        if isinstance(action, do.Offer):
            seeds.setdefault(action.client, set()).add(action.work.training.seed)
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == 4


def test_an_aggregation_that_fails_ends_the_run_unless_rounds_may_be_skipped():
    for policy, outcome in (("fail", "failed"), ("skip", None)):
        rounds, done, take = driven(round={"on_lack": policy})
        for name in NAMES:
            take(rounds.handle(on.Arrived(name, OrderId("run", 1), ref()), 1.0))
        assert [action.round for action in done if isinstance(action, do.Aggregate)] == [1]
        take(rounds.handle(on.AggregationFailed(1, "krum needs more"), 1.0))
        finishes = [action for action in done if isinstance(action, do.Finish)]
        assert [finish.outcome for finish in finishes] == ([outcome] if outcome else [])
        if policy == "skip":
            assert rounds.ledger.unrecorded.outcome == "skipped"
            assert len(rounds.ledger.unrecorded.left_out) == 4


def test_secure_aggregation_sends_no_model_before_keys_are_agreed_on():
    rounds, done, take = driven(secure_aggregation=True)
    order = OrderId("run", 1)
    for name in NAMES[:3]:
        take(rounds.handle(on.Accepted(name, order), 0.0))
    assert not any(isinstance(action, do.Agree | do.Send) for action in done)
    take(rounds.handle(on.Accepted("c3", order), 0.0))
    assert [action for action in done if isinstance(action, do.Agree)] == [do.Agree(1, tuple(NAMES))]
    take(rounds.handle(on.Agreed(1, ("c0", "c1", "c2")), 0.0))
    assert [action.client for action in done if isinstance(action, do.Send)] == ["c0", "c1", "c2"]
    assert "c3" not in rounds.ledger.asked


def secure():
    """A server whose cohort holds keys, and what it does."""
    rounds, done, take = driven(secure_aggregation=True)
    for name in NAMES:
        take(rounds.handle(on.Accepted(name, OrderId("run", 1)), 0.0))
    take(rounds.handle(on.Agreed(1, tuple(NAMES)), 0.0))
    return rounds, done, take


def only(done, kind):
    return [action for action in done if isinstance(action, kind)]


def test_the_sum_of_those_who_are_counted_is_opened_and_kept_before_the_model_is_made():
    rounds, done, take = secure()
    for name in ("c3", "c0", "c1"):
        take(rounds.handle(on.Arrived(name, OrderId("run", 1), ref()), 1.0))
    assert not only(done, do.Sum)
    take(rounds.handle(on.Tick(), 301.0))
    assert only(done, do.Sum) == [do.Sum(1, ("c0", "c1", "c3"))]
    assert not only(done, do.Aggregate)
    total = Digest("7" * 64)
    take(rounds.handle(on.Summed(1, total), 301.0))
    (aggregate,) = only(done, do.Aggregate)
    assert (aggregate.total, aggregate.expected) == (total, 4)
    assert total in rounds.ledger.blobs()
    take(rounds.handle(on.Summed(1, Digest("8" * 64)), 301.0))
    assert rounds.ledger.total == total
    take(rounds.handle(on.Aggregated(1, Digest("9" * 64), 8), 301.0))
    assert rounds.ledger.total is None


def test_a_server_that_was_killed_with_an_open_sum_goes_on_with_it_and_opens_no_other():
    rounds, _, take = secure()
    for name in NAMES:
        take(rounds.handle(on.Arrived(name, OrderId("run", 1), ref()), 1.0))
    take(rounds.handle(on.Summed(1, Digest("7" * 64)), 1.0))
    resumed, done = Rounds(task(secure_aggregation=True), rounds.ledger), []
    for action in resumed.begin("other", Digest("0" * 64), Digest("1" * 64), 8, 0.0):
        done += resumed.handle(on.Persisted(action.step), 0.0)
    assert [action.total for action in only(done, do.Aggregate)] == [Digest("7" * 64)]
    assert not only(done, do.Sum)


@pytest.mark.parametrize("phase", ["keys", "training", "opening"])
@pytest.mark.parametrize("policy", ["extend", "skip", "fail"])
def test_a_secure_round_that_lost_too_many_ends_as_the_task_says_and_the_run_goes_on(phase, policy):
    rounds, done, take = driven(secure_aggregation=True, round={"on_lack": policy, "extensions": 1})
    for name in NAMES:
        take(rounds.handle(on.Accepted(name, OrderId("run", 1)), 0.0))
    if phase == "keys":
        take(rounds.handle(on.AggregationFailed(1, "2 clients sent keys"), 0.0))
    else:
        take(rounds.handle(on.Agreed(1, tuple(NAMES)), 0.0))
    if phase == "training":
        for name in NAMES[:2]:
            take(rounds.handle(on.Failed(name, OrderId("run", 1), "broke"), 1.0))
    elif phase == "opening":
        for name in NAMES:
            take(rounds.handle(on.Arrived(name, OrderId("run", 1), ref()), 1.0))
        take(rounds.handle(on.AggregationFailed(1, "2 clients sent agreement"), 1.0))
    if policy == "skip":
        assert rounds.ledger.unrecorded.outcome == "skipped"
    elif policy == "fail":
        assert [finish.outcome for finish in only(done, do.Finish)] == ["failed"]
    else:
        assert (rounds.ledger.round, rounds.ledger.attempt, rounds.ledger.extensions) == (1, 1, 1)
        offers = [offer for offer in only(done, do.Offer) if offer.order == OrderId("run", 1, 1)]
        assert [offer.client for offer in offers] == NAMES
        (notice,) = [one for one in only(done, do.Notify) if one.kind == "lack"]
        assert notice.text.startswith("round 1 begins anew: ")
        take(rounds.handle(on.AggregationFailed(1, "of the attempt before"), 2.0))
        assert not only(done, do.Finish)


@pytest.mark.parametrize(("here", "threshold", "needed"), [(2, None, 3), (4, 6, 6)])
def test_a_secure_round_waits_for_three_clients_and_for_its_threshold(here, threshold, needed):
    rounds = Rounds(task(secure_aggregation={"threshold": threshold}, clients={"minimum": 1}))
    (begun,) = rounds.begin("run", Digest("0" * 64), Digest("1" * 64), 8, 0.0)
    done = rounds.handle(on.Persisted(begun.step), 0.0)
    for name in NAMES[:here]:
        done = [*done, *rounds.handle(on.Joined(name, Capabilities(samples=9)), 0.0)]
    assert f"needs {needed} clients" in only(done, do.Notify)[0].text
    assert not only(done, do.Persist)


def test_more_than_half_and_no_fewer_than_the_threshold_close_a_secure_round():
    over = {"select": "random", "count": 2, "over_selection": 2}
    rounds, _, _ = driven(secure_aggregation={"threshold": 2}, cohort=over)
    assert (rounds.ledger.wanted, rounds.ledger.quorum) == (3, 3)


def test_a_secure_round_begins_anew_when_the_server_that_knew_its_keys_is_gone():
    rounds, _, take = driven(secure_aggregation=True)
    for name in NAMES:
        take(rounds.handle(on.Accepted(name, OrderId("run", 1)), 0.0))
    take(rounds.handle(on.Agreed(1, tuple(NAMES)), 0.0))
    take(rounds.handle(on.Arrived("c0", OrderId("run", 1), ref()), 0.0))
    resumed = Rounds(task(secure_aggregation=True), rounds.ledger)
    for action in resumed.begin("other", Digest("0" * 64), Digest("1" * 64), 8, 0.0):
        follow = resumed.handle(on.Persisted(action.step), 0.0)
    for action in follow:
        if isinstance(action, do.Persist):
            resumed.handle(on.Persisted(action.step), 0.0)
    assert (resumed.ledger.counted, resumed.ledger.asked, resumed.ledger.attempt) == ([], {}, 1)


def selecting(*steps_s):
    """A server that asks whom it can expect to be in time, and clients with these times of a step."""
    rate = {"down_bytes_s": 1e6, "up_bytes_s": 1e6}
    clients = [Capabilities(samples=320, step_s=step_s, **rate) for step_s in steps_s]
    return driven(clients, cohort={"select": "deadline", "count": 3}, round={"deadline_s": 10})


def test_those_that_would_miss_the_deadline_are_not_asked():
    _, done, _ = selecting(0.1, 5.0, None, 0.7)
    assert {action.client for action in done if isinstance(action, do.Offer)} == {"c0", "c2", "c3"}


def test_if_all_are_too_slow_it_says_so_and_fails_by_its_own_fault():
    rounds, done, take = selecting(5.0, 5.0, 5.0, 5.0)
    assert not any(isinstance(action, do.Offer) for action in done)
    assert rounds.wake_at == 60.0
    take(rounds.handle(on.Tick(), 60.0))
    assert isinstance(done[-1], do.Finish)
    assert "4 too slow for round.deadline_s 10" in done[-1].reason
    assert done[-1].exit_code == 1


def test_a_client_may_take_as_long_as_its_round_can_last():
    _, done, _ = driven(round={"deadline_s": 10, "extensions": 3})
    assert {action.work.deadline_s for action in done if isinstance(action, do.Offer)} == {40.0}
    _, done, _ = driven(round={"deadline_s": 10, "on_lack": "skip"})
    assert {action.work.deadline_s for action in done if isinstance(action, do.Offer)} == {10.0}
