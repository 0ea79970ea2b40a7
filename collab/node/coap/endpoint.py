"""Sockets under the CoAP library, with the bounds and the peer certificates that it has not.

aiocoap 0.4 offers no public way to bind a port of one's own choosing for each transport,
to see a client's certificate, or to bound what it remembers of strangers.  All use of its
private names is here: `TokenManager` and the constructors of its transports, and of theirs
the attributes `_recent_messages`, `_pool`, `_transport`, `_remote_settings` and `_spool`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections import deque
from typing import Any, Final

import aiocoap
from aiocoap.messagemanager import MessageManager
from aiocoap.tokenmanager import TokenManager
from aiocoap.transports.tcp import TcpConnection, TCPServer
from aiocoap.transports.udp6 import MessageInterfaceUDP6

from collab.core.identity import Principal
from collab.errors import Refused, UsageError
from collab.transport.base import Security, contact_host

log = logging.getLogger("collab.node.coap")
_WIRE_LOG: Final = "collab.node.coap.wire"

MAX_CONNECTIONS: Final = 64
"""Streams at a time; more are closed as they come."""
MAX_MESSAGE: Final = 256 * 1024
"""Bytes of one message over a stream (Max-Message-Size, RFC 8323 5.3.1); longer bodies come in blocks."""
MAX_REMEMBERED: Final = 2048
"""Datagrams remembered to know a repeated one (RFC 7252 4.2); a flood makes this end forget sooner."""
REMEMBERED_S: Final = 247.0
"""EXCHANGE_LIFETIME (RFC 7252 4.8.2)."""
GREETING_S: Final = 10.0
"""A stream says hello (CSM, RFC 8323 5.3) within this time, and ends each message that it begins."""
IDLE_S: Final = 300.0
"""A stream over which nothing was asked for so long, and on which nothing is observed, is closed."""
_UNREAD_BYTES: Final = 4 << 20
"""Answers kept for somebody who asks and does not read; more end the stream."""
_GOODBYE_S: Final = 1.0
MAX_PORT: Final = 65_535
_TRIES: Final = 8


class _Messages(MessageManager):  # type: ignore[misc]
    """Remembers a bounded number of datagrams, where the library remembers all for four minutes."""

    def __init__(self, tokens: TokenManager) -> None:
        super().__init__(tokens)
        self._ages: deque[tuple[float, Any]] = deque()

    def _deduplicate_message(self, message: Any) -> bool:
        key = (message.remote, message.mid)
        now = self.loop.time()
        while self._ages and now - self._ages[0][0] > REMEMBERED_S:
            self._recent_messages.pop(self._ages.popleft()[1], None)
        if key in self._recent_messages:
            return bool(super()._deduplicate_message(message))
        if len(self._ages) >= MAX_REMEMBERED:
            self._recent_messages.pop(self._ages.popleft()[1], None)
        self._recent_messages[key] = None
        self._ages.append((now, key))
        return False


class _Datagrams(MessageInterfaceUDP6):  # type: ignore[misc]
    def datagram_msg_received(self, data: bytes, ancdata: Any, flags: int, address: Any) -> None:
        try:
            super().datagram_msg_received(data, ancdata, flags, address)
        except Exception as error:  # the library's parser raises more than it says
            log.debug("a datagram from %s cannot be read: %s", address[0], error)


class Stream(TcpConnection):  # type: ignore[misc]
    """One TCP or TLS connection of a client."""

    _my_max_message_size = MAX_MESSAGE

    def __init__(self, server: _Streams, wire_log: logging.Logger, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, wire_log, loop, is_server=True)
        self._server = server
        self._certificate = b""
        self._heard_s = self._began_s = loop.time()
        self._check: asyncio.TimerHandle | None = None
        self.lost = asyncio.Event()
        self.busy = 0
        """Requests and observations under way."""

    @property
    def secured(self) -> bool:
        """Whether it is TLS, to which clients show certificates."""
        return self._server.security is not None

    def principal(self) -> Principal | None:
        """Whom the client's certificate names, checked now; raises `Refused`."""
        if self._server.security is None:
            return None
        return self._server.security.check(self._certificate)

    def connection_made(self, transport: Any) -> None:
        """A client connected, and has shown a certificate where one is demanded."""
        if len(self._server._pool) > MAX_CONNECTIONS:
            transport.abort()
            return
        if self._server.security is not None:
            tls = transport.get_extra_info("ssl_object")
            self._certificate = tls.getpeercert(binary_form=True) or b"" if tls else b""
            try:
                self.principal()
            except Refused as error:
                log.warning("a CoAP client at %s is refused: %s", transport.get_extra_info("peername"), error)
                transport.abort()
                return
        super().connection_made(transport)
        self._check = self.loop.call_later(GREETING_S, self._look)

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        if self._transport is None or self._transport.is_closing():
            return
        self._heard_s = self.loop.time()
        if not self._spool:
            self._began_s = self._heard_s
        try:
            super().data_received(data)
        except Exception as error:  # the library's parser raises more than it says
            log.debug("a CoAP client's stream cannot be read: %s", error)
            self._transport.abort()

    def _send_message(self, msg: Any) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        super()._send_message(msg)
        if transport.get_write_buffer_size() > _UNREAD_BYTES:
            log.warning("a CoAP client does not read its answers; its connection is ended")
            transport.abort()

    def _look(self) -> None:
        """End a stream that says nothing, or never ends what it says."""
        now = self.loop.time()
        unfinished = bool(self._spool) and now - self._began_s > GREETING_S
        idle = not self.busy and now - self._heard_s > IDLE_S
        if self._transport is not None and (self._remote_settings is None or unfinished or idle):
            self._transport.abort()
            return
        self._check = self.loop.call_later(GREETING_S, self._look)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The stream ended."""
        self.lost.set()
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def close(self) -> None:
        """Say goodbye."""
        if self._transport is not None:
            self._send_message(aiocoap.Message(code=aiocoap.RELEASE))
            self._transport.close()

    def abort_now(self) -> None:
        """End the stream without a word."""
        if self._transport is not None:
            self._transport.abort()


class _Streams(TCPServer):  # type: ignore[misc]
    """Accepts streams on one port, all with TLS or none."""

    def __init__(self, tokens: TokenManager, security: Security | None, wire_log: logging.Logger) -> None:
        super().__init__()
        self.server: asyncio.Server | None = None
        self._tokenmanager = tokens
        self.security = security
        self.log = wire_log
        if security is not None:
            self._scheme, self._default_port = "coaps+tcp", aiocoap.COAPS_PORT

    async def listen(self, host: str, port: int) -> int:
        """Begin to accept; the port."""
        loop = asyncio.get_running_loop()
        context: ssl.SSLContext | None = None
        if self.security is not None:
            context = self.security.context(server_side=True, alpn="coap")

        def connection() -> Stream:
            stream = Stream(self, self.log, loop)
            self._pool.add(stream)
            return stream

        self.server = await loop.create_server(
            connection,
            host,
            port,
            ssl=context,
            reuse_address=True,
            ssl_handshake_timeout=GREETING_S if context else None,
        )
        return int(self.server.sockets[0].getsockname()[1])

    async def shutdown(self) -> None:
        """Stop accepting and end the streams."""
        self._tokenmanager = None
        if self.server is None:
            return
        self.server.close()
        streams = tuple(self._pool)
        for stream in streams:
            stream.close()
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(stream.lost.wait() for stream in streams)), _GOODBYE_S)
        for stream in streams:
            stream.abort_now()
        await self.server.wait_closed()


async def open_endpoint(
    site: Any, host: str, port: int, security: Security | None, plain: bool
) -> tuple[aiocoap.Context, list[str]]:
    """Serve a site at a host and port: over TLS with ``security``, over UDP and TCP where ``plain``.

    UDP has the port in any case; TCP without TLS has the next one where both are served.
    Returns the library's context and the URIs; raises `UsageError`.
    """
    if security is not None and plain and port == MAX_PORT:
        raise UsageError(f"--coap {host}:{port}: coap+tcp is served at the next port; choose a lower one")
    wire_log = logging.getLogger(_WIRE_LOG)
    # The library warns of every malformed message: strangers would write the log.
    wire_log.setLevel(logging.CRITICAL)
    context = aiocoap.Context(serversite=site, loggername=_WIRE_LOG)
    for attempt in range(_TRIES):
        try:
            return context, await _served(context, host, port, security, plain)
        except OSError as error:
            await close_endpoint(context)
            if port == 0 and error.errno == errno.EADDRINUSE and attempt < _TRIES - 1:
                continue  # the port that TCP was given is taken for UDP
            raise UsageError(f"--coap {host}:{port}: cannot be bound: {error.strerror}") from error
    raise AssertionError


async def _served(
    context: aiocoap.Context, host: str, port: int, security: Security | None, plain: bool
) -> list[str]:
    at = contact_host(host)
    secured: list[str] = []
    bound, next_port = port, port
    if security is not None:
        bound = await _streams(context, host, port, security)
        secured.append(f"coaps+tcp://{at}:{bound}")
        next_port = port + 1 if port else 0
    if not plain:
        return secured
    tcp = await _streams(context, host, next_port, None)
    bound = bound or tcp
    datagrams = await _datagrams(context, host, bound)
    return [*secured, *([f"coap://{at}:{bound}"] if datagrams else []), f"coap+tcp://{at}:{tcp}"]


async def _streams(context: aiocoap.Context, host: str, port: int, security: Security | None) -> int:
    tokens = TokenManager(context)
    streams = _Streams(tokens, security, context.log)
    bound = await streams.listen(host, port)
    tokens.token_interface = streams
    context.request_interfaces.append(tokens)
    return bound


async def _datagrams(context: aiocoap.Context, host: str, port: int) -> bool:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        host,
        port,
        family=socket.AF_INET6,
        type=socket.SOCK_DGRAM,
        flags=socket.AI_V4MAPPED | socket.AI_PASSIVE,
    )
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError as error:
        log.warning("CoAP is served over TCP only: this system has no IPv6 sockets (%s)", error.strerror)
        return False
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(found[0][4])
        tokens = TokenManager(context)
        messages = _Messages(tokens)
        endpoint = await _Datagrams._create_transport_endpoint(sock, messages, context.log, loop)
    except BaseException:
        sock.close()
        raise
    messages.message_interface = endpoint
    tokens.token_interface = messages
    context.request_interfaces.append(tokens)
    return True


async def close_endpoint(context: aiocoap.Context) -> None:
    """End everything that `open_endpoint` began; safe to repeat."""
    interfaces, context.request_interfaces = context.request_interfaces, []
    for interface in interfaces:
        await interface.shutdown()


def remote_host(remote: Any) -> str:
    """Where a request came from, without the port."""
    host, _, _ = str(remote.hostinfo).rpartition(":")
    return host or str(remote.hostinfo)
