"""The few things that the journal does to a disk, so that tests can end the world within any of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from collab.errors import StoreError


class Disk(Protocol):
    """Files in one folder, by name.  All raise `StoreError`."""

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None if there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Make a file anew.  Neither its bytes nor its name are durable yet."""

    def append(self, name: str, data: bytes) -> None:
        """Add to a file; the bytes are not durable yet."""

    def truncate(self, name: str, size: int) -> None:
        """Cut a file off."""

    def sync(self, name: str) -> None:
        """Make a file's bytes durable."""

    def rename(self, old: str, new: str) -> None:
        """Put a file in another's place, at once; durable with `sync_names`."""

    def sync_names(self) -> None:
        """Make names durable."""

    def remove(self, name: str) -> None:
        """Forget a file, if it is there."""

    def names(self) -> list[str]:
        """All files, sorted."""


def replace_file(disk: Disk, name: str, data: bytes) -> None:
    """Write a file durably, whole or not at all."""
    part = f"{name}.part"
    disk.write(part, data)
    disk.sync(part)
    disk.rename(part, name)
    disk.sync_names()


class Folder:
    """A `Disk` that is a folder; it is made if it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._translated("make", ""):
            path.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> bytes | None:
        """See `Disk.read`."""
        with self._translated("read", name):
            try:
                return (self.path / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """See `Disk.write`."""
        with self._translated("write", name):
            (self.path / name).write_bytes(data)

    def append(self, name: str, data: bytes) -> None:
        """See `Disk.append`."""
        with self._translated("append to", name), open(self.path / name, "ab") as file:
            file.write(data)

    def truncate(self, name: str, size: int) -> None:
        """See `Disk.truncate`."""
        with self._translated("cut off", name):
            os.truncate(self.path / name, size)

    def sync(self, name: str) -> None:
        """See `Disk.sync`."""
        self._sync(name, os.O_RDWR)

    def rename(self, old: str, new: str) -> None:
        """See `Disk.rename`."""
        with self._translated("rename", old):
            os.replace(self.path / old, self.path / new)

    def sync_names(self) -> None:
        """See `Disk.sync_names`."""
        self._sync("", os.O_RDONLY)

    def remove(self, name: str) -> None:
        """See `Disk.remove`."""
        with self._translated("remove", name):
            (self.path / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """See `Disk.names`."""
        with self._translated("list", ""):
            return sorted(entry.name for entry in os.scandir(self.path) if entry.is_file())

    def _sync(self, name: str, flags: int) -> None:
        with self._translated("sync", name):
            descriptor = os.open(self.path / name, flags)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextmanager
    def _translated(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.path / name}: cannot {what} it: {error.strerror or error}") from error
