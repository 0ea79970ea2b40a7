"""Federated runs as users run them, over any transport; what is done is kept, and a call goes on with it.

Ten `collab node` processes stand in one network namespace, `collab fed run` (and the broker) in another, and
bytes are the kernel's on the cable between them.  A run that time ends goes on by `collab fed resume`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import yaml

from benchmarks.fashion import images
from benchmarks.federated_data import BATCH, MODELS, Setting, write_parts
from benchmarks.federated_site import DEVICES, SERVER, Site
from collab.link.links import dialled_as
from collab.security.broker import mosquitto_config

PORT: Final = 7300
BROKER: Final = 1883
LAST: Final = 5
"""Rounds that an accuracy is the mean of."""
_ROOT: Final = Path(__file__).parents[1]
_READY_S: Final = 90.0


@dataclass(frozen=True)
class Run:
    """One run of a setting."""

    name: str
    setting: Setting
    transport: str = "grpc"
    """The scheme by which the server dials."""
    compression: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Its folder's name: other settings are another run."""
        tree = [asdict(self.setting), self.transport, dict(self.compression)]
        return f"{self.name}-{hash_of(json.dumps(tree, sort_keys=True))}"


def hash_of(text: str) -> str:
    """A few characters that name a text."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:10]


class Result(msgspec.Struct, frozen=True):
    """What came of a run."""

    accuracies: list[float]
    """After each round, in percent of the test images."""
    digests: list[str]
    """Of the models."""
    seconds: list[float]
    """Of the rounds, evaluation not included."""
    up_bytes: int
    """Of updates, as they are encoded."""
    down_bytes: int
    cable_bytes: int
    """Both ways, headers and all."""
    steps: int

    @property
    def last_mean(self) -> float:
        """Accuracy of the last few rounds."""
        return float(np.mean(self.accuracies[-LAST:]))


class Shelf:
    """Results in a folder; makes what is missing until its time is over."""

    def __init__(self, home: Path, until: float | None = None) -> None:
        self._home = home
        self._until = until

    def get(self, run: Run) -> Result | None:
        """The result; None where time ended it before."""
        folder = self._home / run.place
        kept = folder / "result.json"
        if kept.exists():
            return msgspec.json.decode(kept.read_bytes(), type=Result)
        if self._until is not None and time.monotonic() > self._until - 20:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{run.place}: goes on", file=sys.stderr)
        if not _go_on(run, folder, self._until):
            return None
        result = _read(run, folder)
        shutil.rmtree(folder)
        folder.mkdir()
        kept.write_bytes(msgspec.json.encode(result))
        return result


def _go_on(run: Run, folder: Path, until: float | None) -> bool:
    """Begin the run or go on with it; whether it has come to its end."""
    task, out = folder / "task.yaml", folder / "run"
    if not task.exists():
        write_parts(run.setting, folder)
        test = images("t10k")
        np.savez(folder / "test.npz", x=test.images, y=test.labels)
        task.write_text(yaml.safe_dump(_tree(run)))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COLLAB_")}
    env = {**clean, "PYTHONPATH": str(_ROOT), "XDG_CONFIG_HOME": str(folder / "none")}
    with Site(folder) as site:
        if run.transport.startswith("mqtt"):
            _begin_broker(site, folder, env)
        count = run.setting.clients
        for number in range(count):
            _begin_node(site, folder, number, run.transport, env)
        for number in range(count):
            _await_ready(folder / f"node-{number}.log")
        words: list[object] = [sys.executable, "-m", "collab", "fed"]
        if (out / "run.json").exists():
            words += ["resume", out]
        else:
            peers = ",".join(_address(run.transport, number) for number in range(count))
            words += ["run", task, "--peers", peers, "--out", out]
        words += ["--insecure", "--insecure-network", "--json"]
        code = _until_over(site.start(site.server, "server", words, env), until)
        passed = site.bytes()
    counted = folder / "cable"
    before = int(counted.read_text()) if counted.exists() else 0
    counted.write_text(str(before + passed))
    for number in range(count):
        (folder / f"node-{number}.log").unlink()
    if code == 1 and until is not None and time.monotonic() > until:
        return False
    if code:
        raise RuntimeError(f"{run.name}: ended with {code}: {(folder / 'server.log').read_text()[-2000:]}")
    return True


def _until_over(server: subprocess.Popen[bytes], until: float | None) -> int:
    asked = False
    while server.poll() is None:
        if until is not None and time.monotonic() > until and not asked:
            server.terminate()
            asked = True
        time.sleep(0.05)
    return server.returncode


def _tree(run: Run) -> dict[str, Any]:
    """The task: everybody takes part in each round, however long it takes."""
    setting = run.setting
    return {
        "name": run.name,
        "model": str(MODELS[setting.model]),
        "rounds": setting.rounds,
        "clients": {"minimum": setting.clients, "wait_s": 300},
        "training": {
            "epochs": setting.epochs,
            "batch_size": BATCH,
            "learning_rate": setting.learning_rate,
        },
        "round": {"deadline_s": 1e6, "quorum": 1.0},
        "evaluation": {"where": "server", "data": "test.npz?scale=255"},
        "compression": dict(run.compression),
        "seed": setting.seed,
    }


def _address(transport: str, number: int) -> str:
    """Where the server dials a client."""
    if transport.startswith("mqtt"):
        return dialled_as(f"mqtt://{SERVER}:{BROKER}/client-{number}", transport)
    return f"{transport}://{DEVICES}:{PORT + number}"


def _begin_broker(site: Site, folder: Path, env: Mapping[str, str]) -> None:
    file = folder / "mosquitto.conf"
    file.write_text("user root\n" + mosquitto_config(host=SERVER, port=BROKER))
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "mosquitto"
    site.start(site.server, "broker", [program, "-c", file], env)


def _begin_node(site: Site, folder: Path, number: int, transport: str, env: Mapping[str, str]) -> None:
    config, data = folder / f"node-{number}.toml", folder / f"part-{number}.npz"
    config.write_text(f'[training]\ndata = "{data}?scale=255&held_out=0"\n')
    listen = f"mqtt://{SERVER}:{BROKER}" if transport.startswith("mqtt") else _address(transport, number)
    words: list[object] = [sys.executable, "-m", "collab", "node", "--name", f"client-{number}"]
    words += ["--store", folder / f"store-{number}", "--listen", listen, "--config", config]
    words += ["--discovery", "none", "--insecure", "--insecure-network", "--json"]
    site.start(site.devices, f"node-{number}", words, env)


def _await_ready(log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while b'"ready"' not in (log.read_bytes() if log.exists() else b""):
        if time.monotonic() > deadline:
            raise RuntimeError(f"a node did not start: {log.read_text()[-1000:]}")
        time.sleep(0.05)


def _read(run: Run, folder: Path) -> Result:
    records = [json.loads(line) for line in (folder / "run" / "rounds.jsonl").read_text().splitlines()]
    sizes = [one["samples"] for one in records[0]["took_part"]]
    each = run.setting.epochs * sum(-(-size // BATCH) for size in sizes)
    return Result(
        accuracies=[100 * record["evaluation"]["accuracy"] for record in records],
        digests=[record["model"] for record in records],
        seconds=[record["seconds"] for record in records],
        up_bytes=sum(record["up_bytes"] for record in records),
        down_bytes=sum(record["down_bytes"] for record in records),
        cable_bytes=int((folder / "cable").read_text()),
        steps=each * len(records),
    )
