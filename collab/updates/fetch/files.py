"""Repositories in a folder, and in one archive that is carried by hand."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Final
from urllib.parse import unquote

from collab.errors import InputError, PeerError
from collab.updates.fetch.base import CHUNK_BYTES, NotOffered, Opened, Source, check_path

MAX_ENTRIES: Final = 10_000


class FolderSource(Source):
    """Files below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Opened]:
        """Read a file; raises as the interface says."""
        return self._open(self._folder / check_path(unquote(path)), offset)

    @contextmanager
    def _open(self, file: Path, offset: int) -> Iterator[Opened]:
        try:
            with open(file, "rb") as handle:
                handle.seek(offset)
                yield Opened(offset, _chunks(handle))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotOffered(f"{file}: there is no such file") from error


class ArchiveSource(Source):
    """Files of an archive that ``collab release export`` wrote.

    Nothing is unpacked: entries are read by the name that is asked for, so a name in the archive
    never becomes a path on this device.
    """

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        try:
            with zipfile.ZipFile(archive) as opened:
                self._entries = {entry.filename: entry for entry in opened.infolist()}
        except OSError as error:
            raise InputError(f"{archive}: {error.strerror}") from error
        except Exception as error:  # zipfile raises whatever a broken file makes it raise
            raise InputError(
                f"{archive}: is no archive of releases, or is cut off; export it anew"
            ) from error
        if len(self._entries) > MAX_ENTRIES:
            raise InputError(f"{archive}: {len(self._entries)} files are over {MAX_ENTRIES}")

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Opened]:
        """Read an entry; raises as the interface says."""
        return self._open(check_path(unquote(path)), offset)

    @contextmanager
    def _open(self, name: str, offset: int) -> Iterator[Opened]:
        entry = self._entries.get(name)
        if entry is None:
            raise NotOffered(f"{self._archive}: has no {name}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 0x1:
            raise PeerError(f"{self._archive}: {name} is compressed or encrypted; export it anew")
        with zipfile.ZipFile(self._archive) as archive, archive.open(entry) as handle:
            handle.seek(offset)
            yield Opened(offset, _entry_chunks(handle, f"{self._archive}: {name}"))


def _chunks(handle: IO[bytes]) -> Iterator[bytes]:
    while data := handle.read(CHUNK_BYTES):
        yield data


def _entry_chunks(handle: IO[bytes], what: str) -> Iterator[bytes]:
    try:
        yield from _chunks(handle)
    except (zipfile.BadZipFile, EOFError) as error:
        raise PeerError(f"{what}: is broken; export it anew") from error
