"""Both ends of links for tests: a handler that records, a raw peer, a transport that can go silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from collab.codec.pb import link_pb2 as pb
from collab.codec.wire import Buffer, frame, unframe
from collab.core.ids import NodeName
from collab.errors import CollabError, LinkLost
from collab.link.hello import Identity
from collab.link.link import Handler, Link, LinkConfig
from collab.link.links import DialConfig, Links
from collab.link.mux import Type, head, parse
from collab.transport.aio import timeout
from collab.transport.base import Accept, Connection, Listener, Transport

WITHIN_S = 20.0

QUICK_DIAL = DialConfig(timeout_s=5.0, backoff_s=0.01, backoff_limit_s=0.02, peer_backoff_limit_s=0.02)
FIRST_AND_LAST = 3


class Recorder(Handler):
    """A handler that keeps what happens; ``verbs`` serve calls."""

    def __init__(self, **verbs: Callable[[Link, bytes], Awaitable[bytes]]) -> None:
        self.verbs = {"echo": _echo, **verbs}
        self.ups: list[Link] = []
        self.downs: list[tuple[Link, CollabError]] = []
        self.suspected: list[Link] = []
        self.recovered: list[Link] = []
        self.awaiting = False
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.changed = asyncio.Event()

    def link_up(self, link: Link) -> None:
        self.ups.append(link)
        self.changed.set()

    def link_down(self, link: Link, error: CollabError) -> None:
        self.downs.append((link, error))
        self.changed.set()

    def link_suspected(self, link: Link) -> None:
        self.suspected.append(link)
        self.changed.set()

    def link_recovered(self, link: Link) -> None:
        self.recovered.append(link)
        self.changed.set()

    def awaits(self, link: Link) -> bool:
        return self.awaiting

    def tensors(self, link: Link, message: Buffer) -> None:
        self.messages.put_nowait(bytes(message))

    async def call(self, link: Link, verb: str, body: memoryview) -> bytes:
        return await self.verbs[verb](link, bytes(body))

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait, with a deadline, until links have come or gone so that a condition holds."""
        async with timeout(WITHIN_S):
            while not (value := condition()):
                self.changed.clear()
                await self.changed.wait()
            return value

    async def down(self) -> CollabError:
        """Wait for the first link to end, and say why it did."""
        await self.until(lambda: self.downs)
        return self.downs[0][1]

    async def take(self, count: int = 1) -> list[bytes]:
        """The next messages of the tensor channel."""
        async with timeout(WITHIN_S):
            return [await self.messages.get() for _ in range(count)]

    @property
    def balanced(self) -> bool:
        """Whether every link that came up has gone down exactly once."""
        return sorted(map(id, self.ups)) == sorted(id(link) for link, _ in self.downs)


async def _echo(link: Link, body: bytes) -> bytes:
    return link.peer.name.encode() + b": " + body


def links(name: str, transport: Transport, handler: Recorder, **more: Any) -> Links:
    """Links of one process over one transport."""
    more.setdefault("dial", QUICK_DIAL)
    role = more.pop("role", "node")
    return Links(Identity(NodeName(name), role), {transport.scheme: transport}, handler, **more)


@asynccontextmanager
async def pair(
    transport: Transport, free: str, *, config: LinkConfig = LinkConfig(), a: Any = None, b: Any = None
) -> AsyncIterator[tuple[Link, Link, Recorder, Recorder]]:
    """A link between ``a``, who dialled, and ``b``, who listened: each end's view of it."""
    a, b = a or Recorder(), b or Recorder()
    async with (
        links("a", transport, a, link=config) as dialler,
        links("b", transport, b, link=config) as listener,
    ):
        address = await listener.listen(free)
        near = await dialler.connect(address)
        far = await b.until(lambda: b.ups and b.ups[0])
        yield near, far, a, b


