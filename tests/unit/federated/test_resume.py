"""A server that is killed anywhere goes on to the same model, bit for bit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.federated.test_rounds import NAMES, task
from tests.unit.federated.world import World

MODES = {
    "sync": task(),
    "quorum": task(cohort={"select": "random", "count": 2, "over_selection": 1.5}),
    "discount": task(
        cohort={"select": "random", "count": 2, "over_selection": 2},
        round={"late": {"policy": "discount"}},
        rounds=3,
    ),
    "secure": task(secure_aggregation=True, rounds=2),
    "async": task(mode="async", buffered={"buffer": 2, "concurrency": 3}, rounds=4),
}


def finished(mode, at=(), power=False):
    world = World(MODES[mode], NAMES)
    world.disk.fuse.at, world.disk.fuse.power = set(at), power
    world.run()
    return world


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("mode", MODES)
def test_killed_within_any_write_it_ends_with_the_same_bits(mode, power):
    whole = finished(mode)
    assert whole.finish.outcome == "done"
    # Both kinds everywhere take long; all but one task take them in turn.
    first, step = (1, 1) if mode == "sync" else (1 + 3 * power, 6) if mode == "secure" else (1 + power, 2)
    for at in range(first, whole.disk.fuse.burnt + 1, step):
        world = finished(mode, [at], power)
        assert world.kills == 1
        assert (at, world.finish, world.model) == (at, whole.finish, whole.model)
        assert [r.model for r in world.records.values()] == [r.model for r in whole.records.values()]
        for name, client in world.clients.items():
            assert set(client.trainings.values()) <= {1}, "trained twice"
            assert client.state == whole.clients[name].state


@given(st.sampled_from(sorted(MODES)), st.sets(st.integers(1, 250), max_size=5), st.booleans())
@settings(max_examples=25)
def test_killed_again_and_again_also_while_it_resumes_it_ends_with_the_same_bits(mode, at, power):
    world, whole = finished(mode, at, power), finished(mode)
    assert (world.finish, world.model) == (whole.finish, whole.model)
    assert all(set(client.trainings.values()) <= {1} for client in world.clients.values())


def test_killed_while_messages_are_under_way_it_ends_with_the_same_bits():
    whole = World(MODES["sync"], NAMES, delay=0.05).run()
    for at in range(1, whole.disk.fuse.burnt + 1, 7):
        world = World(MODES["sync"], NAMES, delay=0.05)
        world.disk.fuse.at = {at}
        assert world.run().model == whole.model
