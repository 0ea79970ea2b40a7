"""Federated rounds with the trainer that nodes have of themselves, and the server's own examples."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from collab.federated.data.examples import Data, Examples
from collab.federated.orders import OrderId, seed_of
from collab.federated.trainers.litert import LiteRtTrainer
from collab.federated.update import LocalTraining
from tests.integration.processes import ROOT, NodeProcess, command, peers, running

pytestmark = pytest.mark.timeout(120)

MODEL = ROOT / "tests" / "data" / "trainable_mlp.tflite"
SIZES = {"ann": 90, "ben": 60}
TRAINING = {"epochs": 2, "batch_size": 20, "learning_rate": 0.1}
ROUNDS = 2


def examples(seed: int, count: int) -> dict[str, np.ndarray]:
    """Pictures of ten kinds, in noise."""
    kinds = np.random.default_rng(1).integers(0, 200, (10, 28, 28, 1))
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, count)
    return {"x": (kinds[y] + rng.integers(0, 56, (count, 28, 28, 1))).astype(np.uint8), "y": y}


def test_nodes_train_on_litert_what_the_trainer_does_alone_and_the_server_measures_on_its_own(tmp_path):
    nodes, lines = [], {}
    for number, (name, count) in enumerate(SIZES.items()):
        np.savez(tmp_path / f"{name}.npz", **examples(number, count))
        lines[name] = f"{tmp_path / name}.npz?scale=255&held_out=0.1"
        config = tmp_path / f"{name}.toml"
        config.write_text(f'[training]\ndata = "{lines[name]}"\n')
        nodes.append(NodeProcess(name, tmp_path, "--config", str(config)))
    test = examples(9, 50)
    np.savez(tmp_path / "test.npz", **test)
    task = tmp_path / "task.yaml"
    tree = {
        "name": "digits",
        "model": str(MODEL),
        "rounds": ROUNDS,
        "clients": {"minimum": len(SIZES)},
        "training": TRAINING,
        "evaluation": {"where": "server", "data": "test.npz?scale=255"},
        "seed": 5,
    }
    task.write_text(yaml.safe_dump(tree))
    with running(nodes):
        done = command("fed", "run", task, "--peers", peers(nodes), "--out", tmp_path / "run", "--json")
    assert done.code == 0, done
    trainers = {name: LiteRtTrainer(MODEL, line) for name, line in lines.items()}
    measured = Examples(test["x"], test["y"], 255.0)
    judge = LiteRtTrainer(MODEL, Data(measured.first(1), measured))
    weights = dict(judge.initial)
    for number, line in enumerate((tmp_path / "run" / "rounds.jsonl").read_text().splitlines(), 1):
        made = {
            name: trainer.train(
                weights, LocalTraining(**TRAINING, seed=seed_of(5, name, OrderId("any", number)))
            )
            for name, trainer in trainers.items()
        }
        total = sum(one.samples for one in made.values())
        weights = {
            name: sum(one.parameters[name] * np.float64(one.samples / total) for one in made.values()).astype(
                np.float32
            )
            for name in weights
        }
        assert json.loads(line)["evaluation"] == pytest.approx(dict(judge.evaluate(weights)), abs=1e-3)
    with np.load(tmp_path / "run" / "weights.npz") as final:
        for name, array in weights.items():
            np.testing.assert_allclose(final[name], array, atol=1e-5)
    assert done.json["evaluation"]["samples"] == len(test["y"])
    assert done.json["evaluation"]["accuracy"] > 0.5


@pytest.mark.parametrize(("data", "code"), [("nothing.npz", 1), ("test.npz?scaled=2", 2)])
def test_examples_of_the_server_that_cannot_be_read_are_named_before_anything_begins(data, code, tmp_path):
    np.savez(tmp_path / "test.npz", **examples(9, 5))
    task = tmp_path / "task.yaml"
    evaluation = {"where": "server", "data": data}
    task.write_text(yaml.safe_dump({"name": "x", "model": str(MODEL), "rounds": 1, "evaluation": evaluation}))
    done = command("fed", "run", task, "--peers", "127.0.0.1:1", "--out", tmp_path / "run")
    assert (done.code, len(done.errors)) == (code, 1), done
    assert data.partition("=")[0].rpartition("?")[2] in done.errors[0]
    assert not (tmp_path / "run").exists()
