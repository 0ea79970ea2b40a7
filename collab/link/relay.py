"""Two ends that cannot reach each other meet through a node that both reach.

The relay hands frames on without reading them: the ends run their own handshake,
mutual TLS included, through it.  A dialler names the node that it wants in its hello;
the relay has that node dial in once more, or dials it, and joins the two connections.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from collab.codec.wire import Buffer
from collab.core.ids import NodeName
from collab.errors import (
    CollabError,
    LimitExceeded,
    LinkLost,
    PeerUnreachable,
    ProtocolError,
    Refused,
    UsageError,
)
from collab.link.hello import Identity, refusal_text
from collab.link.link import Handler, Link
from collab.link.mux import Type, head, parse
from collab.transport.aio import TaskGroup, timeout
from collab.transport.base import Connection, split_address

log = logging.getLogger("collab.link")

MEET: Final = "Meet"
"""The call by which a relay asks a node to dial in for a waiting connection."""
MAX_RELAYED: Final = 64
"""Connections that one process relays, or is asked to meet, at a time."""
_TICKET_BYTES: Final = 16
_IDLE_LIMIT_S: Final = 60.0
"""Relayed links send signs of life far more often; one that is silent for so long is dead."""

Open = Callable[[str, Identity], Awaitable[Link]]
"""Dials an address and exchanges hellos under an identity."""


class _Relayed(Connection):
    """A connection that a relay joined with another; proves nobody's identity by itself."""

    def __init__(self, base: Connection, address: str, max_frame_bytes: int) -> None:
        self._base = base
        self.address = address
        self.kind = base.kind
        self.loopback = base.loopback
        self.relayed = True
        self.max_frame_bytes = min(max_frame_bytes, base.max_frame_bytes)

    async def send(self, parts: Sequence[Buffer]) -> None:
        if sum(map(len, parts)) > self.max_frame_bytes:
            raise LimitExceeded(f"frame of {sum(map(len, parts))} bytes is over {self.max_frame_bytes}")
        await self._base.send(parts)

    async def receive(self) -> Buffer:
        return await self._base.receive()

    async def close(self) -> None:
        await self._base.close()

    def abort(self) -> None:
        self._base.abort()


def split_relay(address: str) -> tuple[str, NodeName] | None:
    """The relay's address and the node's name in ``relay://ADDRESS/NAME``; None for another scheme."""
    scheme, place = split_address(address)
    if scheme != "relay":
        return None
    inner, _, name = place.rpartition("/")
    if not inner or not name:
        raise UsageError(f"address {address!r}: write it as relay://HOST:PORT/NODE")
    return inner, NodeName(name)


def relay_address(inner: str, name: NodeName) -> str:
    """Where a node is reached that has joined the relay at ``inner``."""
    return f"relay://{inner.removeprefix('grpc://')}/{name}"


async def through_relay(open_: Open, me: Identity, address: str, timeout_s: float) -> Connection:
    """Dial a node through its relay; what comes back still has to be secured and greeted.

    Raises `PeerUnreachable`, `Refused`, `LinkLost` or `ProtocolError`.
    """
    found = split_relay(address)
    assert found is not None
    inner, name = found
    link = await open_(inner, replace(me, relay_to=name))
    return await _joined(link, address, timeout_s)


async def _joined(link: Link, address: str, timeout_s: float) -> Connection:
    """Wait until the relay says that both connections are joined."""
    try:
        async with timeout(timeout_s):
            type_, _, _, _, value, body = parse(await link.connection.receive())
    except (TimeoutError, asyncio.TimeoutError) as error:
        link.abort()
        raise PeerUnreachable(f"{address}: the relay does not reach it within {timeout_s:g} s") from error
    except BaseException:
        link.abort()
        raise
    if type_ is Type.BYE:
        await link.connection.close()
        raise PeerUnreachable(f"{address}: {refusal_text(body)}")
    if type_ is not Type.JOINED or not 1024 <= value <= 1 << 30:
        link.abort()
        raise ProtocolError(f"{address}: the relay does not say that it has joined the two ends")
    return _Relayed(link.connection, address, value)


