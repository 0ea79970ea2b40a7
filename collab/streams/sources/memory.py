"""Frames that this process has already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Event

from collab.errors import CollabError
from collab.streams.frames import Frame
from collab.streams.sources.base import Source


class MemorySource(Source):
    """Gives what an iterable gives; an error in a frame's place is raised there."""

    def __init__(self, frames: Iterable[Frame | CollabError], lasts: bool = False) -> None:
        self.lasts = lasts
        self._frames: Iterator[Frame | CollabError] = iter(frames)
        self._stopped = Event()

    def open(self) -> None:
        """Nothing to do."""

    def read(self) -> Frame | None:
        """The next one; raises the error that stands in its place."""
        item = None if self._stopped.is_set() else next(self._frames, None)
        if isinstance(item, CollabError):
            raise item
        return item

    def stop(self) -> None:
        """Give nothing more."""
        self._stopped.set()

    def close(self) -> None:
        """Nothing to do."""
