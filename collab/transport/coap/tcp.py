"""Links over CoAP on TCP and TLS (RFC 8323)."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from collab.codec.wire import Buffer
from collab.errors import (
    CollabError,
    LimitExceeded,
    LinkLost,
    PeerUnreachable,
    ProtocolError,
    Refused,
    UsageError,
)
from collab.transport.aio import timeout
from collab.transport.base import (
    Accept,
    Connection,
    Listener,
    Security,
    Transport,
    contact_host,
    is_loopback,
    split_address,
    split_host_port,
)
from collab.transport.coap.stream import ABORT, RELEASE, Phase, frame, message
from collab.transport.coap.tcp_wire import Peer, Wire

log = logging.getLogger("collab.transport")

OPENING_S: Final = 5.0
"""How long somebody who connects may take until the link is open; foreign clients are ended then."""
MAX_OPENING: Final = 256
"""Connections that are not open yet; the oldest makes room."""
MAX_HANDSHAKES: Final = 128
"""Of those, the ones in a TLS handshake, each with some 300 KiB of asyncio's; the oldest makes room."""
_HANDSHAKE: Final = 22
"""Content type of a handshake record (RFC 8446 5.1)."""
_RECORD_HEAD: Final = 5
_RECORD_BYTES: Final = 1 << 14
_PEEK_S: Final = 0.02
_CLOSE_S: Final = 1.0
_ALPN: Final = "coap"
"""RFC 8323 8.2."""
_BACKLOG: Final = 512
_ACCEPT_RETRY_S: Final = 0.1


class _TcpConnection(Connection):
    kind = "coap+tcp"

    def __init__(self, wire: Wire, address: str, host: str) -> None:
        self._wire = wire
        self.address = address
        self.loopback = is_loopback(host)
        self.principal, self.certificate = wire.peer
        self.max_frame_bytes = wire.stream.max_frame_bytes

    async def send(self, parts: Sequence[Buffer]) -> None:
        size = sum(map(len, parts))
        if size > self.max_frame_bytes:
            raise LimitExceeded(f"frame of {size} bytes is over {self.max_frame_bytes}")
        wire = self._wire
        while wire.paused and self._open:
            wire.writer = asyncio.get_running_loop().create_future()
            await wire.writer
        if not self._open:
            raise self._lost()
        wire.transport.write(frame(parts, size))

    async def receive(self) -> Buffer:
        wire = self._wire
        while not wire.frames:
            if isinstance(wire.problem, ProtocolError) and not wire.ended:
                raise ProtocolError(f"{self.address}: {wire.problem}") from wire.problem
            if not self._open:
                raise self._lost()
            wire.reader = asyncio.get_running_loop().create_future()
            await wire.reader
        return wire.take()

    @property
    def _open(self) -> bool:
        return not self._wire.ended and self._wire.stream.phase is Phase.LINK

    def _lost(self) -> LinkLost:
        wire = self._wire
        cause = (
            "it was ended here" if wire.ended else str(wire.problem or wire.stream.cause or "it has ended")
        )
        return LinkLost(f"connection to {self.address}: {cause}")

    async def close(self) -> None:
        wire = self._wire
        if not wire.ended:
            if self._open:
                wire.transport.write(message(RELEASE))
            else:
                wire.transport.close()
            wire.end()
        try:
            async with timeout(_CLOSE_S):
                await wire.gone.wait()
        except (TimeoutError, asyncio.TimeoutError):
            wire.transport.abort()
            await wire.gone.wait()

    def abort(self) -> None:
        wire = self._wire
        if wire.gone.is_set():
            return
        if self._open and not wire.transport.is_closing():
            wire.transport.write(message(ABORT))
        wire.end()
        wire.transport.abort()


_Waiting = OrderedDict[asyncio.Task[Any], None]
"""Tasks in the order in which they began to wait."""


def _make_room(waiting: _Waiting, most: int) -> None:
    while len(waiting) >= most:
        oldest, _ = waiting.popitem(last=False)
        oldest.cancel()


async def _client_hello(sock: socket.socket) -> None:
    """Wait until the first TLS record is there as a whole, or what is none, or the end; takes nothing.

    Who says nothing, or half of it, costs a socket and no TLS.
    """
    while True:
        await _readable(sock)
        head = sock.recv(_RECORD_HEAD, socket.MSG_PEEK)
        if not head or head[0] != _HANDSHAKE:
            return
        if len(head) == _RECORD_HEAD:
            whole = _RECORD_HEAD + min(int.from_bytes(head[3:], "big"), _RECORD_BYTES)
            if len(sock.recv(whole, socket.MSG_PEEK)) == whole:
                return
        # What is there keeps the socket readable: look again in a while.
        await asyncio.sleep(_PEEK_S)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def arrived() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, arrived)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


