"""Examples in ``.npz`` files, one or a folder of them."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.errors import InputError, LimitExceeded
from collab.federated.data.examples import Examples
from collab.federated.data.sources import Source, as_labels
from collab.federated.trainable import Description

MAX_FILES: Final = 100_000

_X: Final = ("x", "images", "inputs", "features")
_Y: Final = ("y", "labels", "targets")


def read_archives(source: Source, description: Description, max_bytes: int) -> Examples:
    """Read one file, or all of a folder in the order of their names."""
    path = Path(source.place)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if len(files) > MAX_FILES:
        raise LimitExceeded(f"data {path}: {len(files)} files are over {MAX_FILES}; join some")
    parts: list[tuple[NDArray[Any], NDArray[Any]]] = []
    room, count = max_bytes, 0
    for file in files:
        x, y = _read(file, source, room)
        if len(x) != len(y):
            raise InputError(f"{file}: {len(x)} inputs with {len(y)} labels; give one for each")
        if parts and x.shape[1:] != parts[0][0].shape[1:]:
            raise InputError(
                f"{file}: inputs of shape {x.shape[1:]}, in {files[0]} they have {parts[0][0].shape[1:]}"
            )
        parts.append((x, as_labels(y, source, description, str(file))))
        room -= x.nbytes + y.nbytes
        count += len(y)
        if count >= source.limit:
            break
    x, y = (
        np.concatenate([part[side] for part in parts]) if len(parts) > 1 else parts[0][side]
        for side in (0, 1)
    )
    return Examples(x, y, source.scale or 1.0)


def _read(file: Path, source: Source, room: int) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            keys = _key(file, names, source.x, _X, "x"), _key(file, names, source.y, _Y, "y")
            sizes = [_size(archive, key) for key in keys]
            if sum(sizes) > room:
                raise LimitExceeded(
                    f"{file}: {sum(sizes)} bytes, there is room for {room}; give less or raise the bound"
                )
            x, y = (_array(archive, key) for key in keys)
    except (InputError, LimitExceeded):
        raise
    except Exception as error:  # numpy, zipfile and zlib each have errors of their own for broken files
        reason = getattr(error, "strerror", None) or "is broken or no .npz file; write it with numpy.savez"
        raise InputError(f"{file}: {reason}") from error
    if x.ndim < 2 or x.dtype.kind not in "fiub":
        raise InputError(f"{file}: {keys[0]!r} must be numbers, one row or image for each example")
    return x, y


def _key(file: Path, names: list[str], wanted: str, usual: tuple[str, ...], option: str) -> str:
    found = [name for name in ((wanted,) if wanted else usual) if name in names]
    if not found:
        raise InputError(
            f"{file}: has {', '.join(names) or 'nothing'}; say which it is, such as {option}=NAME"
        )
    return found[0]


def _open(archive: zipfile.ZipFile, key: str) -> IO[bytes]:
    return archive.open(f"{key}.npy")


def _size(archive: zipfile.ZipFile, key: str) -> int:
    """Bytes of an array by its header alone."""
    with _open(archive, key) as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
    return math.prod(shape) * int(dtype.itemsize)


def _array(archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    with _open(archive, key) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
