"""Fashion-MNIST, prepared: the images of Debian's ``dataset-fashion-mnist``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from collab.core.preprocessing import ImageSteps, Preprocessing
from collab.errors import InputError
from collab.toolchain.data.idx import read_idx
from collab.toolchain.data.prepared import Prepared, Raw, write_prepared

FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
CLASSES: Final = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def prepare_fashion(out: Path, seed: int = 0, validation: int = 5_000) -> Prepared:
    """Prepare it: the 10,000 for testing as they are, `validation` of the others drawn by `seed`.

    Raises:
        InputError: the package is not installed, or `out` is there already.
    """
    if not FOLDER.is_dir():
        raise InputError(f"{FOLDER} is missing: apt-get install dataset-fashion-mnist")
    images, labels = (
        {part: read_idx(FOLDER / f"{part}-{name}-ubyte.gz") for part in ("train", "t10k")}
        for name in ("images-idx3", "labels-idx1")
    )
    rows = np.random.default_rng(seed).permutation(len(labels["train"]))
    parts = {"train": np.sort(rows[validation:]), "validation": np.sort(rows[:validation])}
    splits = {
        name: Raw(images["train"][part][..., None], labels["train"][part]) for name, part in parts.items()
    }
    splits["test"] = Raw(images["t10k"][..., None], labels["t10k"])
    steps = Preprocessing(steps=ImageSteps(height=28, width=28, colour="grey"))
    return write_prepared(out, splits, CLASSES, steps, seed, {})
