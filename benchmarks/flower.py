"""Flower as real processes, in the environment that scripts/flower-environment makes: the yardstick."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.federated_data import BATCH, LAYERS, Setting, accuracy, initial, seeds, write_parts
from benchmarks.federated_site import SERVER, Peaks, Site
from collab.errors import ConfigError
from collab.federated.update import Parameters

ENVIRONMENT: Final = Path(os.environ.get("FLOWER_ENVIRONMENT", "/tmp/flower"))
PORT: Final = 9092
WAIT_S: Final = 420.0
_PROJECT: Final = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "yardstick"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "local"
[tool.flwr.app.components]
serverapp = "yardstick:server_app"
clientapp = "yardstick:client_app"
[tool.flwr.app.config]
"""
_APP: Final = """
import flower_app

server_app = flower_app.server_app()
client_app = flower_app.client_app()
"""
_CONNECTION: Final = """
[superlink]
default = "bench"
[superlink.bench]
address = "{address}"
insecure = true
"""


@dataclass(frozen=True)
class Measured:
    """What one system has come to."""

    name: str
    round_s: float
    """Median of all rounds but the first."""
    first_s: float
    """From starting the processes to the end of the first round."""
    round_bytes: float
    """On the cable, a round, start-up left out where it can be."""
    server_mb: float
    client_mb: float
    accuracy: float
    bytes: int = 0
    """In all."""


def environment_python() -> Path:
    """The interpreter of Flower's environment; raises `ConfigError` that says how to make one."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        raise ConfigError(
            f"{ENVIRONMENT}: no environment there; run scripts/flower-environment {ENVIRONMENT} "
            "or set FLOWER_ENVIRONMENT"
        )
    return python


def prepare(setting: Setting, folder: Path) -> None:
    """The files that `benchmarks.flower_app` reads."""
    write_parts(setting, folder)
    weights: dict[str, Any] = {f"w{i}": w for i, w in enumerate(initial(setting).values())}
    np.savez(folder / "initial.npz", **weights)
    told = {
        "clients": setting.clients,
        "rounds": setting.rounds,
        "epochs": setting.epochs,
        "batch_size": BATCH,
        "learning_rate": setting.learning_rate,
        "layers": list(LAYERS[setting.model]),
        "seeds": seeds(setting),
    }
    (folder / "settings.json").write_text(json.dumps(told))
    shutil.copy(Path(__file__).with_name("flower_app.py"), folder)


def environment(folder: Path) -> dict[str, str]:
    """Of all its processes."""
    return {
        **os.environ,
        "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_HOME": str(folder / "home"),
        "FLOWER_FOLDER": str(folder),
        "CUDA_VISIBLE_DEVICES": "",
    }


def legacy(setting: Setting, folder: Path) -> Measured:
    """``start_server`` and a process of ``start_client`` for each client."""
    python, env = environment_python(), environment(folder)
    prepare(setting, folder)
    with Site(folder) as site:
        began = time.time()
        address = f"{SERVER}:{PORT}"
        site.start(site.server, "server", [python, "flower_app.py", "server", folder, f"0.0.0.0:{PORT}"], env)
        time.sleep(3)  # a client that finds nobody waits longer
        for number in range(setting.clients):
            words = [python, "flower_app.py", "client", folder, address, number]
            site.start(site.devices, f"client-{number}", words, env)
        return _watched("Flower, legacy gRPC", setting, folder, site, began)


def superlink(setting: Setting, folder: Path) -> Measured:
    """SuperLink and a SuperNode for each client."""
    environment_python()
    env = environment(folder)
    prepare(setting, folder)
    app, home = folder / "app", folder / "home"
    app.mkdir()
    home.mkdir()
    (app / "pyproject.toml").write_text(_PROJECT)
    (app / "yardstick.py").write_text(_APP)
    shutil.copy(folder / "flower_app.py", app)
    (home / "config.toml").write_text(_CONNECTION.format(address=f"{SERVER}:{PORT}"))
    with Site(folder) as site:
        began = time.time()
        words: list[object] = ["flower-superlink", "--insecure", "--host", SERVER, "--port", PORT]
        site.start(site.server, "superlink", words, env)
        time.sleep(6)
        for number in range(setting.clients):
            words = ["flower-supernode", "--insecure", "--superlink", f"{SERVER}:{PORT}"]
            words += ["--port", 9200 + number, "--node-config", f"partition-id={number}"]
            site.start(site.devices, f"supernode-{number}", words, env)
        time.sleep(5)
        site.start(site.server, "run", ["flwr", "run", app, "bench"], env)
        return _watched("Flower, SuperLink", setting, folder, site, began)


def _watched(name: str, setting: Setting, folder: Path, site: Site, began: float) -> Measured:
    """Wait for the last round, looking at memory meanwhile; bytes are those after the first round."""
    peaks, times, after_first = Peaks(site), folder / "times.json", 0
    deadline = time.monotonic() + WAIT_S
    done = 0
    while done < setting.rounds:
        if time.monotonic() > deadline:
            logs = {log.name: log.read_text(errors="replace")[-300:] for log in folder.glob("*.log")}
            raise RuntimeError(f"{name}: {done} of {setting.rounds} rounds in {WAIT_S:g} s: {logs}")
        time.sleep(0.2)
        peaks.look()
        now = _ends(times)
        if done == 0 and now:
            after_first = site.bytes()
        done = len(now)
    ends, total = _ends(times), site.bytes()
    weights = after(setting, folder, setting.rounds)
    steps = np.diff(ends)
    return Measured(
        name,
        round_s=float(np.median(steps)),
        first_s=ends[0] - began,
        round_bytes=(total - after_first) / (len(ends) - 1),
        server_mb=peaks.server_mb,
        client_mb=peaks.device_median_mb(setting.clients),
        accuracy=accuracy(setting, weights),
        bytes=total,
    )


def after(setting: Setting, folder: Path, number: int) -> Parameters:
    """The weights of a round, by our names."""
    with np.load(folder / f"round-{number}.npz") as made:
        return dict(zip(initial(setting), (made[f"w{i}"] for i in range(len(made))), strict=True))


def _ends(times: Path) -> list[float]:
    """When rounds have ended."""
    try:
        return [at for what, _, at in json.loads(times.read_text()) if what == "end"]
    except (FileNotFoundError, json.JSONDecodeError):
        return []
