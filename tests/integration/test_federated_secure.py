"""Secure aggregation with real processes of a cluster: the sum is exact, and nobody sees what is in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from collab.federated.orders import OrderId, seed_of
from collab.federated.privacy.fixed_point import decode_sum
from collab.federated.privacy.masking import Masking
from collab.federated.update import LocalTraining
from collab.node.training_config import TrainingConfig
from tests.identities import Identities
from tests.integration.federated_trainers import install, softmax
from tests.integration.processes import ROOT, NodeProcess, command, environment, running
from tests.mosquitto import mosquitto

pytestmark = pytest.mark.timeout(120)

NAMES = ("ann", "ben", "cyd")
FEATURES, CLASSES = 8, 4
SHAPES = {"w": (FEATURES, CLASSES), "b": (CLASSES,)}
TRAINING = LocalTraining(epochs=2, batch_size=16, learning_rate=0.3)
TASK = """
name: softmax
model: model.npz
rounds: %d
clients: {minimum: 3, wait_s: 20}
training: {epochs: 2, batch_size: 16, learning_rate: 0.3}
round: {deadline_s: 20}
evaluation: {every: 0}
secure_aggregation: {threshold: 2}
"""
STOPPED = """
import os, signal, sys
from collab.cli.main import main
from collab.federated.masked import MaskedUpdates
from collab.federated.server_work import ServerWork

def stop_after(owner, name):
    original = getattr(owner, name)
    def stopped(self, *arguments, **options):
        found = original(self, *arguments, **options)
        os.kill(os.getpid(), signal.SIGSTOP)
        return found
    setattr(owner, name, stopped)

for owner, name in ((MaskedUpdates, "settled"), (ServerWork, "keep_sum")):
    stop_after(owner, name)
main()
"""
"""The command, which halts wherever it has got something of the clients, until it is told to go on."""


class Site(NamedTuple):
    folder: Path
    nodes: dict[str, NodeProcess]
    operator: Path

    def words(self, out: Path, scheme: str = "grpc", rounds: int = 1) -> list[object]:
        task = self.folder / f"{out.name}.yaml"
        task.write_text(TASK % rounds)
        ends = [node.events[0]["endpoints"] for node in self.nodes.values()]
        peers = ",".join(next(at for at in places if at.startswith(scheme)) for places in ends)
        return ["--identity", self.operator, "fed", "run", task, "--peers", peers, "--out", out, "--json"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("secure")
    path = f"{ROOT}:{install(folder / 'trainers')}"
    np.savez(folder / "model.npz", **{name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})
    identities = Identities(folder)
    with mosquitto() as broker:
        listen = f"127.0.0.1:0,coaps+tcp://127.0.0.1:0,mqtt://127.0.0.1:{broker.port}"
        nodes = {}
        for number, name in enumerate(NAMES):
            rng = np.random.default_rng(number)
            y = rng.integers(0, CLASSES, 40 + 5 * number)
            x = (np.eye(FEATURES)[y] + rng.normal(size=(len(y), FEATURES)) / 4).astype(np.float32)
            np.savez(folder / f"{name}.npz", x=x, y=y)
            config = folder / f"{name}.toml"
            config.write_text(
                f'[training]\ndata = "{folder / name}.npz"\ntrainer = "softmax"\nmasked = true\n'
            )
            identity = str(identities.directory(name))
            options = ("--identity", identity, "--config", str(config), "--listen", listen)
            nodes[name] = NodeProcess(name, folder, *options, env={"PYTHONPATH": path})
        with running(list(nodes.values())):
            yield Site(folder, nodes, identities.directory("op", "operator"))


def updates_of(site: Site) -> dict[str, tuple[dict[str, np.ndarray], int]]:
    """What each client sends in the first round, found here."""
    start, found = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}, {}
    for name in NAMES:
        enrolled = softmax(site.folder / "model.npz", TrainingConfig(data=str(site.folder / f"{name}.npz")))
        seed = seed_of(0, name, OrderId("", 1))
        task = LocalTraining(TRAINING.epochs, TRAINING.batch_size, learning_rate=0.3, seed=seed)
        trained = enrolled.trainer.train(start, task)
        found[name] = ({n: trained.parameters[n] - start[n] for n in start}, trained.samples)
    return found


@pytest.fixture(scope="module")
def mean(site: Site) -> dict[str, np.ndarray]:
    """The weights after the first round, by the plain fixed-point sum."""
    vectors = [Masking().vector(delta, samples) for delta, samples in updates_of(site).values()]
    found = decode_sum(Masking().encoding, SHAPES, np.add.reduce(vectors), len(vectors)).mean()
    return {name: array.astype(np.float32) for name, array in found.items()}


def assert_equal(out: Path, expected: dict[str, np.ndarray]) -> None:
    with np.load(out / "weights.npz") as weights:
        assert all((weights[name] == expected[name]).all() for name in SHAPES)


def test_the_model_is_that_of_the_plain_sum_over_every_transport(site, mean, tmp_path):
    for scheme in ("grpc", "mqtt", "coaps+tcp"):
        out = tmp_path / scheme
        done = command(*site.words(out, scheme)).json
        assert (done["outcome"], done["left_out"]) == ("done", {}), (scheme, done)
        assert_equal(out, mean)
        assert 0 < done["up_bytes"] / len(NAMES) - 8 * (FEATURES * CLASSES + CLASSES + 1) < 32


def memory_of(pid: int) -> Iterator[bytes]:
    """What a halted process can write to and has written to, part by part."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, stop = (int(end, 16) for end in span.split("-"))
                memory.seek(start)
                pages = np.frombuffer(memory.read(stop - start), np.uint64).reshape(-1, 512)
                yield pages[pages.any(axis=1)].tobytes()


