"""Opens a packaged model; nothing in it is used before its digest is checked.

A bundle is a zip file without compression, so what it says of sizes can be compared with
the file's own size before anything is read.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import Preprocessing, decode_preprocessing
from collab.errors import InputError, IntegrityError, ModelError
from collab.updates.bundle.manifest import (
    MANIFEST,
    MAX_FILES,
    MAX_LABELS,
    MAX_MANIFEST_BYTES,
    File,
    Manifest,
    decode_manifest,
)
from collab.updates.policies.reference import decode_reference

_ZIP: Final = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle; its files are read when they are asked for.

    Attributes:
        digest: SHA-256 of the manifest, and so of all files.
    """

    path: Path
    manifest: Manifest
    digest: str

    def read(self, entry: File) -> bytes:
        """A file's bytes.

        Raises:
            ModelError: the bundle cannot be read.
            IntegrityError: they are not those that the manifest names.
        """
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(entry.file) as file:
                data = file.read(entry.bytes + 1)
        except Exception as error:  # zipfile raises whatever a broken file makes it raise
            raise _broken(self.path, error) from error
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise IntegrityError(f"{self.path}: {entry.file} is not the file that was packaged; get it again")
        return data

    def model(self) -> bytes:
        """The ``.tflite``."""
        return self.read(self.manifest.model)

    def preprocessing(self) -> Preprocessing | None:
        """What turns raw files into inputs."""
        entry = self.manifest.preprocessing
        if entry is None:
            return None
        return decode_preprocessing(self.read(entry), f"{self.path}: {entry.file}")

    def labels(self) -> tuple[str, ...]:
        """Names of the classes; empty if it has none."""
        entry = self.manifest.labels
        return () if entry is None else decode_labels(self.read(entry), f"{self.path}: {entry.file}")

    def reference(self) -> bytes | None:
        """What inputs and answers are like on the data that it was made with; checked, as it is stored.

        Raises:
            ModelError: it is not such a file.
        """
        entry = self.manifest.reference
        if entry is None:
            return None
        data = self.read(entry)
        try:
            decode_reference(data, f"{self.path}: {entry.file}")
        except InputError as error:
            raise ModelError(str(error)) from error
        return data

    def golden(self) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]] | None:
        """Inputs and answers by tensor name, with a leading axis of examples."""
        golden = self.manifest.golden
        if golden is None:
            return None
        inputs, outputs = (
            {
                port.name: np.frombuffer(self.read(file), port.dtype).reshape(golden.count, *port.shape)
                for file, port in zip(files, ports, strict=True)
            }
            for files, ports in (
                (golden.inputs, self.manifest.inputs),
                (golden.outputs, self.manifest.outputs),
            )
        )
        return inputs, outputs


def is_bundle(path: Path) -> bool:
    """Whether a file begins as a bundle does; a ``.tflite`` never does."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_ZIP)) == _ZIP
    except OSError:
        return False


def open_bundle(path: Path) -> Bundle:
    """Read a bundle's manifest and compare it with what is there.

    Raises:
        ModelError: the file is missing, no bundle, unsafe, or of a newer version.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = _checked(path, archive.infolist(), size)
            with archive.open(MANIFEST) as file:
                data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file; make it with `collab model package`") from error
    except ModelError:
        raise
    except Exception as error:  # the same
        raise _broken(path, error) from error
    try:
        manifest = decode_manifest(data)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    named = {entry.file: entry.bytes for entry in manifest.files}
    if entries != named | {MANIFEST: len(data)}:
        strange = sorted(entries.keys() ^ (named.keys() | {MANIFEST})) or ["a size"]
        raise ModelError(f"{path}: its files are not those of its manifest ({strange[0][:80]}); get it again")
    return Bundle(path, manifest, hashlib.sha256(data).hexdigest())


def decode_labels(data: bytes, what: str) -> tuple[str, ...]:
    """A JSON list of names; raises `ModelError`."""
    try:
        labels = msgspec.json.decode(data, type=tuple[str, ...])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{what}: {error}") from error
    if not 1 <= len(labels) <= MAX_LABELS:
        raise ModelError(f"{what}: {len(labels)} labels; 1 to {MAX_LABELS} can be")
    return labels


def _broken(path: Path, error: Exception) -> ModelError:
    reason = getattr(error, "strerror", None) or "is no packaged model, or is cut off"
    return ModelError(f"{path}: {reason}; make it with `collab model package`, or get it again")


def _checked(path: Path, entries: list[zipfile.ZipInfo], size: int) -> dict[str, int]:
    """Sizes by name of a zip file's entries that can be read safely; raises `ModelError`."""
    if len(entries) > MAX_FILES + 1:
        raise ModelError(f"{path}: {len(entries)} files are over {MAX_FILES + 1}")
    found: dict[str, int] = {}
    for entry in entries:
        name = entry.filename
        if name in found:
            raise ModelError(f"{path}: {name[:80]!r} stands there twice")
        plain = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG) and not name.endswith("/")
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
        if not plain or not stored or entry.flag_bits & 0x1:
            raise ModelError(f"{path}: {name[:80]!r} is compressed, encrypted or no plain file")
        found[name] = entry.file_size
    if sum(found.values()) > size:
        raise ModelError(f"{path}: its files would take {sum(found.values())} bytes, it has {size}")
    return found
