"""The rules of collab.federated beside tensorflow-federated's: the same weights, data order and optimiser.

    scripts/tff-environment /tmp/tff
    python -m simulations.parity --environment /tmp/tff

Eight clients with 400 digits between them, five rounds, a network of two dense layers.  Local training is
plain SGD in numpy on our side, so what is compared is the algorithm.  ``--write`` stores the reference for
the test that runs everywhere (tests/data/federated/parity.npz); without ``--environment`` the stored one is
compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from collab.errors import ConfigError
from collab.federated.aggregate.rounds import RoundAggregator
from collab.federated.aggregate.server import Adagrad, Adam, Yogi
from collab.federated.aggregate.settings import Aggregation
from collab.federated.partition import parse_rule, partition
from collab.federated.update import LocalTraining, Parameters, Update
from simulations.dense import Array, DenseTrainer, initial_dense

ROOT: Final = Path(__file__).parents[1]
STORED: Final = ROOT / "tests" / "data" / "federated" / "parity.npz"
SERVERS: Final[Mapping[str, Aggregation]] = {
    "fedavg": Aggregation(rule="fedavg"),
    "fedavgm": Aggregation(rule="fedavgm"),
    "fedprox": Aggregation(rule="fedprox"),
    "fedprox-released": Aggregation(rule="fedprox"),
    "fedadam": Aggregation(
        rule="fedadam", server=Adam(learning_rate=0.01, beta_1=0.9, beta_2=0.99, epsilon=1e-3)
    ),
    "fedyogi": Aggregation(
        rule="fedyogi", server=Yogi(learning_rate=0.01, beta_1=0.9, beta_2=0.99, epsilon=1e-3, initial=1e-6)
    ),
    "fedadagrad": Aggregation(
        rule="fedadagrad", server=Adagrad(learning_rate=0.01, epsilon=1e-3, initial=1e-6)
    ),
}
"""Our rules by the reference's names, with the settings that it has."""
WITHIN: Final = 1e-6
CLIENTS, ROUNDS, EPOCHS, BATCH, HIDDEN, SEED = 8, 5, 2, 10, 16, 5
RATE, SERVER_RATE, MOMENTUM, PROXIMAL = 0.1, 0.01, 0.9, 0.1

Problem = Mapping[str, Any]


def problem() -> dict[str, Any]:
    """Start weights, and digits of 14 x 14 for eight clients of unequal size."""
    digits = np.load(ROOT / "collab" / "assets" / "digits_heldout.npz")
    images = digits["images"][:400].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).astype(np.uint8)
    labels = digits["labels"][:400]
    parts = partition(parse_rule("dirichlet:0.3"), labels, CLIENTS, SEED, at_least=12).rows
    given: dict[str, Any] = {
        "algorithms": np.array(tuple(SERVERS)),
        "rounds": ROUNDS,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "learning_rate": RATE,
        "server_rate": SERVER_RATE,
        "momentum": MOMENTUM,
        "proximal": PROXIMAL,
    }
    for name, value in initial_dense((196, HIDDEN, 10), SEED).items():
        given[f"weight/{name}"] = value
    for client, rows in enumerate(parts):
        given[f"features/{client}"] = images[rows].reshape(len(rows), -1)
        given[f"labels/{client}"] = labels[rows]
    return given


def reference(environment: Path, given: Problem) -> dict[str, Array]:
    """What tensorflow-federated in its own environment makes of the problem."""
    python = environment / "bin" / "python"
    if not python.exists():
        raise ConfigError(f"{environment}: no environment there; run scripts/tff-environment {environment}")
    with tempfile.TemporaryDirectory() as folder:
        asked, answer, log = (Path(folder) / name for name in ("problem.npz", "answer.npz", "log"))
        np.savez(asked, **given)
        # Its worker process outlives it and keeps its output open, so that goes to a file.
        with log.open("wb") as out:
            script = Path(__file__).with_name("tff_reference.py")
            child = subprocess.Popen(
                [python, script, asked, answer], stdout=out, stderr=out, start_new_session=True
            )
            try:
                code = child.wait(timeout=900)
            finally:
                _end_session(child.pid)
        if code:
            raise ConfigError(f"tensorflow-federated failed: {log.read_text(errors='replace')[-2000:]}")
        return dict(np.load(answer))


