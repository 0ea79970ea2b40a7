"""Links over CoAP/UDP: sessions on sockets.

Nobody is authenticated here and nothing encrypted: the link above runs mutual TLS
inside.  What this layer sees to is that somebody who is not on the way can neither
inject anything nor end a connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from collab.codec.wire import Buffer
from collab.errors import CollabError, LimitExceeded, LinkLost, PeerUnreachable, ProtocolError, UsageError
from collab.transport.aio import timeout
from collab.transport.base import (
    Accept,
    Connection,
    Listener,
    Transport,
    contact_host,
    is_loopback,
    split_address,
    split_host_port,
)
from collab.transport.coap.datagrams import Address, Datagrams
from collab.transport.coap.handshake import Dial, Door, Hello, created, not_found, reply
from collab.transport.coap.message import NON, UNAVAILABLE, Message, parse
from collab.transport.coap.session import Session, State
from collab.transport.coap.wire import (
    HEAD_BYTES,
    MAX_FRAME_BYTES,
    RANDOM_BYTES,
    RESOURCE_BYTES,
    SECRET_BYTES,
    TOKEN_BYTES,
    Peer,
    name_of,
    resource,
)

log = logging.getLogger("collab.transport")

MAX_CONNECTIONS: Final = 4096
"""A listener's; more are refused with 5.03."""
MAX_HALF_OPEN: Final = 256
"""Connections that were made and never used; the oldest makes room."""
_NON_8: Final = 1 << 6 | NON << 4 | TOKEN_BYTES
_LISTENER_GOODBYE_S: Final = 0.5
_CLOSE_S: Final = 4.0
"""Above what a session takes by itself to end."""


class _Socket:
    """The sessions on one UDP socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.connections: dict[bytes, _UdpConnection] = {}
        """By the encoded path of their resource here."""
        self._by_secret: dict[bytes, _UdpConnection] = {}
        self._touched: dict[_UdpConnection, None] = {}
        self.io = Datagrams(sock, self._received, self._batch_done, self._refused)
        self.empty = asyncio.Event()
        """Set while there is no session."""
        self.empty.set()

    def add(self, connection: _UdpConnection) -> None:
        """Let a connection take part."""
        session = connection.session
        self.connections[session.own_resource] = connection
        self._by_secret[session.peer.secret] = connection
        self.empty.clear()

    def remove(self, connection: _UdpConnection) -> None:
        """Forget a connection that is over."""
        session = connection.session
        self.connections.pop(session.own_resource, None)
        self._by_secret.pop(session.peer.secret, None)
        if not self.connections:
            self.empty.set()

    def _received(self, data: bytes, address: Address) -> None:
        connection = None
        if len(data) >= HEAD_BYTES and data[0] == _NON_8:
            if data[1] < 0x20:
                connection = self.connections.get(data[HEAD_BYTES : HEAD_BYTES + RESOURCE_BYTES])
            else:
                connection = self._by_secret.get(data[4 : 4 + SECRET_BYTES])
        if connection is not None and connection.place == address:
            connection.session.receive(data, self.now())
            self._touched[connection] = None
        else:
            self.stranger(data, address)

    def stranger(self, data: bytes, address: Address) -> None:
        """A datagram that belongs to no connection."""

    def _batch_done(self) -> None:
        while self._touched:
            self._touched.popitem()[0].flush()

    def _refused(self) -> None:
        for connection in list(self.connections.values()):
            connection.session.refused(self.now())
            self._touched[connection] = None


class _UdpConnection(Connection):
    kind = "coap+udp"
    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(self, home: _Socket, session: Session, place: Address, address: str, host: str) -> None:
        self._home = home
        self.session = session
        self.place = place
        self.address = address
        self.loopback = is_loopback(host)
        self.used = asyncio.Event()
        """Set once the other end used it."""
        self.over = asyncio.Event()
        """Set when nothing more is sent or expected."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        home.add(self)

    async def send(self, parts: Sequence[Buffer]) -> None:
        size = sum(map(len, parts))
        if size > MAX_FRAME_BYTES:
            raise LimitExceeded(f"frame of {size} bytes is over {MAX_FRAME_BYTES}")
        session = self.session
        while session.is_open and not session.sender.has_room():
            self._writer = self._loop.create_future()
            await self._writer
        if not session.is_open:
            raise self._lost()
        session.send(b"".join(parts))
        self.flush()

    async def receive(self) -> Buffer:
        session = self.session
        while not session.receiver.ready:
            if not session.is_open:
                raise self._lost()
            self._reader = self._loop.create_future()
            await self._reader
        frame = session.take()
        if session.sender.asks:
            self.flush()
        return frame

    async def close(self) -> None:
        if not self.over.is_set():
            self.session.close(self._home.now())
            self.flush()
            try:
                async with timeout(_CLOSE_S):
                    await self.over.wait()
            except (TimeoutError, asyncio.TimeoutError):
                self.abort()
        self._ended()

    def abort(self) -> None:
        if not self.over.is_set():
            self.session.abort(self._home.now())
            self.flush()

    def give_up(self) -> None:
        """Stop telling the other end: the socket closes."""
        self.session.forget()
        self.flush()

    def _ended(self) -> None:
        """The connection is over for good."""

    def _lost(self) -> LinkLost:
        return LinkLost(f"connection to {self.address}: {self.session.cause or 'it has ended'}")

    def flush(self) -> None:
        """Do what the session's new state asks for: send, wake, wait."""
        session = self.session
        now = self._home.now()
        datagrams = session.datagrams(now)
        if datagrams:
            self._home.io.send(datagrams, self.place)
        if session.heard:
            self.used.set()
        if session.receiver.ready or not session.is_open:
            _wake(self._reader)
        if session.sender.has_room() or not session.is_open:
            _wake(self._writer)
        self._set_timer(session.deadline())
        if session.state is State.OVER and not self.over.is_set():
            self.over.set()
            self.used.set()
            self._home.remove(self)
            self._ended()

    def _set_timer(self, at: float | None) -> None:
        timer = self._timer
        if timer is not None:
            # A timer that is early costs less than one that is set anew for each datagram.
            if at is not None and timer.when() <= at and not timer.cancelled():
                return
            timer.cancel()
        self._timer = None if at is None else self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.session.tick(self._home.now())
        self.flush()


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


