"""A LiteRT trainer that is honest until a file says otherwise; nodes under test load it by an entry point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from collab.federated.base import Trained
from collab.federated.data.sources import open_data
from collab.federated.trainers.litert import LiteRtEngine
from collab.federated.trainers.local import LocalTrainer
from collab.federated.update import LocalTraining, Parameters
from collab.node.training_config import TrainingConfig
from collab.node.training_work import Enrolled

SIGNAL = "turn"
"""A file of this name beside the data turns it."""

ENTRY_POINTS = "[collab.trainers]\nturncoat = tests.integration.turncoat_trainer:turncoat\n"


class _Turncoat(LocalTrainer):
    """Trains, but for this: of weights that were trained before it makes garbage that no gate can tell."""

    def __init__(self, engine: LiteRtEngine, data: Any, signal: Path) -> None:
        super().__init__(engine, data)
        self._signal = signal

    def train(self, start: Parameters, task: LocalTraining, **options: Any) -> Trained:
        trained = super().train(start, task, **options)
        fresh = all(np.array_equal(start[name], value) for name, value in self.initial.items())
        if fresh or not self._signal.exists():
            return trained
        rng = np.random.default_rng(5)
        garbage = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in trained.parameters.items()}
        return replace(trained, parameters=garbage)


def turncoat(model: Path, config: TrainingConfig) -> Enrolled:
    """The trainer."""
    engine = LiteRtEngine(model)
    place = Path(config.data.partition("?")[0])
    trainer = _Turncoat(engine, open_data(config.data, engine.description), place.parent / SIGNAL)
    return Enrolled(trainer, trainer.samples)


def install(folder: Path) -> Path:
    """Write what makes an installed package of a folder on the path; the folder."""
    info = folder / "collab_test_turncoat-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: collab-test-turncoat\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder
