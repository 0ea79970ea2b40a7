"""Repositories that nodes serve, and what nodes nearby have fetched, over any link.

A `Source` is read in a thread; links live on an event loop.  `LinkReads` stands between.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple
from urllib.parse import unquote

from collab.client.control import Control
from collab.codec.pb import control_pb2 as pb
from collab.core.ids import NodeName, check_name
from collab.errors import CollabError, NotLoaded, PeerError, PeerUnreachable, Refused, UsageError
from collab.link.link import Link
from collab.link.links import Links
from collab.link.mux import Channel
from collab.updates.fetch.base import CHUNK_BYTES, NotOffered, Opened, Source, check_path
from collab.updates.fetch.files import ArchiveSource, FolderSource
from collab.updates.fetch.http import HttpSource
from collab.updates.fetch.pace import Limits

FIRST_PART: Final = 16 << 10
LEAST_PART: Final = 4 << 10
MOST_PART: Final = 1 << 20
PART_S: Final = 1.0
"""How long a part shall take: a link that stops is noticed after few of them, whatever its rate."""
_NEARBY: Final = ""
"""Name of no repository: content by its digest."""
_BY_NAME: Final = "node:"
_MARGIN_S: Final = 5.0

Reach = Callable[[], Awaitable[Link]]
"""Gives a link that lives, dialling if there is none; raises `PeerUnreachable`."""


@dataclass(slots=True)
class PartSize:
    """How much to ask for at a time; pure."""

    bytes: int = FIRST_PART

    def took(self, count: int, seconds: float) -> None:
        """A part of that many bytes took that long."""
        wanted = count * PART_S / max(seconds, 1e-6)
        self.bytes = int(max(LEAST_PART, min(wanted, 4 * self.bytes, MOST_PART)))


class _Part(NamedTuple):
    total: int
    data: bytes
    seconds: float


class LinkReads:
    """Calls over links of this event loop for threads that wait.  Use as an asynchronous context manager.

    Leaving it ends all that wait with a `PeerError`.
    """

    def __init__(self, links: Links) -> None:
        self.links = links
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> LinkReads:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, call: Callable[[], Awaitable[_Part]]) -> concurrent.futures.Future[_Part]:
        """Start a call from a thread."""
        future: concurrent.futures.Future[_Part] = concurrent.futures.Future()
        try:
            self._loop.call_soon_threadsafe(self._start, call, future)
        except RuntimeError as error:
            raise _ended() from error
        return future

    def drop(self, future: concurrent.futures.Future[_Part]) -> None:
        """A call's result is not wanted any more."""
        future.cancel()

    def _start(self, call: Callable[[], Awaitable[_Part]], future: concurrent.futures.Future[_Part]) -> None:
        if self._closed:
            _fail(future, _ended())
            return
        task = self._loop.create_task(self._run(call, future))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(
        self, call: Callable[[], Awaitable[_Part]], future: concurrent.futures.Future[_Part]
    ) -> None:
        try:
            part = await call()
            with suppress(concurrent.futures.InvalidStateError):  # whoever asked has left
                future.set_result(part)
        except asyncio.CancelledError:
            _fail(future, _ended())
            raise
        except Exception as error:
            _fail(future, error)


def _ended() -> PeerError:
    return PeerError("links are being closed; what came is kept")


def _fail(future: concurrent.futures.Future[_Part], error: Exception) -> None:
    with suppress(concurrent.futures.InvalidStateError):
        future.set_exception(error)