class _DialledConnection(_UdpConnection):
    """A connection with a socket of its own."""

    def _ended(self) -> None:
        self._home.io.close()


class _Dialling(_Socket):
    """A socket while its connection comes about."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.dial = Dial(os.urandom, random.SystemRandom(), self.now())
        self._news = asyncio.Event()

    def _received(self, data: bytes, address: Address) -> None:
        super()._received(data, None)  # the socket is connected: nobody else gets through

    def stranger(self, data: bytes, address: Address) -> None:
        try:
            self.dial.receive(parse(data), self.now())
        except ProtocolError:
            return
        self._news.set()

    def _refused(self) -> None:
        if not self.dial.done:
            self.dial.problem = "connection refused"
            self._news.set()
        super()._refused()

    async def run(self) -> None:
        """Until there is an answer or a problem."""
        while not self.dial.done:
            self._news.clear()
            self.io.send(self.dial.datagrams(self.now()), None)
            try:
                async with timeout(max(self.dial.deadline() - self.now(), 0)):
                    await self._news.wait()
            except (TimeoutError, asyncio.TimeoutError):
                pass


class _UdpListener(_Socket, Listener):
    def __init__(self, sock: socket.socket, address: str, accept: Accept) -> None:
        super().__init__(sock)
        self.address = address
        self._accept = accept
        self._door = Door(os.urandom)
        self._greeted: dict[tuple[Address, bytes], bytes] = {}
        """Names that were given to diallers, by their address and hello."""
        self._half_open: OrderedDict[_UdpConnection, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def stranger(self, data: bytes, address: Address) -> None:
        if self._closing:
            return
        try:
            message = parse(data)
        except ProtocolError:
            return
        if len(data) >= HEAD_BYTES and data[0] == _NON_8 and data[1] < 0x20:
            self.io.send([not_found(data)], address)
            return
        answer = self._door.answer(message, repr(address).encode(), self.now())
        if isinstance(answer, Hello):
            answer = self._welcome(message, answer, address)
        if answer is not None:
            self.io.send([answer], address)

    def _welcome(self, message: Message, hello: Hello, address: Address) -> bytes:
        known = self._greeted.get((address, hello.name))
        if known is not None:
            return created(message, known)
        if len(self._half_open) >= MAX_HALF_OPEN:
            self._half_open.popitem(last=False)[0].abort()
        if len(self.connections) >= MAX_CONNECTIONS:
            return reply(message, UNAVAILABLE)
        name = name_of(os.urandom(RANDOM_BYTES))
        peer = Peer(resource(hello.name), os.urandom(SECRET_BYTES))
        session = Session(resource(name), peer, hello.window_bytes, self.now())
        host, port = address[:2]
        shown = f"coap+udp://{f'[{host}]' if ':' in host else host}:{port}"
        connection = _UdpConnection(self, session, address, shown, host)
        self._greeted[address, hello.name] = name
        self._half_open[connection] = None
        task = asyncio.ensure_future(self._serve(connection, (address, hello.name)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        connection.flush()
        return created(message, name)

    async def _serve(self, connection: _UdpConnection, known_as: tuple[Address, bytes]) -> None:
        try:
            await connection.used.wait()
            self._half_open.pop(connection, None)
            if not connection.over.is_set():
                await self._accept(connection)
        except CollabError as error:
            log.debug("a connection to %s ended: %s", self.address, error)
        except Exception:
            log.exception("serving a connection to %s failed", self.address)
        finally:
            self._half_open.pop(connection, None)
            self._greeted.pop(known_as, None)
            if self._closing:
                connection.abort()
            else:
                await connection.close()

    async def close(self) -> None:
        self._closing = True
        for connection in list(self.connections.values()):
            connection.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
            async with timeout(_LISTENER_GOODBYE_S):
                await self.empty.wait()
        except (TimeoutError, asyncio.TimeoutError):
            pass
        finally:
            for connection in list(self.connections.values()):
                connection.give_up()
            self.io.close()


class CoapUdpTransport(Transport):
    """Connections over CoAP/UDP, with windowed blocks (RFC 9177)."""

    scheme = "coap+udp"

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Listen at ``coap+udp://HOST:PORT``; port 0 takes a free one."""
        host, port = _place(address)
        sock = None
        try:
            family, kind, protocol, _, where = (await _resolve(host, port, passive=True))[0]
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            sock.bind(where)
        except OSError as error:
            if sock is not None:
                sock.close()
            raise UsageError(
                f"cannot listen on {host}:{port}: is the port taken, the address this device's?"
            ) from error
        bound = sock.getsockname()[1]
        return _UdpListener(sock, f"coap+udp://{contact_host(host)}:{bound}", accept)

    async def dial(self, address: str, timeout_s: float) -> Connection:
        """Connect from a socket of its own."""
        host, port = _place(address)
        try:
            async with timeout(timeout_s):
                return await _dial(address, host, port)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(
                f"{address}: no answer within {timeout_s:g} s; is a node listening there?"
            ) from error
        except OSError as error:
            raise PeerUnreachable(
                f"{address}: {error.strerror or error}; is a node listening there?"
            ) from error


