"""Ours as users run it: `collab node` processes and `collab fed run`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from benchmarks.federated_data import BATCH, MODELS, SCALE, Setting, accuracy, names, write_parts
from benchmarks.federated_site import DEVICES, Peaks, Site
from benchmarks.flower import Measured
from collab.federated.data.examples import Data, Examples
from collab.federated.trainers.litert import LiteRtTrainer
from collab.node.training_config import TrainingConfig
from collab.node.training_work import Enrolled
from tests.identities import Identities

PORT: Final = 7100
WAIT_S: Final = 300.0
_ROOT: Final = Path(__file__).parents[1]


def make_trainer(model: Path, config: TrainingConfig) -> Enrolled:
    """The LiteRT trainer on one part, all of it trained on, as Flower's clients do."""
    with np.load(config.data) as part:
        examples = Examples(part["x"], part["y"], SCALE)
    return Enrolled(LiteRtTrainer(model, Data(examples, examples.first(0))), len(examples))


def measured(
    setting: Setting,
    folder: Path,
    compression: Mapping[str, Any],
    name: str,
    identities: Identities | None = None,
    **fields: Any,
) -> Measured:
    """A run over gRPC, with further fields of the task; bytes and times are those after the first round."""
    write_parts(setting, folder)
    env = _environment(folder)
    with Site(folder) as site:
        began = time.monotonic()
        for number, client in enumerate(names(setting)):
            _begin_node(site, folder, number, client, env, identities)
        for number in range(setting.clients):
            _await_ready(folder / f"node-{number}.log")
        task, out = folder / "task.yaml", folder / "run"
        task.write_text(yaml.safe_dump(_task(setting, compression) | fields))
        peers = ",".join(f"{DEVICES}:{PORT + number}" for number in range(setting.clients))
        words: list[object] = [sys.executable, "-m", "collab"]
        words += ["--identity", identities.directory("op", "operator")] if identities is not None else []
        words += ["fed", "run", task, "--peers", peers, "--out", out, "--json"]
        words += [] if identities is not None else ["--insecure", "--insecure-network"]
        process = site.start(site.server, "server", words, env)
        peaks, ends, after_first = Peaks(site), list[float](), 0
        while len(ends) < setting.rounds:
            if process.poll() is not None or time.monotonic() - began > WAIT_S:
                raise RuntimeError(f"{name}: {(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.01)
            lines = _lines(out / "rounds.jsonl")
            if lines > len(ends):
                ends += [time.monotonic()] * (lines - len(ends))
                after_first = after_first or site.bytes()
                peaks.look()
        total = site.bytes()
        peaks.look()
        if process.wait(30):
            raise RuntimeError(f"{name}: {(folder / 'server.log').read_text()[-2000:]}")
        with np.load(out / "weights.npz") as final:
            weights = dict(final)
    return Measured(
        name,
        round_s=float(np.median(np.diff(ends))),
        first_s=ends[0] - began,
        round_bytes=(total - after_first) / (setting.rounds - 1),
        server_mb=peaks.server_mb,
        client_mb=peaks.device_median_mb(setting.clients),
        accuracy=accuracy(setting, weights),
        bytes=total,
    )


def _task(setting: Setting, compression: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "fashion",
        "model": str(MODELS[setting.model]),
        "rounds": setting.rounds,
        "seed": setting.seed,
        "clients": {"minimum": setting.clients},
        "training": {
            "epochs": setting.epochs,
            "batch_size": BATCH,
            "learning_rate": setting.learning_rate,
        },
        "evaluation": {"every": 0},
        "compression": dict(compression),
    }


def _environment(folder: Path) -> dict[str, str]:
    """Nodes find the trainer of this module by its entry point."""
    info = folder / "trainers" / "benchmark_trainers-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: benchmark-trainers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[collab.trainers]\nbenchmark = benchmarks.federated_ours:make_trainer\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COLLAB_")}
    return {**clean, "PYTHONPATH": f"{_ROOT}:{info.parent}", "XDG_CONFIG_HOME": str(folder / "none")}


def _begin_node(
    site: Site, folder: Path, number: int, name: str, env: Mapping[str, str], identities: Identities | None
) -> None:
    config = folder / f"node-{number}.toml"
    data = folder / f"part-{number}.npz"
    config.write_text(f'[training]\ndata = "{data}"\ntrainer = "benchmark"\n')
    words: list[object] = [sys.executable, "-m", "collab", "node", "--name", name]
    words += ["--store", folder / f"store-{number}", "--listen", f"{DEVICES}:{PORT + number}"]
    words += ["--config", config, "--discovery", "none", "--json"]
    words += ["--insecure", "--insecure-network"] if identities is None else []
    words += ["--identity", identities.directory(name)] if identities is not None else []
    site.start(site.devices, f"node-{number}", words, env)


def _await_ready(log: Path) -> None:
    deadline = time.monotonic() + 60
    while b'"ready"' not in (log.read_bytes() if log.exists() else b""):
        if time.monotonic() > deadline:
            raise RuntimeError(f"a node did not start: {log.read_text()[-1000:]}")
        time.sleep(0.02)


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