def _end_session(leader: int) -> None:
    """Kill what a session of processes has left."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == leader:
                    os.kill(int(entry.name), 9)
            except (ProcessLookupError, PermissionError):
                continue


def ours(algorithm: str, given: Problem) -> Parameters:
    """What the same problem comes to with the rules of collab.federated."""
    proximal = {"fedprox": PROXIMAL, "fedprox-released": -PROXIMAL}.get(algorithm, 0.0)
    task = LocalTraining(
        epochs=int(given["epochs"]),
        batch_size=int(given["batch_size"]),
        learning_rate=float(given["learning_rate"]),
        proximal=proximal,
    )
    model: Parameters = {n.removeprefix("weight/"): v for n, v in given.items() if n.startswith("weight/")}
    trainers = [
        DenseTrainer(model, given[f"features/{k}"] / np.float32(255), given[f"labels/{k}"], shuffled=False)
        for k in range(sum(name.startswith("labels/") for name in given))
    ]
    state: Mapping[str, Any] = {}
    for number in range(1, int(given["rounds"]) + 1):
        aggregator = RoundAggregator(SERVERS[algorithm], model, state)
        for client, trainer in enumerate(trainers):
            trained = trainer.train(model, task)
            delta = {name: trained.parameters[name] - start for name, start in model.items()}
            aggregator.add(Update(number, f"client-{client}", trained.samples, delta))
        model, state = aggregator.finish(), aggregator.state()
    return model


def differences(given: Problem, answer: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    """Of each algorithm: the largest difference of a weight, and how far the weights have moved at most."""
    found = {}
    for algorithm in map(str, given["algorithms"]):
        mine = ours(algorithm, given)
        apart = max(float(np.abs(mine[n] - answer[f"{algorithm}/{n}"]).max()) for n in mine)
        moved = max(float(np.abs(mine[n] - given[f"weight/{n}"]).max()) for n in mine)
        found[algorithm] = (apart, moved)
    return found


def load() -> tuple[dict[str, Any], dict[str, Array]]:
    """The stored problem and what tensorflow-federated made of it."""
    with np.load(STORED) as stored:
        every = dict(stored)
    answer = {n.removeprefix("answer/"): every.pop(n) for n in list(every) if n.startswith("answer/")}
    return every, answer


def main() -> None:
    """Compare, print a table or one JSON object; exit status 1 when an algorithm is off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environment", type=Path, help="folder that scripts/tff-environment made")
    parser.add_argument("--write", action="store_true", help="store the reference for the tests")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.environment is None:
        given, answer = load()
    else:
        given = problem()
        answer = reference(options.environment, given)
        if options.write:
            STORED.parent.mkdir(parents=True, exist_ok=True)
            stored: dict[str, Any] = {**given, **{f"answer/{name}": array for name, array in answer.items()}}
            np.savez_compressed(STORED, **stored)
    found = differences(given, answer)
    holds = all(apart <= WITHIN for apart, _ in found.values())
    if options.json:
        rows = [{"algorithm": a, "difference": d, "moved": m} for a, (d, m) in found.items()]
        print(
            json.dumps(
                {"within": WITHIN, "holds": holds, "live": options.environment is not None, "rows": rows}
            )
        )
    else:
        print(f"{'algorithm':18} {'largest difference':>20} {'moved by':>10}   (bound {WITHIN:g})")
        for algorithm, (apart, moved) in found.items():
            print(f"{algorithm:18} {apart:20.2e} {moved:10.3f}   {'' if apart <= WITHIN else 'OFF'}")
    sys.exit(not holds)


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"error: {error}")
