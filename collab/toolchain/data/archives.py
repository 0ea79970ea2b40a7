"""Arrays and labels of an ``.npz`` file: ``x``, ``y`` and, where it is there, ``group``."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import InputError, LimitExceeded

MAX_BYTES: Final = 4 << 30

_X: Final = ("x", "images", "inputs", "features")
_Y: Final = ("y", "labels", "targets")
_GROUP: Final = ("group", "groups")


@dataclass(frozen=True, slots=True)
class Archive:
    """What an ``.npz`` file holds: inputs, labels as text, groups as text or none."""

    x: NDArray[Any]
    labels: Sequence[str]
    groups: Sequence[str]
    origins: Sequence[str]


def read_archive(path: Path) -> Archive:
    """Read one.

    Raises:
        InputError: arrays are missing, of another length, or labels are no classes.
        LimitExceeded: it holds more than `MAX_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (total := sum(entry.file_size for entry in archive.infolist())) > MAX_BYTES:
                raise LimitExceeded(f"{path}: {total} bytes are over {MAX_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            names = {key: arrays[key] for key in arrays.files if key in (*_X, *_Y, *_GROUP)}
    except LimitExceeded:
        raise
    except Exception as error:  # numpy, zipfile and zlib each have errors of their own for broken files
        reason = getattr(error, "strerror", None) or "is broken or no .npz file; write it with numpy.savez"
        raise InputError(f"{path}: {reason}") from error
    x, y = _named(path, names, _X), _named(path, names, _Y)
    if x.ndim < 2 or x.dtype.kind not in "fiub":
        raise InputError(f"{path}: inputs must be numbers, one row, image or window for each example")
    groups = next((names[name] for name in _GROUP if name in names), None)
    for what, array in (("labels", y), ("groups", groups)):
        if array is not None and array.shape != (len(x),):
            raise InputError(f"{path}: {what} of shape {array.shape} for {len(x)} inputs; give one for each")
    origins = [f"{path}, row {row}" for row in range(len(x))]
    return Archive(
        x, _label_names(y, origins), () if groups is None else [str(group) for group in groups], origins
    )


def _named(path: Path, arrays: dict[str, NDArray[Any]], usual: Sequence[str]) -> NDArray[Any]:
    for name in usual:
        if name in arrays:
            return arrays[name]
    raise InputError(f"{path}: has no array {usual[0]!r} ({', '.join(usual[1:])}); name it so")


def _label_names(y: NDArray[Any], origins: Sequence[str]) -> list[str]:
    if y.dtype.kind in "US":
        return [str(label) for label in y]
    if y.dtype.kind not in "fiub":
        raise InputError(
            f"{origins[0]}: labels of type {y.dtype} are no classes; give whole numbers or names"
        )
    names = []
    for label, where in zip(y.tolist(), origins, strict=True):
        if not math.isfinite(label) or label != int(label) or label < 0:
            raise InputError(f"{where}: label {label} is no class; give whole numbers from 0 on, or names")
        names.append(str(int(label)))
    return names
