"""From a repository to the store of releases that runs them: what is new, and its content.  Blocks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from collab.errors import PeerError, StoreError
from collab.updates.fetch.base import Opened, Source
from collab.updates.fetch.client import Releases
from collab.updates.release import Release
from collab.updates.store.disk import file_parts
from collab.updates.store.store import Store


class Stoppable(Source):
    """A source whose reading another thread can end."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stopped = threading.Event()

    def stop(self) -> None:
        """No more bytes from here on."""
        self._stopped.set()

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Opened]:
        """As `Source` says; raises `PeerError` once it was stopped."""
        self._check()
        with self._source.open(path, offset) as opened:
            yield Opened(opened.start, self._chunks(opened.chunks))

    def _chunks(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._check()
            yield chunk

    def _check(self) -> None:
        if self._stopped.is_set():
            raise PeerError("stopped; it goes on from here next time")


@dataclass(frozen=True)
class Supply:
    """Releases of one family and channel, for one store.

    Attributes:
        sources: those that ``releases`` reads.
        root: the store's folder.
    """

    sources: Sequence[Stoppable]
    releases: Releases
    store: Store
    root: Path
    family: str
    channel: str

    def newest(self) -> Release | None:
        """The newest release for this device; None if there is none.  Raises as `Releases.newest`."""
        return self.releases.newest(self.family, self.channel)

    def take(self, release: Release) -> str:
        """Fetch a release and make it the store's candidate; returns the way that its bytes came.

        Releases that are in the store are bases of deltas.  What a broken download leaves is gone on
        with the next time.

        Raises:
            CollabError: as `Releases.fetch` and `Store.add` say.
        """
        here = {
            one.sha256: self.root / self.store.path(one)
            for one in self.store.state().releases
            if self.store.is_whole(one)
        }
        fetched = self.releases.fetch(release, self.releases.bases(()) | here)
        try:
            self.store.add(release, file_parts(fetched.path))
        except OSError as error:
            raise StoreError(f"{fetched.path}: {error.strerror}") from error
        # It is in the store now; a device has no room for it twice.
        with suppress(OSError):
            fetched.path.unlink()
        return fetched.way

    def stop(self) -> None:
        """End a download that another thread is in."""
        for source in self.sources:
            source.stop()
