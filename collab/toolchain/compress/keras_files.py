"""``.keras`` files, read with Keras 3 and written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from collab.errors import ModelError
from collab.toolchain.extras import needed


def load_model(path: Path) -> Any:
    """A Keras 3 model; no code in the file is run.

    Raises:
        ModelError: There is no such file, or it is no Keras model.
        BackendError: Keras is not installed.
    """
    keras = needed("keras")
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file: save the model as .keras")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a file makes it raise
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{path}: is no Keras model ({reason}): save it as .keras") from error


def save_model(model: Any, path: Path) -> None:
    """Write a model beside its place, then move it there."""
    part = path.with_name(f".{path.stem}.part.keras")
    try:
        model.save(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
