"""What a node answered alone and has to report: a bounded queue, kept in a file that survives a crash.

The file has one line for each event, with a checksum before it; a line that was torn by a
crash says nothing.  It starts with a line that sums up what was before it.  `ReportQueue`
decides, without I/O; `ReportLog` keeps it on the disk and blocks.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Union

import msgspec

from collab.errors import StoreError

_SLACK_BYTES: Final = 64 * 1024
"""The file may be this much over twice what is live before it is written anew."""


class Record(msgspec.Struct, frozen=True, kw_only=True, tag="record", tag_field="is"):
    """One request that an offline alternative answered, or failed."""

    number: int
    """Grows; no number is given twice."""
    plan: str
    epoch: int
    request: str
    """In hexadecimal."""
    at_ms: int
    """Calendar time, Unix milliseconds."""
    compute_us: int
    """Of the stage that gave the answer."""
    outcome: str
    """``ok``, or the code of the error."""
    digest: str
    """SHA-256 of the output tensors' bytes in the plan's order, in hexadecimal; empty for none."""
    alone: bool
    """Whether no neighbour was linked then."""


class Kept(msgspec.Struct, frozen=True, kw_only=True, tag="kept", tag_field="is"):
    """Somebody has all records up to a number."""

    number: int


class Summary(msgspec.Struct, frozen=True, kw_only=True, tag="summary", tag_field="is"):
    """What was before the records that follow."""

    next: int
    """The number of the next record."""
    dropped: int


class Missed(msgspec.Struct, frozen=True, kw_only=True, tag="missed", tag_field="is"):
    """So many requests were answered that there is no record of."""

    count: int


Line = Union[Record, Kept, Missed, Summary]
_DECODER: Final = msgspec.json.Decoder(Line)


def write_line(event: Line) -> bytes:
    """An event as a line of the file."""
    text = msgspec.json.encode(event)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_lines(data: bytes) -> Iterator[Line]:
    """Events of a file, without lines that are torn or spoilt."""
    for line in data.split(b"\n"):
        mark, _, text = line.partition(b" ")
        if mark != b"%08x" % zlib.crc32(text):
            continue
        try:
            yield _DECODER.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue


class ReportQueue:
    """Records that wait, oldest first; the oldest make room for new ones and are counted."""

    def __init__(self, most: int, most_bytes: int, first: int = 1) -> None:
        self.dropped = 0
        """Since the queue was made."""
        self.next = first
        self.bytes = 0
        """Of the lines of what waits."""
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[Record, int]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def replay(self, events: Iterable[Line]) -> None:
        """Become what the events of a file say, one after another."""
        for event in events:
            if isinstance(event, Record):
                if event.number >= self.next:
                    self._append(event)
            elif isinstance(event, Kept):
                self.keep(event.number)
            elif isinstance(event, Missed):
                self.dropped += event.count
            else:
                self.next, self.dropped = max(self.next, event.next), max(self.dropped, event.dropped)

    def add(self, record: Record) -> bytes:
        """Queue a record, whose number is `next`; its line."""
        assert record.number == self.next
        return self._append(record)

    def _append(self, record: Record) -> bytes:
        line = write_line(record)
        self.next = record.number + 1
        self._waiting.append((record, len(line)))
        self.bytes += len(line)
        while len(self._waiting) > self._most or (self.bytes > self._most_bytes and self._waiting):
            self._forget_first()
            self.dropped += 1
        return line

    def after(self, number: int, limit: int) -> list[Record]:
        """Up to so many records behind a number."""
        return list(islice((record for record, _ in self._waiting if record.number > number), limit))

    def keep(self, number: int) -> bool:
        """Forget records up to a number, for somebody has them; whether there were any."""
        before = len(self._waiting)
        while self._waiting and self._waiting[0][0].number <= number:
            self._forget_first()
        return len(self._waiting) < before

    def lines(self) -> Iterator[bytes]:
        """The whole queue as a new file."""
        first = self._waiting[0][0].number if self._waiting else self.next
        yield write_line(Summary(next=first, dropped=self.dropped))
        for record, _ in self._waiting:
            yield write_line(record)

    def _forget_first(self) -> None:
        self.bytes -= self._waiting.popleft()[1]


class ReportLog:
    """A queue with its file.  All methods block on the disk: call them off the event loop."""

    def __init__(self, path: Path, most: int, most_bytes: int, now_ms: int) -> None:
        """``now_ms`` is where numbers start in a new file: one that was lost has used others."""
        self._path = path
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise StoreError(f"store: cannot read {path.name}: {error.strerror}") from error
        events = list(read_lines(data))
        self._queue = ReportQueue(most, most_bytes, 1 if events else max(1, now_ms))
        self._queue.replay(events)
        self._size = len(data)
        if data and not data.endswith(b"\n"):
            self._rewrite()  # so that what is appended does not continue a torn line

    @property
    def state(self) -> tuple[int, int]:
        """How many records wait, and how many were dropped."""
        return len(self._queue), self._queue.dropped

    def add(self, records: Sequence[Record], missed: int = 0) -> None:
        """Number records and keep them; count so many more that are lost.  Raises `StoreError`."""
        lines = [self._queue.add(msgspec.structs.replace(r, number=self._queue.next)) for r in records]
        if missed:
            self._queue.dropped += missed
            lines.append(write_line(Missed(count=missed)))
        self._append(b"".join(lines))

    def take(self, after: int, limit: int, acknowledge: bool) -> list[Record]:
        """Up to so many records behind a number, those up to it forgotten first if that is wanted."""
        if acknowledge and self._queue.keep(after):
            self._append(write_line(Kept(number=after)))
        return self._queue.after(after, limit)

    def _append(self, data: bytes) -> None:
        if not self._size or self._size + len(data) > 2 * self._queue.bytes + _SLACK_BYTES:
            self._rewrite()
            return
        try:
            with open(self._path, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"store: cannot write {self._path.name}: {error.strerror}") from error
        self._size += len(data)

    def _rewrite(self) -> None:
        """Write the file anew, with what is live alone."""
        data, part = b"".join(self._queue.lines()), self._path.with_suffix(".new")
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StoreError(f"store: cannot write {self._path.name}: {error.strerror}") from error
        self._size = len(data)
