"""Parts of a release's file, each with a digest that is signed: who gives a wrong one is left at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from collab.errors import IntegrityError, PeerError
from collab.updates.fetch.base import CHUNK_BYTES, Opened, Source
from collab.updates.fetch.download import Downloads
from collab.updates.fetch.pace import Limits, Pace
from collab.updates.release import MAX_PARTS

SMALLEST_PART: Final = 1 << 20


def part_bytes(size: int) -> int:
    """Bytes of a part of a file of that size: at least 1 MiB, and at most `MAX_PARTS` of them."""
    part = SMALLEST_PART
    while part * MAX_PARTS < size:
        part *= 2
    return part


def part_digests(chunks: Iterable[bytes], size: int) -> tuple[str, ...]:
    """SHA-256 of each part; ``chunks`` are all of the file, each at most a part."""
    part, found, held = part_bytes(size), [], bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= part:
            found.append(hashlib.sha256(held[:part]).hexdigest())
            del held[:part]
    if held:
        found.append(hashlib.sha256(held).hexdigest())
    return tuple(found)


class Checked(Source):
    """Another source of one file, of which nothing leaves here that is not as it was signed.

    Going on within a part reads that part from its begin.
    """

    def __init__(
        self,
        source: Source,
        size: int,
        digests: Sequence[str],
        downloads: Downloads,
    ) -> None:
        """Take the clock and the bounds of ``downloads``, and count there what came in vain."""
        self._source, self._size, self._digests = source, size, digests
        self._downloads = downloads

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Opened]:
        """Read the file; raises as the interface says, and `IntegrityError`."""
        return self._open(path, offset)

    @contextmanager
    def _open(self, path: str, offset: int) -> Iterator[Opened]:
        part = part_bytes(self._size)
        with self._source.open(path, offset // part * part) as opened:
            start = offset if opened.start == offset // part * part else 0
            yield Opened(start, self._chunks(opened, start))

    def _chunks(self, opened: Opened, start: int) -> Iterator[bytes]:
        part, held, place = part_bytes(self._size), bytearray(), opened.start
        for chunk in self._in_time(opened.chunks):
            held += chunk
            while held and (len(held) >= part or place + len(held) >= self._size):
                again = max(0, start - place)
                self._downloads.counted.received += again
                yield from _pieces(self._sound(bytes(held[:part]), place), again)
                place += min(part, len(held))
                del held[:part]

    def _in_time(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same, unless they drip: whole parts come out only, so it has to be noticed here."""
        clock, limits = self._downloads.clock, self._downloads.limits
        waited_s, began_s = 0.0, clock()
        pace = Pace(Limits(0.0, limits.least_bytes_s, limits.window_s), waited_s)
        for chunk in chunks:
            waited_s += clock() - began_s
            pace.got(len(chunk), waited_s)
            if pace.too_slow(waited_s):
                raise PeerError(f"it gives under {limits.least_bytes_s:g} bytes a second")
            yield chunk
            # What is done with it is not the source's time.
            began_s = clock()

    def _sound(self, data: bytes, place: int) -> bytes:
        index = place // part_bytes(self._size)
        expected = self._digests[index] if index < len(self._digests) else ""
        if hashlib.sha256(data).hexdigest() != expected:
            self._downloads.counted.received += len(data)
            raise IntegrityError(f"part {index} is not what was signed; another source is asked")
        return data


def _pieces(data: bytes, start: int) -> Iterator[bytes]:
    for place in range(start, len(data), CHUNK_BYTES):
        yield data[place : place + CHUNK_BYTES]
