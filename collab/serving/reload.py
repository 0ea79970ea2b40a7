"""Files that a running server reads again: when they change, and when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

from collab.errors import CollabError
from collab.transport.aio import timeout

LOOK_S: Final = 2.0
"""Between two looks whether a file has changed."""

T = TypeVar("T")


class Kept(NamedTuple, Generic[T]):
    """Something that stands in files.

    Attributes:
        what: it is called so where people are told.
        read: reads the files, in a thread; raises `CollabError` for those that cannot be used.
        use: takes what was read, in the event loop.
    """

    what: str
    paths: Sequence[Path]
    read: Callable[[], T]
    use: Callable[[T], None]


class Reloads:
    """Reads files again while it is entered; an asynchronous context manager.

    What cannot be read changes nothing, and is told once for each change.
    """

    def __init__(
        self, kept: Sequence[Kept[Any]], tell: Callable[[str], None], look_s: float = LOOK_S
    ) -> None:
        self._kept = kept
        self._tell = tell
        self._look_s = look_s
        self._now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def now(self) -> None:
        """Read all files again, changed or not."""
        self._now.set()

    async def __aenter__(self) -> Reloads:
        """Remember how the files are, and begin to look."""
        stamps = [await asyncio.to_thread(_stamp, one.paths) for one in self._kept]
        self._task = asyncio.ensure_future(self._look(stamps))
        return self

    async def __aexit__(self, *failure: Any) -> None:
        """Look no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self, stamps: list[object]) -> None:
        while True:
            with suppress(TimeoutError, asyncio.TimeoutError):
                async with timeout(self._look_s):
                    await self._now.wait()
            asked = self._now.is_set()
            self._now.clear()
            for i, one in enumerate(self._kept):
                # Before it is read: a change meanwhile is one more change.
                stamp = await asyncio.to_thread(_stamp, one.paths)
                if asked or stamp != stamps[i]:
                    stamps[i] = stamp
                    await self._again(one)

    async def _again(self, one: Kept[Any]) -> None:
        try:
            one.use(await asyncio.to_thread(one.read))
        except CollabError as error:
            self._tell(f"{one.what}: those of before stay in use: {error}")
        else:
            self._tell(f"{one.what}: read again")


def _stamp(paths: Sequence[Path]) -> object:
    """What changes when a file does; one that is not there is a change as well."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found
