"""Fashion-MNIST and the small models trained on it: real images for figures of accuracy.

The images are in Debian's package ``dataset-fashion-mnist`` (Xiao, Rasul and Vollgraf 2017,
arXiv:1708.07747).  Of the 60,000 for training the last 5,000 validate; the 10,000 for
testing are measured on and nothing else.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from collab.errors import InputError, IntegrityError
from collab.toolchain.demo_model import Digits

FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
ASSETS: Final = Path(__file__).parent / "assets"
CARD: Final = ASSETS / "fashion.json"
VALIDATING: Final = 5_000

MEMBERS: Final = ("cnn", "depthwise", "mlp")
"""Three that are right about as often; ``wrong`` is the first with its classes permuted."""
WRONG: Final = "wrong"
LARGE, SMALL = "large", "small"
NAMES: Final = (*MEMBERS, WRONG, LARGE, SMALL)


def _read(name: str, offset: int) -> Any:
    try:
        data = gzip.decompress((FOLDER / name).read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{FOLDER / name} is missing: apt-get install dataset-fashion-mnist") from error
    return np.frombuffer(data, np.uint8, offset=offset)


def images(part: str) -> Digits:
    """All of ``train`` or ``t10k``; raises `InputError` that says what to install."""
    pixels = _read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    return Digits(pixels, _read(f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64))


def training() -> tuple[Digits, Digits]:
    """What models learn from, and what validates them."""
    every = images("train")
    at = len(every.labels) - VALIDATING
    return (
        Digits(every.images[:at], every.labels[:at]),
        Digits(every.images[at:], every.labels[at:]),
    )


def model(name: str) -> Path:
    """A committed model, its digest checked; raises `IntegrityError`."""
    path = ASSETS / f"fashion_{name}.tflite"
    want = json.loads(CARD.read_text())["models"][name]["sha256"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != want:
        raise IntegrityError(f"{path}: its digest is not that of {CARD.name}; train anew with --full")
    return path