async def acquainted(link: Link) -> None:
    """Wait until a link has answered the pings that a new one gets."""
    async with timeout(WITHIN_S):
        while link._detector._answers < 12:
            await link.call("echo")


class Raw:
    """A peer that speaks frames by hand."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def send(
        self, type_: Type, body: bytes = b"", channel: int = 0, flags: int = 0, **fields: int
    ) -> None:
        await self.connection.send([head(type_, channel, flags, **fields), body])

    async def hello(self, name: str = "raw", **changes: Any) -> None:
        """Say hello; ``changes`` to it make it a bad one."""
        hello = pb.Hello(version_min=1, version_max=1, name=name, role="node", max_message_bytes=1 << 28)
        for field, value in changes.items():
            setattr(hello, field, value)
        await self.send(Type.HELLO, hello.SerializeToString())

    async def call(self, number: int, verb: str, body: bytes = b"") -> None:
        """Send a call on the control channel."""
        await self.message(
            frame(pb.CallHeader(id=number, verb=verb).SerializeToString(), (body,)), number=number
        )

    async def message(self, parts: Sequence[Buffer], channel: int = 0, number: int = 0) -> None:
        """Send a message in one frame."""
        body = b"".join(parts)
        await self.send(Type.DATA, body, channel, FIRST_AND_LAST, number=number, value=len(body))

    async def read(self, wanted: Type) -> tuple[Type, int, int, int, int, memoryview]:
        """The next frame of a type; others are dropped."""
        async with timeout(WITHIN_S):
            while True:
                parsed = parse(await self.connection.receive())
                if parsed[0] is wanted:
                    return parsed

    async def reply(self) -> tuple[pb.CallHeader, bytes]:
        """The next message on the control channel."""
        header, body = unframe((await self.read(Type.DATA))[-1])
        return pb.CallHeader.FromString(bytes(header)), bytes(body)

    async def is_ended(self) -> bool:
        """Wait until the other end has ended the connection."""
        async with timeout(WITHIN_S):
            try:
                while True:
                    await self.connection.receive()
            except LinkLost:
                return True


@asynccontextmanager
async def raw_listener(
    network: tuple[Transport, str], serve: Callable[[Raw], Awaitable[None]]
) -> AsyncIterator[str]:
    """A listener whose connections are served by hand; gives its address."""
    transport, free = network

    async def accept(connection: Connection) -> None:
        await serve(Raw(connection))

    listener = await transport.listen(free, accept)
    try:
        yield listener.address
    finally:
        await listener.close()


@asynccontextmanager
async def raw_dialler(transport: Transport, address: str) -> AsyncIterator[Raw]:
    """A connection to a listener, by hand."""
    connection = await transport.dial(address, WITHIN_S)
    try:
        yield Raw(connection)
    finally:
        connection.abort()
        await connection.close()


class Muted(Connection):
    """A connection that loses what is sent over it while its transport is mute."""

    def __init__(self, inner: Connection, owner: Mutable) -> None:
        self._inner = inner
        self._owner = owner
        self.address, self.loopback = inner.address, inner.loopback
        self.max_frame_bytes = inner.max_frame_bytes

    async def send(self, parts: Sequence[Buffer]) -> None:
        if not self._owner.mute:
            await self._inner.send(parts)

    async def receive(self) -> Buffer:
        return await self._inner.receive()

    async def close(self) -> None:
        await self._inner.close()

    def abort(self) -> None:
        self._inner.abort()


class Mutable(Transport):
    """Another transport whose frames are swallowed while ``mute``, as by a dead network."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.scheme = inner.scheme
        self.mute = False
        self.dialled = 0
        self.dials = asyncio.Semaphore(0)

    async def listen(self, address: str, accept: Accept) -> Listener:
        return await self._inner.listen(address, lambda connection: accept(Muted(connection, self)))

    async def dial(self, address: str, timeout_s: float) -> Connection:
        self.dialled += 1
        self.dials.release()
        return Muted(await self._inner.dial(address, timeout_s), self)
