"""All that the store asks of a disk, one method for each system call, so that a test can cut power at any.

Paths are relative to the store's folder.  What is promised after a loss of power is what POSIX
promises: a file's content after `fsync`, its name after `fsync_dir` of its folder, and that
`rename` within a folder shows the old file or the new one.
"""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

READ_BYTES: Final = 1 << 20
LOCK: Final = "lock"


class Disk(ABC):
    """A folder; every method raises `OSError` as the system does."""

    @abstractmethod
    def read(self, path: str) -> Iterator[bytes]:
        """A file's content in parts; `FileNotFoundError` if there is none."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """What a folder holds; `FileNotFoundError` if there is none."""

    @abstractmethod
    def mkdir(self, path: str) -> None:
        """Make a folder; one that exists stays."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Add to a file's end, all of it; makes the file.  Not safe before `fsync`."""

    @abstractmethod
    def fsync(self, path: str) -> None:
        """Make a file's content safe; not its name."""

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Name a file anew, in place of what had that name.  Not safe before `fsync_dir`."""

    @abstractmethod
    def unlink(self, path: str) -> None:
        """Remove a name.  Not safe before `fsync_dir`."""

    @abstractmethod
    def fsync_dir(self, path: str) -> None:
        """Make a folder's names safe."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """One process at a time changes the store; the others wait."""


class RealDisk(Disk):
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> Iterator[bytes]:
        """As `Disk` says."""
        yield from file_parts(self.root / path)

    def names(self, folder: str) -> list[str]:
        """As `Disk` says."""
        return os.listdir(self.root / folder)

    def mkdir(self, path: str) -> None:
        """As `Disk` says."""
        (self.root / path).mkdir(parents=True, exist_ok=True)

    def write(self, path: str, data: bytes) -> None:
        """As `Disk` says."""
        # Never through a link that somebody left at the file's name.
        handle = os.open(self.root / path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
        finally:
            os.close(handle)

    def fsync(self, path: str) -> None:
        """As `Disk` says."""
        _sync(self.root / path, os.O_RDONLY)

    def rename(self, old: str, new: str) -> None:
        """As `Disk` says."""
        os.replace(self.root / old, self.root / new)

    def unlink(self, path: str) -> None:
        """As `Disk` says."""
        os.unlink(self.root / path)

    def fsync_dir(self, path: str) -> None:
        """As `Disk` says."""
        _sync(self.root / path, os.O_RDONLY | os.O_DIRECTORY)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """As `Disk` says."""
        handle = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def file_parts(path: Path) -> Iterator[bytes]:
    """A file's content, as `Store.add` takes it.  Raises `OSError`."""
    with open(path, "rb") as file:
        while part := file.read(READ_BYTES):
            yield part


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
