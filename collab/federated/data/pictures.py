"""Examples as a folder of pictures: one folder for each class.  Needs Pillow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import BackendError, InputError, LimitExceeded
from collab.federated.data.examples import Examples
from collab.federated.data.sources import Source, class_number
from collab.federated.trainable import Description

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})
MAX_PIXELS: Final = 64_000_000
"""Of one picture before it takes the model's size."""
FULL: Final = 255.0

_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}


def read_pictures(source: Source, description: Description, max_bytes: int) -> Examples:
    """Read all pictures below the folders of the classes, in the order of their paths.

    They take the model's size: Pillow's bilinear filter, the whole picture.
    """
    root, shape = Path(source.place), description.input_shape
    if len(shape) != 3 or shape[2] not in _MODES:
        raise InputError(f"data {root}: pictures need a model that takes images, this one takes {shape}")
    found = _list(root, source)
    needed = math.prod(shape) * len(found)
    if needed > max_bytes:
        raise LimitExceeded(
            f"data {root}: {len(found)} pictures take {needed} bytes, over {max_bytes}; give limit=…"
        )
    x = np.empty((len(found), *shape), np.uint8)
    for row, (file, _) in enumerate(found):
        x[row] = _read(file, shape)
    labels = np.array([label for _, label in found], np.int32)
    return Examples(x, labels, FULL if source.scale is None else source.scale)


def _list(root: Path, source: Source) -> list[tuple[Path, int]]:
    """Pictures with their classes."""
    found = []
    for folder in sorted(
        entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    ):
        label = class_number(folder.name, source, f"{folder}")
        found += [(file, label) for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(
            f"data {root}: has neither .npz files nor folders of pictures; name a folder for each class"
        )
    # One class would fill the limit if they were taken as they come.
    if len(found) > source.limit:
        rows = np.sort(np.random.default_rng(source.seed).permutation(len(found))[: source.limit])
        found = [found[row] for row in rows]
    return found


def _read(file: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        from PIL import Image
    except ImportError as error:
        raise BackendError(
            "Pillow, which reads pictures, is missing: pip install 'collab[images]'"
        ) from error
    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise LimitExceeded(f"{file}: {picture.width}x{picture.height} pixels are over {MAX_PIXELS}")
            size = (shape[1], shape[0])
            made = picture.convert(_MODES[shape[2]]).resize(size, Image.Resampling.BILINEAR)
    except LimitExceeded:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them raise
        raise InputError(f"{file}: is no picture that can be read ({error})") from error
    return np.asarray(made, np.uint8).reshape(shape)
