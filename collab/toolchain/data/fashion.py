"""Fashion-MNIST, prepared: the images of Debian's ``dataset-fashion-mnist``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from collab.core.preprocessing import ImageSteps
from collab.errors import InputError
from collab.toolchain.data.images import ImageKind
from collab.toolchain.data.prepare import Told, prepare
from collab.toolchain.data.prepared import Prepared

FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
CLASSES: Final = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
TOLD: Final = Told(
    title="Fashion-MNIST",
    about="70,000 grey pictures of clothes, 28x28 (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747).",
    licence="MIT (Expat)",
)


def prepare_fashion(out: Path, seed: int = 0, validation: int = 5_000) -> Prepared:
    """Prepare it: the 10,000 for testing as they are, `validation` of the others drawn by `seed`.

    Raises:
        InputError: the package is not installed, or `out` is there already.
    """
    if not FOLDER.is_dir():
        raise InputError(f"{FOLDER} is missing: apt-get install dataset-fashion-mnist")
    kind = ImageKind(ImageSteps(height=28, width=28, colour="grey"), classes=CLASSES)
    return prepare(FOLDER, kind, out, validation=validation / 60_000, seed=seed, told=TOLD)