class Relay:
    """Joins diallers with nodes that have a link here; also answers when a relay calls for this end."""

    def __init__(self, open_: Open, find: Callable[[NodeName], Link | None], timeout_s: float) -> None:
        self._open = open_
        self._find = find
        self._timeout_s = timeout_s
        self._waiting: dict[bytes, tuple[NodeName, asyncio.Future[Connection]]] = {}
        self._relayed = 0
        self._spliced: asyncio.Event = asyncio.Event()

    # --- as the relay ----------------------------------------------------------

    async def serve(self, link: Link) -> None:
        """Serve a dialler whose hello names a node to be joined with, until either ends."""
        target = NodeName(link.peer.relay_to)
        if self._relayed >= MAX_RELAYED:
            await link.refuse(f"this relay carries {MAX_RELAYED} connections already; try again later")
            return
        self._relayed += 1
        try:
            other = await self._fetch(target)
        except CollabError as error:
            log.warning("%s is not joined with %s: %s", link.peer.name, target, error)
            await link.refuse(f"relay: {error}")
            return
        finally:
            self._relayed -= 1
        self._relayed += 1
        try:
            log.info("%s is joined with %s", link.peer.name, target)
            await splice(link.connection, other)
        finally:
            self._relayed -= 1

    async def _fetch(self, target: NodeName) -> Connection:
        """A new connection with the target, by its link here."""
        link = self._find(target)
        if link is None:
            raise PeerUnreachable(f"node {target!r} has no link with this relay; start it with --join")
        ticket = os.urandom(_TICKET_BYTES)
        if link.dialled:
            return (await self._open_for(link.connection.address, ticket, target)).connection
        arrived: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = (target, arrived)
        try:
            async with timeout(self._timeout_s):
                await link.call(MEET, ticket)
                return await arrived
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(f"node {target!r} did not dial in within {self._timeout_s:g} s") from error
        finally:
            del self._waiting[ticket]

    async def _open_for(self, address: str, ticket: bytes, name: NodeName) -> Link:
        link = await self._open(address, Identity(NodeName(""), "", relay_ticket=ticket))
        if link.peer.name != name:
            link.abort()
            raise ProtocolError(f"{address}: node {link.peer.name!r} answers there, not {name!r}")
        return link

    async def arrived(self, link: Link) -> bool:
        """Take a connection that a node dialled because of a ticket; False if it is none of this relay's.

        Returns when the joined connection has ended.
        """
        waiting = self._waiting.get(link.peer.relay_ticket)
        if waiting is None:
            return False
        name, future = waiting
        if name != link.peer.name or future.done():
            raise Refused(f"{link.connection.address}: {link.peer.name!r} shows a ticket that is not its own")
        over = asyncio.Event()
        future.set_result(_Held(link.connection, over))
        await over.wait()
        return True

    # --- as a node behind a relay ------------------------------------------------

    async def meet(self, link: Link, ticket: bytes) -> Connection:
        """Dial the relay that called, and wait until it has joined the dialler."""
        if not link.dialled or len(ticket) != _TICKET_BYTES:
            raise Refused(f"{MEET}: this end has not joined {link.peer.name!r} as a relay")
        address = link.connection.address
        opened = await self._open_for(address, ticket, link.peer.name)
        return await _joined(opened, address, self._timeout_s)

    async def met(self, link: Link) -> Connection:
        """Go on with a connection that a relay dialled here because of a ticket."""
        return await _joined(link, link.connection.address, self._timeout_s)


class _Held(_Relayed):
    """A connection whose acceptor waits until the relay is through with it."""

    def __init__(self, base: Connection, over: asyncio.Event) -> None:
        super().__init__(base, base.address, base.max_frame_bytes)
        self._over = over

    async def close(self) -> None:
        await super().close()
        self._over.set()

    def abort(self) -> None:
        super().abort()
        self._over.set()


async def splice(one: Connection, other: Connection) -> None:
    """Hand frames on between two connections until either ends; ends both."""
    size = min(one.max_frame_bytes, other.max_frame_bytes)
    try:
        for end in (one, other):
            await end.send([head(Type.JOINED, value=size)])
        async with TaskGroup() as group:
            group.create_task(_pump(one, other))
            group.create_task(_pump(other, one))
    except CollabError as error:
        log.debug("a relayed connection ended: %s", error)
    finally:
        one.abort()
        other.abort()


async def _pump(source: Connection, target: Connection) -> None:
    """Frames from one to the other; back-pressure is the target's."""
    try:
        while True:
            async with timeout(_IDLE_LIMIT_S):
                frame = await source.receive()
            await target.send([frame])
    except LinkLost:
        # What was handed over before the end still arrives.
        await target.close()
    except (CollabError, TimeoutError, asyncio.TimeoutError):
        source.abort()
        target.abort()


class RelayingHandler:
    """A link's handler that answers a relay's call itself and hands everything else on."""

    def __init__(self, handler: Handler, meet: Callable[[Link, bytes], None]) -> None:
        self._handler = handler
        self._meet = meet
        self.link_up = handler.link_up
        self.link_down = handler.link_down
        self.tensors = handler.tensors
        self.link_suspected = handler.link_suspected
        self.link_recovered = handler.link_recovered
        self.awaits = handler.awaits

    async def call(self, link: Link, verb: str, body: memoryview) -> bytes:
        """Serve a call."""
        if verb != MEET:
            return await self._handler.call(link, verb, body)
        self._meet(link, bytes(body))
        return b""