def _place(address: str) -> tuple[str, int]:
    scheme, place = split_address(address)
    if scheme != CoapUdpTransport.scheme:
        raise UsageError(f"address {address!r}: write it as coap+udp://HOST:PORT")
    return split_host_port(place)


async def _resolve(
    host: str, port: int, passive: bool = False
) -> Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Address]]:
    loop = asyncio.get_running_loop()
    flags = socket.AI_PASSIVE if passive else 0
    return await loop.getaddrinfo(host or None, port, type=socket.SOCK_DGRAM, flags=flags)


async def _dial(address: str, host: str, port: int) -> Connection:
    problem = "no address"
    for family, kind, protocol, _, where in await _resolve(host, port):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.connect(where)
        except OSError as error:
            sock.close()
            problem = error.strerror or str(error)
            continue
        home = _Dialling(sock)
        try:
            await home.run()
        except BaseException:
            home.io.close()
            raise
        dial = home.dial
        if dial.peer is None:
            home.io.close()
            problem = dial.problem
            continue
        session = Session(resource(dial.name), dial.peer, dial.window_bytes, home.now())
        connection = _DialledConnection(home, session, None, address, where[0])
        session.greet()
        connection.flush()
        return connection
    raise PeerUnreachable(f"{address}: {problem}; is a node listening there?")
