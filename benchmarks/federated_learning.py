"""Learning itself, without links: what forms of updates, bad clients and large fleets do to it.

In process, by the machines, rules and trainers that nodes run (`collab.emulation.fleet`), on all cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.fashion import images
from benchmarks.federated_data import BATCH, MODELS, SCALE, Setting
from collab.cli.fed_running import rules_of
from collab.core.ids import Digest
from collab.emulation.fleet.holdings import LiteRtHoldings
from collab.emulation.fleet.labour import on_cores
from collab.emulation.fleet.world import FleetWorld
from collab.federated.base import Trained, Trainer
from collab.federated.partition import parse_rule, partition
from collab.federated.records import RoundRecord
from collab.federated.task import convert_task
from collab.federated.update import LocalTraining, Parameters
from collab.runtime.cpu import resident_bytes

CORES: Final = 2
LAST: Final = 5
"""Rounds that an accuracy is the mean of."""
BOOST: Final = 10.0
"""So many times the wrong way is what a bad client sends."""


@dataclass(frozen=True)
class Poisoner:
    """Trains as asked, and then says that the opposite came of it, scaled up."""

    inner: Trainer

    @property
    def initial(self) -> Parameters:
        """See `Trainer`."""
        return self.inner.initial

    def train(self, start: Parameters, task: LocalTraining, **options: Any) -> Trained:
        """See `Trainer`."""
        found = self.inner.train(start, task, **options)
        wrong = {n: (start[n] - BOOST * (w - start[n])).astype(w.dtype) for n, w in found.parameters.items()}
        return replace(found, parameters=wrong)

    def evaluate(self, parameters: Parameters) -> Mapping[str, float]:
        """See `Trainer`."""
        return self.inner.evaluate(parameters)


@dataclass(frozen=True)
class SomeBad(LiteRtHoldings):
    """The first few clients poison."""

    bad: int = 0

    def trainer(self, client: int) -> Trainer:
        """See `Holdings`."""
        made = super().trainer(client)
        return Poisoner(made) if client < self.bad else made


def run_here(
    setting: Setting, bad: int = 0, every: int = 1, cores: int = CORES, **fields: Any
) -> tuple[list[float], list[RoundRecord], list[float]]:
    """Accuracies of the rounds that were evaluated in percent, records, memory in MB after each round."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        given, test = images("train"), images("t10k")
        np.save(folder / "x.npy", given.images[: setting.samples])
        np.save(folder / "y.npy", given.labels[: setting.samples])
        np.save(folder / "test_x.npy", test.images)
        np.save(folder / "test_y.npy", test.labels)
        labels = given.labels[: setting.samples]
        least = min(BATCH, setting.samples // setting.clients // 2)
        part = partition(
            parse_rule(setting.rule), labels, setting.clients, setting.seed, at_least=max(1, least)
        )
        holdings = SomeBad(MODELS[setting.model], folder, part, 0.0, SCALE, bad)
        return _run(setting, holdings, folder, every, cores, fields)


def _run(
    setting: Setting, holdings: SomeBad, folder: Path, every: int, cores: int, fields: Mapping[str, Any]
) -> tuple[list[float], list[RoundRecord], list[float]]:
    tree = {
        "name": "learning",
        "model": "fashion",
        "rounds": setting.rounds,
        "seed": setting.seed,
        "training": {
            "epochs": setting.epochs,
            "batch_size": BATCH,
            "learning_rate": setting.learning_rate,
        },
        "evaluation": {"where": "server", "data": "t10k", "every": every},
        "round": {"deadline_s": 1e6},
        **fields,
    }
    task = convert_task(tree)
    records, memory = list[RoundRecord](), list[float]()

    def watch(told: Any) -> None:
        if isinstance(told, RoundRecord):
            records.append(told)
            memory.append(resident_bytes() / 1e6)

    with on_cores(holdings, cores) as labour:
        world = FleetWorld(task, rules_of(task), holdings, labour, folder, watch=watch)
        finish = world.run("learning", Digest("0" * 64))
    if finish.exit_code:
        raise RuntimeError(f"{finish.outcome}: {finish.reason}")
    accuracies = [100 * record.evaluation["accuracy"] for record in records if record.evaluation]
    return accuracies, records, memory


def last_mean(accuracies: Sequence[float]) -> float:
    """Of the last few rounds."""
    return float(np.mean(accuracies[-LAST:]))


def alone(setting: Setting) -> Setting:
    """The same training on all the data in one place."""
    return replace(setting, clients=1, rule="iid")
