"""Fashion-MNIST for ten clients, the model that all train, and how good weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.fashion import images
from collab.federated.data.examples import Data, Examples
from collab.federated.orders import OrderId, seed_of
from collab.federated.partition import Partition, parse_rule, partition
from collab.federated.trainers.litert import LiteRtEngine
from collab.federated.trainers.local import LocalTrainer
from collab.federated.update import LocalTraining, Parameters

ROOT: Final = Path(__file__).parents[1]
MODELS: Final = {name: ROOT / "tests" / "data" / f"trainable_{name}.tflite" for name in ("mlp", "cnn")}
LAYERS: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "cnn": (
        {"kind": "conv", "width": 16, "size": 3},
        {"kind": "pool"},
        {"kind": "conv", "width": 32, "size": 3},
        {"kind": "pool"},
        {"kind": "flatten"},
        {"kind": "dense", "width": 10},
    ),
    "mlp": (
        {"kind": "flatten"},
        {"kind": "dense", "width": 64, "activation": "relu"},
        {"kind": "dense", "width": 10},
    ),
}
"""The same networks in Keras' words, for `benchmarks.flower_app`."""
BATCH: Final = 20
SCALE: Final = 255.0


@dataclass(frozen=True)
class Setting:
    """What both systems are given."""

    model: str = "cnn"
    clients: int = 10
    samples: int = 6000
    rule: str = "dirichlet:0.5"
    rounds: int = 6
    epochs: int = 1
    learning_rate: float = 0.05
    seed: int = 1

    def parts(self) -> Partition:
        """Who holds what of the first images."""
        labels = images("train").labels[: self.samples]
        return partition(parse_rule(self.rule), labels, self.clients, self.seed, at_least=BATCH)


def names(setting: Setting) -> list[str]:
    """Of the clients; the order of a client's examples follows from its name."""
    return [str(owner) for owner in setting.parts().owners]


def seeds(setting: Setting) -> list[list[int]]:
    """By client and round, from 1 on: what its examples are shuffled with in a task of this seed."""
    rounds = range(1, setting.rounds + 1)
    return [
        [seed_of(setting.seed, name, OrderId("", number)) for number in rounds] for name in names(setting)
    ]


def write_parts(setting: Setting, folder: Path) -> list[int]:
    """``part-K.npz`` with x and y for each client; their sizes."""
    given = images("train")
    parts = setting.parts().rows
    for number, rows in enumerate(parts):
        np.savez(folder / f"part-{number}.npz", x=given.images[rows], y=given.labels[rows])
    return [len(rows) for rows in parts]


def initial(setting: Setting) -> Parameters:
    """The weights that both begin with."""
    return LiteRtEngine(MODELS[setting.model]).initial


def accuracy(setting: Setting, weights: Parameters) -> float:
    """Share of the 10,000 test images that are named right, in percent."""
    test = images("t10k")
    held_out = Examples(test.images, test.labels, SCALE)
    data = Data(Examples(test.images[:1], test.labels[:1], SCALE), held_out)
    trainer = LocalTrainer(LiteRtEngine(MODELS[setting.model]), data)
    return 100 * trainer.evaluate(weights)["accuracy"]


def after_one(setting: Setting) -> Parameters:
    """The plain average after the first round, trained on LiteRT one client after another."""
    given, engine = images("train"), LiteRtEngine(MODELS[setting.model])
    rows = setting.parts().rows
    total = {name: np.zeros(weight.shape) for name, weight in engine.initial.items()}
    for mine, (seed, *_) in zip(rows, seeds(setting), strict=True):
        examples = Examples(given.images[mine], given.labels[mine], SCALE)
        task = LocalTraining(setting.epochs, BATCH, learning_rate=setting.learning_rate, seed=seed)
        trained = LocalTrainer(engine, Data(examples, examples.first(0))).train(engine.initial, task)
        for name, weight in trained.parameters.items():
            total[name] += len(mine) * weight.astype(np.float64)
    count = sum(map(len, rows))
    return {name: (weight / count).astype(np.float32) for name, weight in total.items()}
