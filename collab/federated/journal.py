"""The journal of a federated run, and the weights that it names.

A journal is one file: a line that says what it is, then records of a length, a checksum and
an entry.  A checksum covers all records before it, so none can be lost or moved between two
that are read.  What a crash leaves half written at the end is cut off; anything else that
does not fit is refused.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from collab.core.ids import Digest, check_digest
from collab.errors import IntegrityError, StoreError
from collab.federated.disk import Disk, replace_file
from collab.federated.entries import Entry
from collab.federated.ledger import Ledger, restore

_NAME: Final = "journal"
_MAGIC: Final = b"collab federated journal 1\n"
_HEAD: Final = struct.Struct("<I4s16s")
"""Length, the length's own checksum, and the entry's."""
_DECODER: Final = msgspec.msgpack.Decoder(Entry | Ledger)
_ENCODER: Final = msgspec.msgpack.Encoder()


class Journal(Protocol):
    """Where entries are kept.  Blocking: it belongs into a thread where there is an event loop."""

    def read(self) -> Ledger:
        """What it tells; an empty ledger if there is none.  Raises `StoreError` or `IntegrityError`."""

    def append(self, entry: Entry) -> None:
        """Keep one more entry; it is durable on return.  Raises `StoreError`."""

    def compact(self, ledger: Ledger) -> None:
        """Keep a ledger in place of all entries so far, at once.  Raises `StoreError`."""


class MemoryJournal:
    """A `Journal` that dies with its process."""

    def __init__(self) -> None:
        self._entries: list[bytes] = []

    def read(self) -> Ledger:
        """See `Journal.read`."""
        return restore(_DECODER.decode(data) for data in self._entries)

    def append(self, entry: Entry) -> None:
        """See `Journal.append`."""
        self._entries.append(_ENCODER.encode(entry))

    def compact(self, ledger: Ledger) -> None:
        """See `Journal.compact`."""
        self._entries = [_ENCODER.encode(ledger)]


class FileJournal:
    """A `Journal` on a disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._chain = _MAGIC
        self._size = 0
        """Sound bytes; there may be more after an append that has failed."""
        self._torn = False

    def read(self) -> Ledger:
        """See `Journal.read`."""
        data = self._disk.read(_NAME)
        if data is None:
            return Ledger()
        if not data.startswith(_MAGIC):
            raise IntegrityError("journal: it is none of this release; name another checkpoint folder")
        self._chain, self._size = _MAGIC, len(_MAGIC)
        found = []
        while (body := _next(data, self._size, self._chain)) is not None:
            found.append(_decoded(body, self._size))
            self._chain = _digest(self._chain, body)
            self._size += _HEAD.size + len(body)
        self._torn = self._size < len(data)
        return restore(found)

    def append(self, entry: Entry) -> None:
        """See `Journal.append`."""
        if not self._size:
            replace_file(self._disk, _NAME, _MAGIC)
            self._size = len(_MAGIC)
        if self._torn:
            self._disk.truncate(_NAME, self._size)
            self._disk.sync(_NAME)
        body = _ENCODER.encode(entry)
        record = _record(self._chain, body)
        self._torn = True
        self._disk.append(_NAME, record)
        self._disk.sync(_NAME)
        self._torn = False
        self._chain = _digest(self._chain, body)
        self._size += len(record)

    def compact(self, ledger: Ledger) -> None:
        """See `Journal.compact`."""
        body = _ENCODER.encode(ledger)
        data = _MAGIC + _record(_MAGIC, body)
        replace_file(self._disk, _NAME, data)
        self._chain, self._size, self._torn = _digest(_MAGIC, body), len(data), False


def _digest(before: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(before + body, digest_size=16).digest()


def _record(before: bytes, body: bytes) -> bytes:
    size = len(body).to_bytes(4, "little")
    return _HEAD.pack(len(body), _digest(before, size)[:4], _digest(before, body)) + body


def _next(data: bytes, at: int, before: bytes) -> bytes | None:
    """The entry at a place, or None at the end; what a crash has left half written is the end too."""
    start = at + _HEAD.size
    if len(data) < start:
        return None
    size, check, checksum = _HEAD.unpack(data[at:start])
    sound = check == _digest(before, data[at : at + 4])[:4]
    if sound and len(data) < start + size:
        return None
    body = data[start : start + size]
    if sound and checksum == _digest(before, body):
        return body
    if not any(data[start + size * sound :]):  # blocks that were never filled before the power went
        return None
    raise IntegrityError(f"journal: corrupted at byte {at} of {len(data)}; restore a copy of it")


def _decoded(body: bytes, at: int) -> Ledger | Entry:
    try:
        found: Ledger | Entry = _DECODER.decode(body)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"journal: entry at byte {at} is of another release: {error}") from error
    return found


class Blobs:
    """Weights and updates on a disk by their digests.

    A blob that was put is durable, so that the journal may name it.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def put(self, data: bytes) -> Digest:
        """Keep bytes; raises `StoreError`."""
        digest = Digest(hashlib.sha256(data).hexdigest())
        if self._disk.read(digest) != data:
            replace_file(self._disk, digest, data)
        return digest

    def get(self, digest: Digest) -> bytes:
        """Bytes that were checked just now; raises `StoreError` or `IntegrityError`."""
        data = self._disk.read(check_digest(digest, "blob:"))
        if data is None:
            raise StoreError(f"blob {digest[:12]}: not in the checkpoint; restore a copy of the folder")
        if hashlib.sha256(data).hexdigest() != digest:
            raise IntegrityError(f"blob {digest[:12]}: corrupted in the checkpoint; restore a copy of it")
        return data

    def keep(self, digests: Iterable[Digest]) -> None:
        """Forget all others; raises `StoreError`."""
        wanted = set(digests)
        for name in self._disk.names():
            if name not in wanted:
                self._disk.remove(name)
