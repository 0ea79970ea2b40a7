"""Where files of a repository come from: a web server, a folder, an archive, a node nearby.

A source is not trusted: who asks compares what comes with what is signed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from collab.errors import InputError, PeerError

CHUNK_BYTES: Final = 64 << 10
MAX_PATH: Final = 1024
MAX_METADATA_BYTES: Final = 5_000_000
"""Of one file; python-tuf takes no more of a role's releases."""


class NotOffered(PeerError):
    """A source does not have the file."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that is being read.

    Attributes:
        start: where its bytes begin; 0 if the source cannot begin at the offset asked for.
        chunks: its bytes, at most `CHUNK_BYTES` at once, as they come.
    """

    start: int
    chunks: Iterator[bytes]


class Source(ABC):
    """Files by their path within a repository."""

    @abstractmethod
    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Opened]:
        """Read a file from an offset on, in order, once; leaving the context ends it at any time.

        Raises:
            NotOffered: there is no such file.
            PeerUnreachable: nobody answers.
            PeerError: the source misbehaves, or takes longer than it may.
        """

    def within(self, folder: str) -> Source:
        """The same source, with paths below a folder."""
        return _Within(self, folder)


class _Within(Source):
    def __init__(self, source: Source, folder: str) -> None:
        self._source = source
        self._folder = folder

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Opened]:
        return self._source.open(f"{self._folder}/{path}", offset)


def check_path(path: str) -> str:
    """Return a path that stays below its root; raises `InputError`."""
    parts = path.split("/")
    if len(path) > MAX_PATH or "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"{path[:80]!r} is no path within a repository")
    return path
