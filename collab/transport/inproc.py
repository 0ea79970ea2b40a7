"""Connections within one process: a real transport without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from collab.codec.wire import Buffer
from collab.errors import LimitExceeded, LinkLost, PeerUnreachable, UsageError
from collab.transport.aio import TaskGroup
from collab.transport.base import Accept, Connection, Listener, Transport, split_address

_FRAMES_IN_FLIGHT = 8


class _InprocConnection(Connection):
    loopback = True

    def __init__(self, address: str, max_frame_bytes: int) -> None:
        self.address = address
        self.max_frame_bytes = max_frame_bytes
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue(_FRAMES_IN_FLIGHT)
        self._ended = asyncio.Event()
        self._other: _InprocConnection = self

    @staticmethod
    def pair(address: str, max_frame_bytes: int) -> tuple[_InprocConnection, _InprocConnection]:
        one, two = (_InprocConnection(address, max_frame_bytes) for _ in range(2))
        one._other, two._other = two, one
        return one, two

    async def send(self, parts: Sequence[Buffer]) -> None:
        data = b"".join(parts)
        if len(data) > self.max_frame_bytes:
            raise LimitExceeded(f"frame of {len(data)} bytes is over {self.max_frame_bytes}")
        if self._ended.is_set():
            raise LinkLost(f"connection to {self.address} has ended")
        if not self._other._inbox.full():
            self._other._inbox.put_nowait(data)
            return
        await self._unless_ended(self._other._inbox.put(data))

    async def receive(self) -> Buffer:
        if not self._inbox.empty():
            return self._inbox.get_nowait()
        if self._ended.is_set():
            raise LinkLost(f"connection to {self.address} has ended")
        frame: Buffer = await self._unless_ended(self._inbox.get())
        return frame

    async def _unless_ended(self, operation):  # type: ignore[no-untyped-def]
        work = asyncio.ensure_future(operation)
        end = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((work, end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            end.cancel()
            if not work.done():
                work.cancel()
        if work.cancelled() or not work.done():
            raise LinkLost(f"connection to {self.address} has ended")
        return work.result()

    async def close(self) -> None:
        self._ended.set()
        self._other._ended.set()

    def abort(self) -> None:
        self._ended.set()
        self._other._ended.set()
        for end in (self, self._other):
            while not end._inbox.empty():
                end._inbox.get_nowait()


class _InprocListener(Listener):
    def __init__(self, hub: InprocTransport, address: str, accept: Accept) -> None:
        self.address = address
        self._hub = hub
        self._accept = accept
        self._waiting: asyncio.Queue[_InprocConnection] = asyncio.Queue()
        self._served: set[_InprocConnection] = set()
        self._task = asyncio.ensure_future(self._run())

    def offer(self, connection: _InprocConnection) -> None:
        self._waiting.put_nowait(connection)

    async def _run(self) -> None:
        async with TaskGroup() as group:
            while True:
                group.create_task(self._serve(await self._waiting.get()))

    async def _serve(self, connection: _InprocConnection) -> None:
        self._served.add(connection)
        try:
            await self._accept(connection)
        finally:
            await connection.close()
            self._served.discard(connection)

    async def close(self) -> None:
        self._hub.forget(self.address)
        for connection in tuple(self._served):
            connection.abort()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class InprocTransport(Transport):
    """A private network: only users of the same instance can meet."""

    scheme = "inproc"

    def __init__(self, max_frame_bytes: int = 1 << 20) -> None:
        self._max_frame_bytes = max_frame_bytes
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
        near, far = _InprocConnection.pair(address, self._max_frame_bytes)
        listener.offer(far)
        return near

    def forget(self, address: str) -> None:
        """Free a listener's name."""
        self._listeners.pop(address, None)