def begun(site: Site, out: Path, log: Path) -> subprocess.Popen[bytes]:
    """A server that halts wherever it has got something."""
    with open(log, "wb") as said:
        words = [sys.executable, "-c", STOPPED, *map(str, site.words(out))]
        return subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL, stdout=said, stderr=said)


def halted(process: subprocess.Popen[bytes]) -> bool:
    """Wait until it halts, or ends."""
    deadline = time.monotonic() + 30
    while (waited := os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline, "the server neither halts nor ends"
        time.sleep(0.005)
    if os.WIFSTOPPED(waited[1]):
        return True
    process.returncode = os.waitstatus_to_exitcode(waited[1])
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        process.kill()
        process.wait()


def test_a_server_holds_nothing_of_a_single_client_and_killed_with_the_sum_it_makes_the_same_model(
    site, mean, tmp_path
):
    vectors = []
    secrets: dict[tuple[str, str], bytes] = {}
    for name, (delta, samples) in updates_of(site).items():
        vector = Masking().vector(delta, samples)
        vectors.append(vector)
        plain = {
            "float32": delta["w"],
            "vector": vector[: FEATURES * CLASSES],
        }
        secrets |= {(name, form): array.tobytes()[64:96] for form, array in plain.items()}
    total = np.add.reduce(vectors)[: FEATURES * CLASSES].tobytes()[64:96]
    wanted = {*secrets.values(), total}
    out, log, opened = tmp_path / "run", tmp_path / "log", False
    process = begun(site, out, log)
    try:
        for _ in (*NAMES, "the sum"):
            assert halted(process), log.read_text()
            seen = {one for part in memory_of(process.pid) for one in wanted if one in part}
            files = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
            assert {key for key, secret in secrets.items() if secret in seen or secret in files} == set()
            opened = total in seen and total in files
            process.send_signal(signal.SIGKILL if opened else signal.SIGCONT)
    finally:
        end(process)
    assert opened, "the search finds what is there"
    assert not any(secret in log.read_bytes() for secret in secrets.values())
    done = command("--identity", site.operator, "fed", "resume", out, "--json")
    assert (done.code, done.json["outcome"]) == (0, "done"), done
    assert_equal(out, mean)