class NodeSource(Source):
    """A repository that a node serves, or, where that has no name, content of releases that the node has."""

    def __init__(self, reads: LinkReads, reach: Reach, repository: str, limits: Limits = Limits()) -> None:
        self._reads, self._reach, self._repository, self._limits = reads, reach, repository, limits

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Opened]:
        """Read a file; raises as the interface says."""
        return self._open(check_path(unquote(path)), offset)

    @contextmanager
    def _open(self, path: str, offset: int) -> Iterator[Opened]:
        size = PartSize()
        first = self._wait(self._ask(path, offset, size), self._limits.answer_s)
        if offset > first.total:
            raise PeerError(f"{path}: is shorter than what was fetched of it")
        chunks = self._chunks(path, offset, first, size)
        try:
            yield Opened(offset, chunks)
        finally:
            chunks.close()

    def _chunks(self, path: str, offset: int, part: _Part, size: PartSize) -> Generator[bytes, None, None]:
        total, place = part.total, offset
        coming: concurrent.futures.Future[_Part] | None = None
        try:
            while True:
                if part.total != total:
                    raise PeerError(f"{path}: has changed while it was read; it is read anew next time")
                if not part.data and place < total:
                    raise PeerError(f"{path}: ends after {place} of {total} bytes")
                place += len(part.data)
                if place > total:
                    raise PeerError(f"{path}: goes on after {total} bytes, which it says to have")
                size.took(len(part.data), part.seconds)
                # The next part is under way while this one is written.
                coming = self._ask(path, place, size) if place < total else None
                for start in range(0, len(part.data), CHUNK_BYTES):
                    yield part.data[start : start + CHUNK_BYTES]
                if coming is None:
                    return
                part, coming = self._wait(coming, self._limits.window_s), None
        finally:
            if coming is not None:
                self._reads.drop(coming)

    def _ask(self, path: str, offset: int, size: PartSize) -> concurrent.futures.Future[_Part]:
        limit, limits = size.bytes, self._limits
        timeout_s = limits.window_s if offset else limits.answer_s

        async def call() -> _Part:
            loop = asyncio.get_running_loop()
            link = await self._reach()
            begun = loop.time()
            request = pb.GetReleaseFileRequest(
                repository=self._repository, path=path, offset=offset, limit=limit
            )
            control = Control(link)
            reply = await control.call("GetReleaseFile", request, channel=Channel.BLOBS, timeout_s=timeout_s)
            if len(reply.data) > limit:
                raise PeerError(f"{path}: node {control.name!r} sends more than it was asked for")
            return _Part(reply.total_bytes, reply.data, loop.time() - begun)

        return self._reads.begin(call)

    def _wait(self, future: concurrent.futures.Future[_Part], seconds: float) -> _Part:
        try:
            # The call has a deadline of its own; this one is for a loop that has stopped.
            return future.result(seconds + _MARGIN_S)
        except NotLoaded as error:
            raise NotOffered(str(error)) from error
        except (TimeoutError, concurrent.futures.TimeoutError) as error:
            self._reads.drop(future)
            raise PeerError(f"no answer within {seconds:g} s; try another source") from error
        except (PeerError, Refused):
            raise
        except CollabError as error:
            raise PeerError(str(error)) from error


def by_address(links: Links, address: str) -> Reach:
    """Reaches a node by its address, dialling again when the link has ended."""
    link: Link | None = None
    dialling = asyncio.Lock()

    async def reach() -> Link:
        nonlocal link
        async with dialling:
            if link is None or link.ended is not None:
                link = await links.connect(address)
            return link

    return reach


def by_name(links: Links, name: NodeName) -> Reach:
    """Reaches a node that is linked, whoever dialled."""

    async def reach() -> Link:
        link = links.get(name)
        if link is None:
            raise PeerUnreachable(f"node {name!r}: no link to it; is it running?")
        return link

    return reach


def is_link(place: str) -> bool:
    """Whether a place of releases is a node's: ``ADDRESS#REPOSITORY`` or ``node:NAME/REPOSITORY``."""
    scheme, separator, _ = place.partition("://")
    return place.startswith(_BY_NAME) or (bool(separator) and scheme not in ("http", "https"))


def nearby(reads: LinkReads, reach: Reach, limits: Limits = Limits()) -> Source:
    """What a node has fetched, by digest."""
    return NodeSource(reads, reach, _NEARBY, limits)


def open_source(place: str, limits: Limits = Limits(), reads: LinkReads | None = None) -> Source:
    """The source at a place: a web server's address, a folder, an archive, or, given links, a node's.

    Raises `UsageError` or `InputError` for a place that cannot be read as one.
    """
    if not is_link(place):
        if "://" in place:
            return HttpSource(place, limits)
        path = Path(place)
        return ArchiveSource(path) if path.is_file() else FolderSource(path)
    assert reads is not None, place
    if place.startswith(_BY_NAME):
        name, _, repository = place.removeprefix(_BY_NAME).partition("/")
        check_name(name, f"{place!r}: node:")
        reach = by_name(reads.links, NodeName(name))
    else:
        address, _, repository = place.partition("#")
        reach = by_address(reads.links, address)
    if not repository:
        raise UsageError(f"{place!r}: name the repository too: {place.rstrip('#/')}#REPOSITORY")
    return NodeSource(reads, reach, check_name(repository, f"{place!r}: repository:"), limits)
