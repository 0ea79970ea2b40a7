"""The files of a folder, those that are there and, if it is watched, those that appear in it."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from pathlib import Path
from threading import Event
from typing import Final

from collab.errors import InputError, PeerUnreachable
from collab.streams.frames import Frame
from collab.streams.settings import FolderSettings
from collab.streams.sources.base import Source

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".npy", ".npz", ".csv"})
MAX_FILES: Final = 100_000
"""That a watched folder may have at a time."""

_DIGITS: Final = re.compile(r"(\d+)", re.ASCII)

_Stamp = tuple[int, int]
"""Time of the last change in ns, and bytes."""


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key that puts ``9.png`` before ``10.png``."""
    parts = _DIGITS.split(name)
    return tuple((0, int(part)) if part.isdigit() and i % 2 else (1, part) for i, part in enumerate(parts))


class FolderSource(Source):
    """Files in natural order; links are not followed, folders in it not looked into.

    A file that appears is taken when it has not changed between two looks, so one that is still
    being written is not; one that changes later is a frame again.
    """

    def __init__(self, settings: FolderSettings) -> None:
        self._settings = settings
        self._folder = settings.path
        self._stopped = Event()
        self._seen: dict[str, _Stamp] = {}
        self._growing: dict[str, _Stamp] = {}
        self._ready: deque[str] = deque()
        self._looked = False

    def open(self) -> None:
        """Raises `InputError` where there is no such folder, `PeerUnreachable` if it is watched."""
        if not self._folder.is_dir():
            if self._settings.watch:
                raise PeerUnreachable(f"{self._folder}: there is no such folder; make it, or mount its disk")
            raise InputError(f"{self._folder}: there is no such folder")

    def read(self) -> Frame | None:
        """The next file, unread; waits for one where the folder is watched."""
        while not self._stopped.is_set():
            if self._ready:
                path = self._folder / self._ready.popleft()
                return Frame(path.name, int(time.time() * 1000), path)
            if self._looked:
                if not self._settings.watch:
                    return None
                self._stopped.wait(self._settings.poll_s)
            self._look()
        return None

    def _look(self) -> None:
        found: dict[str, _Stamp] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if (stamp := _stamp(entry)) is not None:
                        found[entry.name] = stamp
                    if len(found) > MAX_FILES:
                        raise PeerUnreachable(f"{self._folder}: has over {MAX_FILES} files; move old ones")
        except OSError as error:
            raise PeerUnreachable(f"{self._folder}: {error.strerror}") from error
        fresh = [
            name
            for name, stamp in found.items()
            # What is there at the start was written before; later ones may be under way.
            if self._seen.get(name) != stamp and (not self._looked or self._growing.get(name) == stamp)
        ]
        self._ready.extend(sorted(fresh, key=natural))
        for name in fresh:
            self._seen[name] = found[name]
        self._seen = {name: stamp for name, stamp in self._seen.items() if name in found}
        self._growing = found
        self._looked = True

    def stop(self) -> None:
        """End a wait."""
        self._stopped.set()

    def close(self) -> None:
        """What was seen stays known."""


def _stamp(entry: os.DirEntry[str]) -> _Stamp | None:
    """Of a file that may be a frame."""
    if entry.name.startswith(".") or Path(entry.name).suffix.lower() not in SUFFIXES:
        return None
    try:
        if not entry.is_file(follow_symlinks=False):
            return None
        about = entry.stat(follow_symlinks=False)
    except OSError:  # gone meanwhile
        return None
    return about.st_mtime_ns, about.st_size
