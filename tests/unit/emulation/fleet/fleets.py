"""A fleet of softmax regressions on made-up points, and a run of it."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from collab.cli.fed_running import rules_of
from collab.core.ids import Digest
from collab.emulation.fleet.labour import Here
from collab.emulation.fleet.world import Conditions, FleetWorld
from collab.federated.records import RoundRecord
from collab.federated.task import convert_task
from simulations.dense import DenseTrainer, initial_dense

CLASSES, FEATURES = 4, 8


def points(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    centres = np.random.default_rng(99).normal(size=(CLASSES, FEATURES)) * 2
    return (centres[labels] + rng.normal(size=(count, FEATURES))).astype(np.float32), labels


class Failing(DenseTrainer):
    """Its updates are not finite."""

    def train(self, start, task, **options):
        trained = super().train(start, task, **options)
        return trained.__class__(
            {n: v * np.nan for n, v in trained.parameters.items()}, trained.samples, 1, 0.0
        )


@dataclass(frozen=True)
class Fleet:
    """Clients with a few points each, made anew from the client's number."""

    count: int
    bad: frozenset = field(default_factory=frozenset)

    @cached_property
    def owners(self):
        return tuple(f"c{index}" for index in range(self.count))

    @cached_property
    def sizes(self):
        return tuple(10 + index % 7 for index in range(self.count))

    def initial(self):
        return initial_dense((FEATURES, CLASSES), 1)

    def trainer(self, client):
        kind = Failing if client in self.bad else DenseTrainer
        return kind(self.initial(), *points(self.sizes[client], client))

    def judge(self):
        return DenseTrainer(self.initial(), *points(500, 10**6))


class Watched:
    """What a run told, and how it ended."""

    def __init__(self):
        self.records, self.notices = [], []

    def __call__(self, told):
        (self.records if isinstance(told, RoundRecord) else self.notices).append(told)


def task_of(**fields):
    tree = {
        "name": "fleet",
        "model": "none",
        "rounds": 4,
        "training": {"batch_size": 8, "learning_rate": 0.1},
        "evaluation": {"where": "server", "data": "made-up"},
        "cohort": {"select": "random", "count": 8},
        **fields,
    }
    return convert_task(tree)


def run_fleet(folder, fleet, task, conditions=Conditions(), labour=None):
    """The end of a run, what it told, and the final weights."""
    watched = Watched()
    world = FleetWorld(task, rules_of(task), fleet, labour or Here(fleet), folder, conditions, watched)
    finish = world.run("run", Digest("0" * 64))
    return finish, watched, world.model(finish.model)
