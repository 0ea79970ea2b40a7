"""The server's machine, driven with real clients' machines in virtual time."""

from __future__ import annotations

from collab.federated.task import convert_task
from tests.unit.federated.world import World

NAMES = [f"c{i}" for i in range(4)]


def task(**fields):
    return convert_task({"name": "toy", "model": "m", "rounds": 3, "clients": {"minimum": 4}} | fields)


def test_every_client_takes_part_in_every_round():
    world = World(task(), NAMES).run()
    assert (world.finish.outcome, world.finish.exit_code, world.finish.rounds) == ("done", 0, 3)
    assert sorted(world.records) == [1, 2, 3]
    assert [part.client for part in world.records[2].took_part] == NAMES
    assert all(times == 1 for client in world.clients.values() for times in client.trainings.values())