class _TcpListener(Listener):
    def __init__(self, sock: socket.socket, address: str, accept: Accept, security: Security | None) -> None:
        self.address = address
        self._socket = sock
        self._accept = accept
        self._security = security
        self._opening: _Waiting = OrderedDict()
        self._shaking: _Waiting = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wires: set[Wire] = set()
        self._running = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, place = await loop.sock_accept(self._socket)
            except OSError as error:
                log.warning("%s: cannot accept: %s", self.address, error)
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            _make_room(self._opening, MAX_OPENING)
            task = asyncio.ensure_future(self._serve(sock, place))
            self._opening[task] = None
            self._tasks.add(task)
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._opening.pop(task, None)
        self._shaking.pop(task, None)

    async def _serve(self, sock: socket.socket, place: tuple[str, int]) -> None:
        scheme = "coap+tcp" if self._security is None else "coaps+tcp"
        host, port = place[:2]
        shown = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        wire = Wire(dialler=False, admit=_admission(self._security, shown))
        self._wires.add(wire)
        try:
            connection = await self._open(wire, sock, shown, host)
            if connection is not None:
                await self._serve_open(connection)
        except CollabError as error:
            level = logging.WARNING if isinstance(error, Refused) else logging.DEBUG
            log.log(level, "a connection from %s ended: %s", shown, error)
        except Exception:
            log.exception("serving a connection to %s failed", self.address)
        finally:
            wire.end()
            if not wire.started:
                sock.close()
            elif not wire.gone.is_set():
                wire.transport.abort()
            self._wires.discard(wire)

    async def _open(self, wire: Wire, sock: socket.socket, shown: str, host: str) -> Connection | None:
        loop = asyncio.get_running_loop()
        security = self._security
        context = None if security is None else security.context(server_side=True, alpn=_ALPN)
        task = asyncio.current_task()
        assert task is not None
        try:
            async with timeout(OPENING_S):
                if context is not None:
                    await _client_hello(sock)
                    _make_room(self._shaking, MAX_HANDSHAKES)
                    self._shaking[task] = None
                await loop.connect_accepted_socket(lambda: wire, sock, ssl=context)
                self._shaking.pop(task, None)
                await wire.news.wait()
        except (TimeoutError, asyncio.TimeoutError):
            return None
        except ssl.SSLError as error:
            raise Refused(f"{shown}: {_reason(error)}") from error
        except OSError:
            return None
        self._opening.pop(task, None)
        if isinstance(wire.problem, Refused):
            raise wire.problem
        if not wire.stream.opened:
            return None
        return _TcpConnection(wire, shown, host)

    async def _serve_open(self, connection: Connection) -> None:
        try:
            await self._accept(connection)
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            await connection.close()

    async def close(self) -> None:
        self._running.cancel()
        tasks = list(self._tasks)
        for wire in self._wires:
            if wire.started:
                wire.end()
                wire.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(self._running, *tasks, return_exceptions=True)
        self._socket.close()


class CoapTcpTransport(Transport):
    """Connections over CoAP on TCP; with ``security`` on mutual TLS 1.3 (``coaps+tcp``)."""

    def __init__(self, security: Security | None = None) -> None:
        self._security = security
        self.scheme = "coap+tcp" if security is None else "coaps+tcp"

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Listen at ``coap+tcp://HOST:PORT`` or ``coaps+tcp://…``; port 0 takes a free one."""
        host, port = self._place(address)
        loop = asyncio.get_running_loop()
        sock = None
        try:
            found = await loop.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, kind, protocol, _, where = found[0]
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen(_BACKLOG)
        except OSError as error:
            if sock is not None:
                sock.close()
            raise UsageError(
                f"cannot listen on {host}:{port}: is the port taken, the address this device's?"
            ) from error
        bound = sock.getsockname()[1]
        return _TcpListener(sock, f"{self.scheme}://{contact_host(host)}:{bound}", accept, self._security)

    async def dial(self, address: str, timeout_s: float) -> Connection:
        """Connect, shake hands, and open a link."""
        host, port = self._place(address)
        wire = Wire(dialler=True, admit=_admission(self._security, address))
        try:
            async with timeout(timeout_s):
                return await self._dial(wire, address, host, port)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(
                f"{address}: no answer within {timeout_s:g} s; is a node listening there?"
            ) from error
        except ssl.SSLError as error:
            raise Refused(f"{address}: {_reason(error)}") from error
        except OSError as error:
            cause = error.strerror or str(error)
            raise PeerUnreachable(f"{address}: {cause}; is a node listening there?") from error

    async def _dial(self, wire: Wire, address: str, host: str, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        security = self._security
        context = None if security is None else security.context(server_side=False, alpn=_ALPN)
        name = None if context is None else ""
        try:
            await loop.create_connection(lambda: wire, host, port, ssl=context, server_hostname=name)
            await wire.news.wait()
            if wire.stream.opened:
                return _TcpConnection(wire, address, host)
            if isinstance(wire.problem, (OSError, Refused)):
                raise wire.problem
            cause = str(wire.problem or wire.stream.cause)
            raise PeerUnreachable(f"{address}: {cause}; is a node listening there?")
        except BaseException:
            wire.end()
            if wire.started:
                wire.transport.abort()
            raise

    def _place(self, address: str) -> tuple[str, int]:
        scheme, place = split_address(address)
        if scheme != self.scheme:
            raise UsageError(f"address {address!r}: write it as {self.scheme}://HOST:PORT")
        return split_host_port(place)


def _admission(security: Security | None, address: str) -> Callable[[asyncio.Transport], Peer]:
    """Who the other end of a stream is, as its certificate says; nobody without TLS."""

    def admit(transport: asyncio.Transport) -> Peer:
        if security is None:
            return Peer()
        certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if certificate is None:
            raise Refused(f"{address}: shows no certificate")
        return Peer(security.check(certificate), certificate)

    return admit


def _reason(error: ssl.SSLError) -> str:
    verify = getattr(error, "verify_message", "")
    return f"no TLS session: {verify or error.reason or error}"
