"""A content-addressed store of models, and of the plans that a node runs.

Blobs are files named by their SHA-256.  A blob is written to ``partial/``, synced,
checked and renamed into ``blobs/``, so a crash leaves either nothing, a part that
can be resumed, or the whole.  All methods block on the disk: call them off the
event loop.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from collab.core.ids import Digest, check_digest
from collab.errors import IntegrityError, LimitExceeded, ProtocolError, StoreError
from collab.node.kept import KeptPlans
from collab.node.store_errors import store_errors
from collab.updates.store.disk import RealDisk

_READ_BYTES: Final = 1 << 20
DEFAULT_BYTES: Final = 4 << 30


class Store:
    """Blobs and kept plans under one directory, used by one process at a time."""

    def __init__(self, root: Path, limit_bytes: int = DEFAULT_BYTES) -> None:
        self._blobs, self._partial = root / "blobs", root / "partial"
        self.plans = KeptPlans(RealDisk(root / "plans"))
        """What this node loads when it starts."""
        self.first_runs = root / "first-runs.json"
        """Which stages have run here once; `collab.node.first_run` writes it."""
        self.reports = root / "reports.log"
        """What is queued to be reported; `collab.node.reports` writes it."""
        self.feedback = root / "feedback.json"
        """What was counted of plans; `collab.node.feedback` writes it."""
        self.training = root / "training"
        """What federated runs have left here; `collab.node.training_state` writes it."""
        self._limit = limit_bytes
        try:
            for folder in (self._blobs, self._partial, root / "plans"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(root / "lock", "w", encoding="ascii")  # noqa: SIM115 - held while the store is open
        except OSError as error:
            raise StoreError(
                f"store {root}: cannot be used: {error.strerror}; choose another --store"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StoreError(f"store {root}: another node uses it; give each node its own --store") from error

    def close(self) -> None:
        """Let others use the directory."""
        self._lock.close()

    # --- blobs -----------------------------------------------------------------

    def digests(self) -> list[Digest]:
        """What is held completely."""
        with store_errors("list the blobs"):
            return [Digest(path.name) for path in sorted(self._blobs.iterdir())]

    def held(self, sha256: Digest) -> tuple[int, bool]:
        """Bytes held of a blob, and whether it is complete."""
        for path, complete in ((self._blobs / sha256, True), (self._partial / sha256, False)):
            try:
                return path.stat().st_size, complete
            except OSError:
                continue
        return 0, False

    def checked(self, sha256: Digest) -> tuple[int, bool]:
        """Like `held`, but a complete blob's bytes are checked, and a corrupted one is removed."""
        size, complete = self.held(sha256)
        with store_errors(f"check blob {sha256[:12]}"):
            if complete and _sha256(self._blobs / sha256) != sha256:
                (self._blobs / sha256).unlink(missing_ok=True)
                return 0, False
        return size, complete

    def put(
        self, sha256: Digest, total: int, offset: int, data: bytes | memoryview, keep: Iterable[Digest]
    ) -> int:
        """Add a part that starts where the last one ended, or before; returns the bytes held then.

        So several may send one blob at a time.  The part that completes it is checked
        against the digest.  Blobs that are
        not in ``keep`` make room, the least recently used first.  Raises
        `LimitExceeded`, `IntegrityError`, `ProtocolError` or `StoreError`.
        """
        check_digest(sha256, "blob:")
        size, complete = self.held(sha256)
        if complete:
            return size
        path = self._partial / sha256
        if size > total:
            with store_errors(f"remove a part of blob {sha256[:12]}"):
                path.unlink(missing_ok=True)
            raise IntegrityError(f"blob {sha256[:12]}: {size} bytes were held of {total}; send it again")
        if offset > size or offset + len(data) > total:
            raise ProtocolError(
                f"blob {sha256[:12]}: a part at {offset} of {total}, but {size} bytes are held"
            )
        data = memoryview(data)[size - offset :]
        with store_errors(f"write blob {sha256[:12]}"):
            self._make_room(total, total - size, {*keep, sha256})
            with open(path, "ab") as file:
                file.write(data)
                if size + len(data) == total:
                    file.flush()
                    os.fsync(file.fileno())
            if size + len(data) == total:
                self._complete(path, sha256)
        return size + len(data)

    def add(self, data: bytes, keep: Iterable[Digest]) -> Digest:
        """Keep a blob that was made here; its digest."""
        sha256 = Digest(hashlib.sha256(data).hexdigest())
        self.put(sha256, len(data), 0, data, keep)
        return sha256

    def read(self, sha256: Digest, offset: int, limit: int) -> tuple[int, bytes]:
        """Size of a blob that is held completely, and a part of it; who has all parts checks the digest.

        Raises `StoreError` or `ProtocolError`.
        """
        size, complete = self.held(sha256)
        if not complete:
            raise StoreError(f"blob {sha256[:12]}: not in the store")
        if offset > size:
            raise ProtocolError(f"blob {sha256[:12]}: nothing is at {offset}, it has {size} bytes")
        with store_errors(f"read blob {sha256[:12]}"), open(self._blobs / sha256, "rb") as file:
            file.seek(offset)
            return size, file.read(limit)

    def drop(self, digests: Iterable[Digest]) -> int:
        """Remove blobs, whole or begun; how many were here."""
        found = 0
        with store_errors("remove blobs"):
            for sha256 in digests:
                paths = [
                    path for folder in (self._blobs, self._partial) if (path := folder / sha256).exists()
                ]
                for path in paths:
                    path.unlink(missing_ok=True)
                found += bool(paths)
        return found

    def _complete(self, path: Path, sha256: Digest) -> None:
        if _sha256(path) != sha256:
            path.unlink(missing_ok=True)
            raise IntegrityError(f"blob {sha256[:12]}: what arrived has another digest; send it again")
        os.replace(path, self._blobs / sha256)
        _sync_folder(self._blobs)

    def _make_room(self, total: int, missing: int, keep: set[Digest]) -> None:
        if total > self._limit:
            raise LimitExceeded(f"blob of {total} bytes is over the store's limit of {self._limit}")
        files = [(path, path.stat()) for folder in (self._blobs, self._partial) for path in folder.iterdir()]
        used = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime)):
            if used + missing <= self._limit:
                return
            if path.name not in keep:
                path.unlink(missing_ok=True)
                used -= stat.st_size
        if used + missing > self._limit:
            raise LimitExceeded(f"store: {missing} bytes do not fit beside {used} in use; raise store_bytes")

    def path(self, sha256: Digest) -> Path:
        """File of a blob whose bytes were checked just now.

        Raises `StoreError` if it is not here and `IntegrityError` if it is corrupted;
        it is removed then, so that it can be fetched again.
        """
        path = self._blobs / sha256
        try:
            found = _sha256(path)
        except FileNotFoundError as error:
            raise StoreError(f"blob {sha256[:12]}: not in the store; deploy the plan again") from error
        except OSError as error:
            raise StoreError(f"store: cannot read blob {sha256[:12]}: {error.strerror}") from error
        if found != sha256:
            with store_errors(f"remove corrupted blob {sha256[:12]}"):
                path.unlink(missing_ok=True)
            raise IntegrityError(
                f"blob {sha256[:12]}: corrupted in the store and removed; deploy the plan again"
            )
        with suppress(OSError):  # only the order of eviction depends on it
            os.utime(path)
        return path


def _sha256(path: Path) -> Digest:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return Digest(digest.hexdigest())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
