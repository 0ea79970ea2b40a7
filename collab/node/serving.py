"""Releases that this node gives to others: files of repositories, and content that it fetched, by digest."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from collab.core.ids import check_digest, check_name
from collab.errors import InputError, NotLoaded, StoreError
from collab.updates.fetch.base import MAX_METADATA_BYTES, check_path

MAX_PART_BYTES: Final = 1 << 20
"""Most that `GetReleaseFile` gives at a time."""
MAX_FOLDERS: Final = 64
CONTENT: Final = ("content", "blobs", "deltas")
"""Where a store of releases, and what `collab release fetch` leaves, keep content by its digest."""


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[serve_releases]`` of a node's settings."""

    folders: dict[str, Path] = {}
    """Repositories of releases that this node serves, by the name that others ask for."""
    nearby: tuple[Path, ...] = ()
    """Stores of releases, and folders that releases were fetched into, whose content others may read."""

    def __post_init__(self) -> None:
        for name in self.folders:
            try:
                check_name(name, "folders")
            except InputError as error:
                raise ValueError(str(error)) from error
        if len(self.folders) + len(self.nearby) > MAX_FOLDERS:
            raise ValueError(f"more than {MAX_FOLDERS} folders")


class Piece(NamedTuple):
    """A part of a file, and the size of all of it."""

    total: int
    data: bytes


class ReleaseFiles:
    """Reads what is served.  All methods block on the disk.

    Links are followed nowhere below a folder, so nothing outside it can be read.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = config

    @property
    def repositories(self) -> list[str]:
        """Names of the repositories."""
        return sorted(self._config.folders)

    def read(self, repository: str, path: str, offset: int, limit: int) -> Piece:
        """A part of a repository's file, or, with an empty name, of content by its digest.

        Raises:
            NotLoaded: it is not served here.
            InputError: the path is none within a repository.
            StoreError: the disk fails.
        """
        if repository:
            return self._file(repository, path, offset, limit)
        sha256 = check_digest(path, "GetReleaseFile.path:")
        for folder in self._config.nearby:
            for place in CONTENT:
                with suppress(FileNotFoundError):
                    return _read(folder, (place, sha256), offset, limit)
        raise NotLoaded(f"release content {sha256[:12]}: is not here")

    def metadata(self, repository: str, path: str) -> bytes:
        """A whole file of metadata; raises as `read`."""
        piece = self._file(repository, path, 0, MAX_METADATA_BYTES + 1)
        if piece.total > MAX_METADATA_BYTES:
            raise StoreError(f"{path[:80]}: metadata of {piece.total} bytes is over {MAX_METADATA_BYTES}")
        return piece.data

    def _file(self, repository: str, path: str, offset: int, limit: int) -> Piece:
        folder = self._config.folders.get(repository)
        if folder is None:
            known = ", ".join(self.repositories) or "none"
            raise NotLoaded(f"repository {repository[:63]!r}: is not served here, but {known}")
        with suppress(FileNotFoundError):
            return _read(folder, served(path), offset, limit)
        raise NotLoaded(f"{path[:80]!r}: repository {repository!r} has no such file")


def served(path: str) -> tuple[str, ...]:
    """The parts of a path that a repository's layout knows.

    Raises `InputError` for one that could lead out, `NotLoaded` for one that devices have no use for.
    """
    parts = tuple(check_path(path).split("/"))
    if parts[0] == "metadata" and len(parts) == 2 and parts[1].endswith(".json"):
        return parts
    if parts[0] == "targets" and len(parts) > 1 and not parts[-1].endswith(".part"):
        return parts
    raise NotLoaded(f"{path[:80]!r}: is no metadata and no target of a repository")


def _read(folder: Path, parts: Sequence[str], offset: int, limit: int) -> Piece:
    """Raises `FileNotFoundError` for everything that is no plain file below the folder."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for depth, part in enumerate(parts, 1):
            kind = os.O_DIRECTORY if depth < len(parts) else os.O_NONBLOCK
            try:
                inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=handle)
            finally:
                os.close(handle)
            handle = inner
    except OSError as error:
        raise FileNotFoundError from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError
        return Piece(found.st_size, os.pread(handle, limit, offset) if offset < found.st_size else b"")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{'/'.join(parts)}: cannot be read: {error.strerror}") from error
    finally:
        os.close(handle)
