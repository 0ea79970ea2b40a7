"""``.keras`` files, read with Keras 3; files written whole or not at all, and durably."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from collab.errors import InputError, ModelError
from collab.toolchain.extras import needed


def load_model(path: Path) -> Any:
    """A Keras 3 model; no code in the file is run.

    Raises:
        ModelError: There is no such file, or it is no Keras model.
        BackendError: Keras is not installed.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file: save the model as .keras")
    needed("tensorflow")  # Keras computes with it
    keras = needed("keras")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a file makes it raise
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{path}: is no Keras model ({reason}): save it as .keras") from error


def write_keras(model: Any, path: Path) -> None:
    """Write a ``.keras`` file, with the optimizer's state if the model is compiled; raises `InputError`."""
    part: Path | None = None
    try:
        # Keras goes by the ending, so the part has it too.
        handle, name = tempfile.mkstemp(suffix=".keras", prefix=f".{path.stem}.", dir=path.parent)
        os.close(handle)
        part = Path(name)
        model.save(part)
        put_in_place(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises `InputError`."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        put_in_place(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def put_in_place(part: Path, path: Path) -> None:
    """Move a finished file beside its place into it, through power cuts too."""
    part.chmod(0o644)
    _sync(part)
    os.replace(part, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
