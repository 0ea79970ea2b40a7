"""Fetches one file by its size and SHA-256, over as many attempts and sources as it takes.

What has come stays in ``DIGEST.part``; ``DIGEST.mark`` says how much of it is surely on the disk,
with that part's own digest, so that a power cut costs the bytes since the mark and a broken file is
found before the rest is fetched.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from collab.core.decoding import prepare
from collab.errors import IntegrityError, LimitExceeded, PeerError, StoreError
from collab.updates.fetch.base import Opened
from collab.updates.fetch.pace import Limits, Pace

MARK_BYTES: Final = 4 << 20
"""Between two marks."""
_READ: Final = 1 << 20

Open = Callable[[int], AbstractContextManager[Opened]]
"""Opens the file at an offset."""


class Mark(msgspec.Struct, frozen=True):
    """How much of a partial file is on the disk, and its digest."""

    size: int
    digest: str


@dataclass(slots=True)
class Counted:
    """Bytes that came over the link, wasted ones too."""

    received: int = 0
    resumed: int = 0
    """Bytes that were there already."""


@dataclass(frozen=True)
class Downloads:
    """A folder of partial files.

    Attributes:
        clock: seconds, monotonic.
        sleep: waits for seconds.
    """

    folder: Path
    limits: Limits = Limits()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    counted: Counted = field(default_factory=Counted)

    def fetch(self, sha256: str, size: int, source: Open, algorithm: str = "sha256") -> Path:
        """The verified file; the caller moves it to its place.

        Raises:
            IntegrityError: what the source gives is something else.
            LimitExceeded: it gives more than the size.
            PeerError: the link broke or is too slow; what came is kept.
            StoreError: the disk cannot hold it.
        """
        part, mark = self._part(sha256), self.folder / f"{sha256}.mark"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # First everything that is there, then what surely reached the disk, then nothing.
            for keep in self._starts(part, mark, size, algorithm):
                if self._attempt(sha256, size, source, keep, algorithm):
                    mark.unlink(missing_ok=True)
                    return part
            self.discard(sha256)
        except OSError as error:
            raise StoreError(f"{part}: cannot be written: {error.strerror}; free some space") from error
        raise IntegrityError(
            f"{sha256[:12]}: the source gives another file than is signed; try another source"
        )

    def there(self, sha256: str) -> int:
        """Bytes of a file that have come already."""
        part = self._part(sha256)
        return part.stat().st_size if part.exists() else 0

    def keep(self, digests: Collection[str]) -> None:
        """Forget what has come of all other files."""
        for path in self.folder.glob("*"):
            if path.name.partition(".")[0] not in digests:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def discard(self, sha256: str) -> None:
        """Forget what has come of a file."""
        for path in (self._part(sha256), self.folder / f"{sha256}.mark"):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _part(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.part"

    def _starts(self, part: Path, mark: Path, size: int, algorithm: str) -> list[int]:
        there = min(part.stat().st_size, size) if part.exists() else 0
        known = _read_mark(mark)
        sure = known.size if known is not None and known.size <= there else 0
        if sure and known is not None and _digest(part, sure, algorithm).hexdigest() != known.digest:
            return [0]
        return sorted({there, sure, 0}, reverse=True)

    def _attempt(self, sha256: str, size: int, source: Open, keep: int, algorithm: str) -> bool:
        """Whether the file is whole and right."""
        part = self._part(sha256)
        with open(part, "r+b" if part.exists() else "w+b") as file:
            file.truncate(keep)
            digest = _digest(part, keep, algorithm)
            self.counted.resumed += keep
            writer = _Writer(file.fileno(), self.folder / f"{sha256}.mark", digest, keep, keep)
            try:
                if keep < size or not size:
                    self._receive(writer, size, source)
            finally:
                writer.mark()
        return writer.size == size and writer.digest.hexdigest() == sha256

    def _receive(self, writer: _Writer, size: int, source: Open) -> None:
        with source(writer.size) as opened:
            if opened.start != writer.size:
                writer.restart()
            pace = Pace(self.limits, self.clock())
            for data in opened.chunks:
                self.counted.received += len(data)
                if writer.size + len(data) > size:
                    raise LimitExceeded(f"the source gives more than the {size} bytes that are signed")
                writer.write(data)
                now = self.clock()
                if wait := pace.got(len(data), now):
                    self.sleep(wait)
                if writer.size < size and pace.too_slow(self.clock()):
                    raise PeerError(
                        f"the source gives under {self.limits.least_bytes_s:g} bytes a second; try another"
                    )
                if writer.size == size:
                    # Whatever else it would send is of no use.
                    break
        if writer.size < size:
            raise PeerError(
                f"the source ended after {writer.size} of {size} bytes; it goes on from here next time"
            )


@dataclass
class _Writer:
    file: int
    path: Path
    digest: hashlib._Hash
    size: int
    marked: int

    def write(self, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self.file, data[written:], self.size + written)
        self.digest.update(data)
        self.size += len(data)
        if self.size - self.marked >= MARK_BYTES:
            self.mark()

    def restart(self) -> None:
        os.ftruncate(self.file, 0)
        self.digest, self.size, self.marked = hashlib.new(self.digest.name), 0, 0

    def mark(self) -> None:
        os.fsync(self.file)
        beside = self.path.with_suffix(".mark.part")
        beside.write_bytes(msgspec.json.encode(Mark(self.size, self.digest.hexdigest())))
        beside.replace(self.path)
        self.marked = self.size


def _read_mark(path: Path) -> Mark | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Mark)
    except (OSError, msgspec.DecodeError):
        return None


def _digest(path: Path, size: int, algorithm: str) -> hashlib._Hash:
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while size > 0 and (data := file.read(min(size, _READ))):
            digest.update(data)
            size -= len(data)
    return digest


prepare(Mark)
