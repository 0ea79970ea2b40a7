"""Weights from a user's file, for a model that was built here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from collab.errors import ModelError

ENDINGS: Final = (".keras", ".h5", ".hdf5")


def load_pretrained(model: Any, path: Path) -> bool:
    """Take a file's weights, by the names of the layers; its classifier only where it fits.

    Args:
        path: ``.keras``, ``.weights.h5``, or ``.h5`` as keras.applications publishes them.

    Returns:
        Whether the classifier's weights were taken too.

    Raises:
        ModelError: the file cannot be read, or lacks weights of other layers.
    """
    if not path.is_file():
        raise ModelError(f"--weights {path}: there is no such file")
    if path.suffix not in ENDINGS:
        raise ModelError(f"--weights {path}: give a file that ends in {', '.join(ENDINGS)}")
    weighty = [layer for layer in model.layers if layer.weights]
    before = [layer.get_weights() for layer in weighty]
    # What is no number afterwards was not in the file.
    for layer, weights in zip(weighty, before, strict=True):
        layer.set_weights([np.full_like(weight, np.nan) for weight in weights])
    legacy = path.suffix != ".keras" and not path.name.endswith(".weights.h5")
    more = {"by_name": True} if legacy else {}
    try:
        with warnings.catch_warnings():
            # It says what it leaves out, which is found below.
            warnings.simplefilter("ignore")
            model.load_weights(path, skip_mismatch=True, **more)
    except Exception as error:  # Keras and h5py raise whatever a file makes them raise
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"--weights {path}: cannot be read ({reason})") from error
    left = []
    for layer, weights in zip(weighty, before, strict=True):
        if any(np.isnan(weight).any() for weight in layer.get_weights()):
            left.append(layer.name)
            layer.set_weights(weights)
    missing = [name for name in left if name != weighty[-1].name]
    if missing:
        raise ModelError(
            f"--weights {path}: has no weights for {len(missing)} of {len(weighty)} layers, such as "
            f"{missing[0]!r}: it is of another architecture, input or --option"
        )
    return not left
