"""A folder of prepared examples: splits, their classes, the preprocessing that was fitted on them.

    prepared.json          what is there, with the SHA-256 of every file
    preprocessing.json     what turns a raw file into a model's input
    card.json, card.md     what was found, dropped and made
    train.inputs.npy       and labels, for each split; images as uint8 pixels of the model's size

Pixels become float32 when they are read, by the same function that devices call.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.core.plan import Frozen
from collab.core.preprocessing import ImageSteps, Preprocessing, decode_preprocessing, to_json
from collab.errors import InputError, IntegrityError, UsageError
from collab.runtime.preprocessing.scaling import Floats, pixels_to_floats

VERSION: Final = 1
SPLITS: Final = ("train", "validation", "test")
MAX_INDEX_BYTES: Final = 64 << 20

SplitName = Literal["train", "validation", "test"]


class SplitFiles(Frozen, frozen=True, kw_only=True):
    """What is known of a split's files."""

    count: int
    inputs_sha256: str
    labels_sha256: str


class Index(Frozen, frozen=True, kw_only=True):
    """``prepared.json``."""

    version: int = VERSION
    classes: tuple[str, ...]
    seed: int
    preprocessing_sha256: str
    splits: dict[str, SplitFiles]


@dataclass(frozen=True, slots=True)
class Examples:
    """One split.

    Attributes:
        inputs: float32 ``[n, …]``, as the model takes them.
        labels: int64 ``[n]``, places in `Prepared.classes`.
    """

    inputs: Floats
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Raw:
    """One split as it is stored: pixels, or finished float32 inputs."""

    stored: NDArray[Any]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A folder that `collab data prepare` made.

    Attributes:
        classes: names of the classes, by label.
        preprocessing: what its inputs went through.
        digest: SHA-256 over all of it but the card.
    """

    folder: Path
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    seed: int
    digest: str
    splits: Mapping[str, SplitFiles]

    @classmethod
    def load(cls, folder: Path | str) -> Prepared:
        """Open a folder; splits are read when they are asked for.

        Raises:
            InputError: it is no such folder, or a newer one.
            IntegrityError: a file is not the one that was prepared.
        """
        folder = Path(folder)
        data = _read(folder / "prepared.json", MAX_INDEX_BYTES)
        try:
            index = msgspec.json.decode(data, type=Index)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{folder / 'prepared.json'}: {error}; prepare the data anew") from error
        if index.version != VERSION:
            raise InputError(
                f"{folder / 'prepared.json'}: version {index.version}, this collab reads {VERSION}; "
                "prepare the data anew"
            )
        preprocessing = _read(folder / "preprocessing.json", MAX_INDEX_BYTES)
        _check_digest(folder / "preprocessing.json", preprocessing, index.preprocessing_sha256)
        return cls(
            folder=folder,
            classes=index.classes,
            preprocessing=decode_preprocessing(preprocessing, str(folder / "preprocessing.json")),
            seed=index.seed,
            digest=hashlib.sha256(data).hexdigest(),
            splits=index.splits,
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        return self.preprocessing.input_shape

    def count(self, split: SplitName) -> int:
        """Examples of a split."""
        return self._files(split).count

    def split(self, split: SplitName) -> Examples:
        """A split as the model takes it.

        Raises:
            UsageError: there is no such split.
            InputError: a file cannot be read.
            IntegrityError: a file is not the one that was prepared.
        """
        raw = self.raw(split)
        steps = self.preprocessing.steps
        inputs = pixels_to_floats(raw.stored, steps) if isinstance(steps, ImageSteps) else raw.stored
        return Examples(inputs, raw.labels)

    def raw(self, split: SplitName) -> Raw:
        """A split as it is stored; images take a quarter of the memory so."""
        files = self._files(split)
        inputs = self._array(f"{split}.inputs.npy", files.inputs_sha256)
        labels = self._array(f"{split}.labels.npy", files.labels_sha256)
        if not len(inputs) == len(labels) == files.count:
            raise IntegrityError(f"{self.folder}: {split} has another number of examples; prepare it anew")
        return Raw(inputs, labels)

    def _files(self, split: str) -> SplitFiles:
        if split not in self.splits:
            raise UsageError(f"{self.folder}: has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def _array(self, name: str, sha256: str) -> NDArray[Any]:
        data = _read(self.folder / name, None)
        _check_digest(self.folder / name, data, sha256)
        found: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        return found


def prepared_files(
    splits: Mapping[str, Raw], classes: tuple[str, ...], preprocessing: Preprocessing, seed: int
) -> dict[str, bytes]:
    """The files of a folder but for the card, by name; the same for the same arguments."""
    files = {"preprocessing.json": to_json(preprocessing.check())}
    described = {}
    for name in SPLITS:
        raw = splits[name]
        inputs, labels = _npy(raw.stored), _npy(raw.labels.astype(np.int64))
        files |= {f"{name}.inputs.npy": inputs, f"{name}.labels.npy": labels}
        described[name] = SplitFiles(
            count=len(raw.labels),
            inputs_sha256=hashlib.sha256(inputs).hexdigest(),
            labels_sha256=hashlib.sha256(labels).hexdigest(),
        )
    index = Index(
        classes=classes,
        seed=seed,
        preprocessing_sha256=hashlib.sha256(files["preprocessing.json"]).hexdigest(),
        splits=described,
    )
    fields = {"version": index.version} | msgspec.to_builtins(index)
    files["prepared.json"] = msgspec.json.format(msgspec.json.encode(fields), indent=1) + b"\n"
    return files


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder beside its place, then move it there; raises `InputError`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder}: is there already; remove it or give another place")
    part: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        part.chmod(0o755)
        for name, data in files.items():
            with open(part / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, folder)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written: {error.strerror}") from error
    finally:
        if part is not None and part.exists():
            shutil.rmtree(part, ignore_errors=True)


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def _read(path: Path, most: int | None) -> bytes:
    try:
        size = path.stat().st_size
        if most is not None and size > most:
            raise InputError(f"{path}: {size} bytes are over {most}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: is missing; make the folder with `collab data prepare`") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _check_digest(path: Path, data: bytes, sha256: str) -> None:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IntegrityError(f"{path}: is not the file that was prepared; prepare the data anew")
