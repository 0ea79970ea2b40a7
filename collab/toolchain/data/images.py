"""Pictures: folders of files by class, idx files, ``.npz`` files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from collab.core.preprocessing import ImageSteps, Preprocessing, Scaling
from collab.errors import InputError, LimitExceeded
from collab.runtime.preprocessing.images import SUFFIXES, array_pixels, read_pixels
from collab.toolchain.data.archives import read_archive
from collab.toolchain.data.card import Range
from collab.toolchain.data.collected import Collected, class_labels
from collab.toolchain.data.findings import Findings, Listed, Policies, refuse
from collab.toolchain.data.idx import read_idx
from collab.toolchain.data.splitting import Rows
from collab.toolchain.extras import needed

MAX_BYTES: Final = 4 << 30
"""Of all pixels together."""
CHUNK: Final = 256
"""Pictures whose statistics are taken at a time."""

_SPLITS: Final = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
} | {
    "val": "validation",
    "test": "test",
    "t10k": "test",
}


@dataclass(frozen=True, slots=True)
class ImageKind:
    """How pictures are prepared.

    Attributes:
        steps: what they go through; its `scaling` is fitted where `normalise` is not ``none``.
        group: ``folder`` where folders within the classes' hold what belongs together.
    """

    steps: ImageSteps
    normalise: Literal["none", "standard", "min_max"] = "none"
    classes: tuple[str, ...] = ()
    group: str = ""
    name: str = field(default="images", init=False)

    def collect(self, source: Path, policies: Policies, findings: Findings) -> Collected:
        """All pictures in the model's size, in the order of their paths."""
        if self.group not in ("", "folder"):
            raise InputError(f"--group {self.group}: pictures are grouped by folder: give --group folder")
        if source.is_file():
            return self._archive(source)
        idx = sorted(source.glob("*-images-idx3-ubyte*"))
        return self._idx(idx) if idx else self._folders(source, policies, findings)

    def fit(self, found: Collected, rows: Rows, policies: Policies) -> Preprocessing:
        """Statistics of each channel over the pictures that are trained on."""
        return Preprocessing(steps=msgspec.structs.replace(self.steps, scaling=self._scaling(found, rows)))

    def store(self, found: Collected, preprocessing: Preprocessing) -> NDArray[Any]:
        """Pixels; they become float32 when they are read."""
        return found.content

    def ranges(self, found: Collected, rows: Rows) -> list[Range]:
        """Of each channel's pixels."""
        names = ("grey",) if self.steps.colour == "grey" else ("red", "green", "blue")
        made = []
        for channel, name in enumerate(names):
            counts = np.bincount(found.content[rows][..., channel].ravel(), minlength=256)
            mean = float(np.average(np.arange(256), weights=counts))
            std = float(np.average((np.arange(256) - mean) ** 2, weights=counts) ** 0.5)
            seen = np.flatnonzero(counts)
            made.append(Range(name=name, least=float(seen[0]), greatest=float(seen[-1]), mean=mean, std=std))
        return made

    def _scaling(self, found: Collected, rows: Rows) -> Scaling | None:
        if self.normalise == "none":
            return None
        preprocessing = needed("sklearn.preprocessing")
        scaler = (
            preprocessing.StandardScaler() if self.normalise == "standard" else preprocessing.MinMaxScaler()
        )
        for at in range(0, len(rows), CHUNK):
            pixels = found.content[rows[at : at + CHUNK]].reshape(-1, self.steps.channels)
            scaler.partial_fit(pixels.astype(np.float64) / self.steps.scale)
        if self.normalise == "standard":
            shift, width = scaler.mean_, scaler.scale_
        else:
            shift, width = scaler.data_min_, scaler.data_max_ - scaler.data_min_
        # A channel of one value has no width of its own.
        width = np.where(width > 0, width, 1.0)
        return Scaling(method=self.normalise, shift=tuple(shift.tolist()), width=tuple(width.tolist()))

    def _collected(
        self,
        pixels: NDArray[np.uint8],
        names: Sequence[str],
        origins: Sequence[str],
        digest: str,
        groups: Sequence[str] = (),
        given: Sequence[str] = (),
        classes: tuple[str, ...] = (),
    ) -> Collected:
        labels, known = class_labels(names, origins, classes or self.classes)
        return Collected(pixels, labels, known, origins, groups, given, digest)

    def _resized(self, arrays: NDArray[Any], where: str) -> NDArray[np.uint8]:
        shaped = arrays.ndim == 3 or (arrays.ndim == 4 and arrays.shape[3] in (1, 3))
        if not shaped or arrays.dtype != np.uint8:
            raise InputError(
                f"{where}: images are {arrays.dtype}{list(arrays.shape)}; give uint8 [n, height, width] "
                "with 1 or 3 channels behind"
            )
        self._check_size(len(arrays), where)
        steps = self.steps
        same = arrays.shape[1:3] == (steps.height, steps.width) and steps.crop == 1.0
        if same and arrays.size == len(arrays) * steps.height * steps.width * steps.channels:
            return arrays.reshape(-1, steps.height, steps.width, steps.channels)
        return np.stack([array_pixels(one, steps) for one in arrays])

    def _check_size(self, count: int, where: str) -> None:
        needed = count * self.steps.height * self.steps.width * self.steps.channels
        if needed > MAX_BYTES:
            raise LimitExceeded(
                f"{where}: {count} images take {needed} bytes, over {MAX_BYTES}; make --size less"
            )

    def _archive(self, source: Path) -> Collected:
        if source.suffix.lower() != ".npz":
            raise InputError(f"{source}: give a folder of pictures, of idx files, or an .npz file")
        found = read_archive(source)
        pixels = self._resized(found.x, str(source))
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        return self._collected(pixels, found.labels, found.origins, digest, found.groups)

    def _idx(self, files: Sequence[Path]) -> Collected:
        pixels: list[NDArray[np.uint8]] = []
        names: list[str] = []
        origins: list[str] = []
        given: list[str] = []
        digest = hashlib.sha256()
        for file in files:
            part = file.name.split("-")[0]
            other = file.with_name(file.name.replace("-images-idx3-", "-labels-idx1-"))
            images, labels = read_idx(file), read_idx(other)
            if labels.ndim != 1 or len(images) != len(labels):
                raise InputError(f"{other}: {len(labels)} labels for {len(images)} images; give one for each")
            pixels.append(self._resized(images, str(file)))
            names += map(str, labels.tolist())
            origins += [f"{file}, image {row}" for row in range(len(images))]
            given += [_SPLITS.get(part, "")] * len(images)
            digest.update(file.read_bytes() + other.read_bytes())
        # A file for training alone says nothing about what is measured on.
        tested = given if "test" in given else ()
        return self._collected(np.concatenate(pixels), names, origins, digest.hexdigest(), given=tested)

    def _folders(self, source: Path, policies: Policies, findings: Findings) -> Collected:
        entries = list(_entries(source, self.classes))
        self._check_size(len(entries), str(source))
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            read = list(pool.map(lambda entry: _try_read(entry.file, self.steps), entries))
        broken = [
            Listed(str(one.file), got) for one, got in zip(entries, read, strict=True) if isinstance(got, str)
        ]
        if broken and policies.corrupt == "fail":
            raise refuse("corrupt", broken, "remove them, or give --corrupt drop")
        for entry in broken:
            findings.drop("corrupt", entry.where, entry.why)
        kept = [
            (one, got[0], got[1]) for one, got in zip(entries, read, strict=True) if not isinstance(got, str)
        ]
        if not kept:
            raise InputError(f"{source}: has no picture that can be read; name a folder for each class")
        return self._collected(
            np.stack([pixels for _, pixels, _ in kept]),
            [one.label for one, _, _ in kept],
            [str(one.file) for one, _, _ in kept],
            hashlib.sha256(b"".join(digest for _, _, digest in kept)).hexdigest(),
            [one.group for one, _, _ in kept] if self.group else (),
            [one.split for one, _, _ in kept] if any(one.split == "test" for one, _, _ in kept) else (),
            # By folders, so that one without a picture is seen.
            self.classes or tuple(_class_folders(source)),
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    file: Path
    label: str
    group: str
    split: str


def _split_folders(source: Path) -> dict[str, Path]:
    """Folders of a source that names its own splits; the source itself otherwise."""
    folders = _folders_of(source)
    if folders and all(folder.name.lower() in _SPLITS for folder in folders):
        return {_SPLITS[folder.name.lower()]: folder for folder in folders}
    return {"": source}


def _folders_of(source: Path) -> list[Path]:
    try:
        return sorted(one for one in source.iterdir() if one.is_dir() and not one.name.startswith("."))
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}; give a folder of pictures by class") from error


def _class_folders(source: Path) -> list[str]:
    return sorted({one.name for root in _split_folders(source).values() for one in _folders_of(root)})


def _entries(source: Path, classes: tuple[str, ...]) -> Iterator[_Entry]:
    for split, root in _split_folders(source).items():
        for folder in _folders_of(root):
            if classes and folder.name not in classes:
                raise InputError(
                    f"{folder}: {folder.name!r} is none of --classes {','.join(classes)[:80]}; "
                    "add it there or remove the folder"
                )
            for file in sorted(folder.rglob("*")):
                if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file():
                    within = file.relative_to(folder).parts
                    group = f"{folder.name}/{within[0]}" if len(within) > 1 else str(file)
                    yield _Entry(file, folder.name, group, split)


def _try_read(file: Path, steps: ImageSteps) -> tuple[NDArray[np.uint8], bytes] | str:
    """Pixels and the file's digest, or why there are none."""
    try:
        pixels = read_pixels(file, steps)
        return pixels, hashlib.sha256(file.read_bytes()).digest()
    except (InputError, LimitExceeded) as error:
        return str(error).removeprefix(f"{file}: ")
