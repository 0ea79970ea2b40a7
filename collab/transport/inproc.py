"""Connections within one process: a real transport without a network."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from collab.codec.wire import Buffer
from collab.core.identity import Principal
from collab.errors import CollabError, LimitExceeded, LinkLost, PeerUnreachable, UsageError
from collab.transport.aio import TaskGroup
from collab.transport.base import Accept, Connection, Listener, Transport, split_address

log = logging.getLogger("collab.transport")

_FRAMES_IN_FLIGHT = 8


class Ends(NamedTuple):
    """Who is at the ends of all connections of a transport that only this process can hold."""

    dialler: Principal
    listener: Principal


class _Pipe:
    """One direction: a short queue of frames, for one writer and one reader."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._frames: deque[bytes] = deque()
        self._ended = False
        self._waiting: asyncio.Future[None] | None = None
        """Of the writer if the queue is full, of the reader if it is empty."""

    async def put(self, frame: bytes) -> None:
        while len(self._frames) >= _FRAMES_IN_FLIGHT and not self._ended:
            await self._wait()
        if self._ended:
            raise self._lost()
        self._frames.append(frame)
        self._wake()

    async def get(self) -> bytes:
        while not self._frames:
            if self._ended:
                raise self._lost()
            await self._wait()
        frame = self._frames.popleft()
        self._wake()
        return frame

    def end(self, *, drop: bool) -> None:
        self._ended = True
        if drop:
            self._frames.clear()
        self._wake()

    async def _wait(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _lost(self) -> LinkLost:
        return LinkLost(f"connection to {self._address} has ended")


class _InprocConnection(Connection):
    kind = "inproc"
    loopback = True

    def __init__(self, address: str, max_frame_bytes: int, inbound: _Pipe, outbound: _Pipe) -> None:
        self.address = address
        self.max_frame_bytes = max_frame_bytes
        self._in = inbound
        self._out = outbound

    @staticmethod
    def pair(
        address: str, max_frame_bytes: int, ends: Ends | None
    ) -> tuple[_InprocConnection, _InprocConnection]:
        there, back = _Pipe(address), _Pipe(address)
        near = _InprocConnection(address, max_frame_bytes, back, there)
        far = _InprocConnection(address, max_frame_bytes, there, back)
        if ends is not None:
            near.principal, far.principal = ends.listener, ends.dialler
        return near, far

    async def send(self, parts: Sequence[Buffer]) -> None:
        data = b"".join(parts)
        if len(data) > self.max_frame_bytes:
            raise LimitExceeded(f"frame of {len(data)} bytes is over {self.max_frame_bytes}")
        await self._out.put(data)

    async def receive(self) -> Buffer:
        return await self._in.get()

    async def close(self) -> None:
        self._out.end(drop=False)
        self._in.end(drop=True)

    def abort(self) -> None:
        self._out.end(drop=True)
        self._in.end(drop=True)


class _InprocListener(Listener):
    def __init__(self, hub: InprocTransport, address: str, accept: Accept) -> None:
        self.address = address
        self._hub = hub
        self._accept = accept
        self._offered: asyncio.Queue[_InprocConnection] = asyncio.Queue()
        self._open: set[_InprocConnection] = set()
        self._task = asyncio.ensure_future(self._run())

    def offer(self, connection: _InprocConnection) -> None:
        self._open.add(connection)
        self._offered.put_nowait(connection)

    async def _run(self) -> None:
        async with TaskGroup() as group:
            while True:
                group.create_task(self._serve(await self._offered.get()))

    async def _serve(self, connection: _InprocConnection) -> None:
        try:
            await self._accept(connection)
        except CollabError as error:
            log.debug("a connection to %s ended: %s", self.address, error)
        except Exception:
            log.exception("serving a connection to %s failed", self.address)
        finally:
            await connection.close()
            self._open.discard(connection)

    async def close(self) -> None:
        self._hub.forget(self)
        for connection in self._open:
            connection.abort()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class InprocTransport(Transport):
    """A private network: only users of the same instance can meet.

    With ``ends`` each is known to the other without a certificate: whoever made the instance says so.
    """

    scheme = "inproc"

    def __init__(self, max_frame_bytes: int = 1 << 20, ends: Ends | None = None) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._ends = ends
        self._listeners: dict[str, _InprocListener] = {}
        self._next = 0

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Listen at ``inproc://name``; the name ``0`` takes a free one."""
        _, place = split_address(address)
        if place == "0":
            self._next += 1
            place = f"auto-{self._next}"
        contact = f"inproc://{place}"
        if contact in self._listeners:
            raise UsageError(f"address {contact}: somebody listens there already; choose another name")
        self._listeners[contact] = listener = _InprocListener(self, contact, accept)
        return listener

    async def dial(self, address: str, timeout_s: float) -> Connection:
        """Connect to a listener of the same instance."""
        _, place = split_address(address)
        listener = self._listeners.get(f"inproc://{place}")
        if listener is None:
            raise PeerUnreachable(f"{address}: nobody listens there")
        near, far = _InprocConnection.pair(address, self._max_frame_bytes, self._ends)
        listener.offer(far)
        return near

    def forget(self, listener: Listener) -> None:
        """Free a listener's name."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]
