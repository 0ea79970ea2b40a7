"""Frames over gRPC: one long bidirectional stream a connection.

The stream's messages are ``collab.v1.Frame``, written and read by hand: with
identity serializers the bytes on the wire are those of the ``.proto`` message, and
a frame is copied once, not three times.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio

from collab.codec.wire import Buffer, read_varint, varint
from collab.core.identity import Pem, Principal
from collab.errors import (
    CollabError,
    LimitExceeded,
    LinkLost,
    PeerUnreachable,
    ProtocolError,
    Refused,
    UsageError,
)
from collab.transport.aio import is_cancelled, timeout
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

log = logging.getLogger("collab.transport")

METHOD: Final = "/collab.v1.Link/Connect"
MAX_FRAME_BYTES: Final = 1 << 20
_OVERHEAD: Final = 16
_CLOSE_TIMEOUT_S: Final = 1.0
_STOP_GRACE_S: Final = 0.2
_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_FRAME_BYTES + _OVERHEAD),
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES + _OVERHEAD),
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    # Connections that never finish their handshake are dropped (slow loris).
    ("grpc.server_handshake_timeout_ms", 5_000),
)
_STREAM_ERRORS: Final = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
"""What reading and writing a stream raises once it has ended."""


def _pack(parts: Sequence[Buffer]) -> bytes:
    size = sum(map(len, parts))
    if size > MAX_FRAME_BYTES:
        raise LimitExceeded(f"frame of {size} bytes is over {MAX_FRAME_BYTES}")
    return b"".join((b"\x0a", varint(size), *parts))


def _unpack(message: bytes) -> memoryview:
    if message[:1] != b"\x0a":
        raise ProtocolError("grpc: a message is not a Frame")
    size, at = read_varint(message, 1)
    if at + size != len(message):
        raise ProtocolError("grpc: a Frame's length is wrong")
    return memoryview(message)[at:]


class _GrpcConnection(Connection):
    """Either end: a client's call and a server's context read and write alike."""

    kind = "grpc"
    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(self, stream: Any, address: str, loopback: bool, peer: Peer) -> None:
        self._stream = stream
        self.address = address
        self.loopback = loopback
        self.principal, self.certificate = peer
        self._ended = False
        self._reading = False
        self._draining = False

    async def send(self, parts: Sequence[Buffer]) -> None:
        message = _pack(parts)
        if self._ended:
            raise self._lost("it has ended")
        # A failure here ends nothing yet: frames that arrived before can still be read.
        try:
            await self._stream.write(message)
        except _STREAM_ERRORS as error:
            raise self._lost(_cause(error)) from error
        except asyncio.CancelledError:
            if self._stopped():
                raise self._lost("it was ended here") from None
            raise

    async def receive(self) -> Buffer:
        if self._ended:
            raise self._lost("it has ended")
        self._reading = True
        try:
            message = await self._stream.read()
            while self._draining and message is not grpc.aio.EOF:
                # `close` waits for the end, which lies behind all frames.
                message = await self._stream.read()
        except _STREAM_ERRORS as error:
            self._ended = True
            raise self._lost(_cause(error)) from error
        except asyncio.CancelledError:
            if self._stopped():
                raise self._lost("it was ended here") from None
            raise
        finally:
            self._reading = False
        if message is grpc.aio.EOF:
            self._end_of_stream()
            raise self._lost("the other end closed it")
        return _unpack(message)

    def _end_of_stream(self) -> None:
        self._ended = True

    def _stopped(self) -> bool:
        """Whether gRPC cancelled the stream because it was ended here, and nobody this task."""
        return self._ended and not is_cancelled()

    def _lost(self, cause: str) -> LinkLost:
        return LinkLost(f"connection to {self.address}: {cause}")


class _ClientConnection(_GrpcConnection):
    def __init__(self, channel: grpc.aio.Channel, address: str, loopback: bool, peer: Peer) -> None:
        stream: Any = channel.stream_stream(METHOD)(wait_for_ready=False)
        super().__init__(stream, address, loopback, peer)
        self._channel = channel
        self._closing: asyncio.Future[None] | None = None
        self._close_lock = asyncio.Lock()

    async def close(self) -> None:
        async with self._close_lock:
            if not self._ended:
                self._ended = self._draining = True
                try:
                    async with timeout(_CLOSE_TIMEOUT_S):
                        await self._finish()
                except (*_STREAM_ERRORS, TimeoutError, asyncio.TimeoutError):
                    pass
                except asyncio.CancelledError:
                    if is_cancelled():
                        self.abort()
                        raise
            self.abort()
            assert self._closing is not None
            await asyncio.shield(self._closing)

    async def _finish(self) -> None:
        """Say that no more frames come and wait until the other end has read all."""
        await self._stream.done_writing()
        if self._reading:
            await self._stream.code()
            return
        while await self._stream.read() is not grpc.aio.EOF:
            pass

    def abort(self) -> None:
        self._ended = True
        self._stream.cancel()
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._channel.close(None))


class _ServerConnection(_GrpcConnection):
    """The stream ends with its handler, so ending it is telling the handler."""

    def __init__(self, context: Any, address: str, loopback: bool, peer: Peer) -> None:
        super().__init__(context, address, loopback, peer)
        self.ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when this end wants the stream to end."""
        self.over = asyncio.Event()
        """Set when the stream has ended."""

    async def close(self) -> None:
        self.abort()
        try:
            async with timeout(_CLOSE_TIMEOUT_S):
                await self.over.wait()
        except (TimeoutError, asyncio.TimeoutError):
            pass

    def abort(self) -> None:
        self._ended = True
        if not self.ending.done():
            self.ending.set_result(None)

    def _end_of_stream(self) -> None:
        self.abort()  # the other end waits until all its frames are read


def _cause(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name.lower()}, {error.details() or 'no details'}"
    return str(error) or type(error).__name__


class _GrpcListener(Listener):
    def __init__(self, server: grpc.aio.Server, address: str, handler: _LinkHandler) -> None:
        self._server = server
        self.address = address
        self._handler = handler

    async def close(self) -> None:
        self._handler.end_all()
        await self._server.stop(_STOP_GRACE_S)


class _LinkHandler(grpc.GenericRpcHandler):
    """Turns each stream into a connection and keeps it open while it is served."""

    def __init__(self, accept: Accept, security: Security | None) -> None:
        self._accept = accept
        self._security = security
        self._open: dict[_ServerConnection, asyncio.Future[None]] = {}

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == METHOD:
            return grpc.stream_stream_rpc_method_handler(self._serve)
        return None

    def end_all(self) -> None:
        for connection, serving in self._open.items():
            connection.abort()
            serving.cancel()

    async def _serve(self, _: Any, context: Any) -> None:
        peer = context.peer()
        family, _, host = peer.partition(":")
        local = family == "unix" or is_loopback(host.rpartition(":")[0].replace("%5B", "").replace("%5D", ""))
        try:
            proven = _peer(context, self._security)
        except Refused as error:
            log.warning("a connection from %s is refused: %s", peer, error)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        connection = _ServerConnection(context, peer, local, proven)
        self._open[connection] = serving = asyncio.ensure_future(self._accept(connection))
        try:
            await asyncio.wait((serving, connection.ending), return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                await context.abort(grpc.StatusCode.CANCELLED, "closed")
        finally:
            # Here also when the client is gone: gRPC cancels this task then.
            connection.abort()
            connection.over.set()
            try:
                await _wait_to_end(serving)
            finally:
                del self._open[connection]


async def _wait_to_end(serving: asyncio.Future[None]) -> None:
    """Wait for what serves a connection that has ended; log what it raises."""
    try:
        await asyncio.wait((serving,))
    except asyncio.CancelledError:
        serving.cancel()
        await asyncio.wait((serving,))
        raise
    error = None if serving.cancelled() else serving.exception()
    if error is not None and not isinstance(error, CollabError):
        log.error("serving a connection failed", exc_info=error)


def peer_principal(context: Any, security: Security | None) -> Principal | None:
    """Who calls a servicer, by the certificate of the call's connection; None without security.

    Raises `Refused` for a certificate that TLS took but the cluster does not, such as a revoked one.
    """
    return _peer(context, security).principal


class Peer(NamedTuple):
    """The other end of a connection, as its certificate proves it."""

    principal: Principal | None = None
    certificate: bytes = b""


def _peer(context: Any, security: Security | None) -> Peer:
    if security is None:
        return Peer()
    shown = context.auth_context().get("x509_pem_cert", ())
    if not shown:
        raise Refused("no certificate was shown")
    certificate = ssl.PEM_cert_to_DER_cert(shown[0].decode("ascii"))
    return Peer(security.check(certificate), certificate)


class GrpcTransport(Transport):
    """Connections as streams of ``collab.v1.Link/Connect``.

    ``configure`` may add further services to the server before it starts, for tools.
    With ``security`` every connection is mutual TLS.
    """

    scheme = "grpc"

    def __init__(
        self,
        configure: Callable[[grpc.aio.Server], None] | None = None,
        security: Security | None = None,
    ) -> None:
        self._configure = configure
        self._security = security

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Listen at ``grpc://HOST:PORT``; port 0 takes a free one."""
        _, place = split_address(address)
        host, port = split_host_port(place)
        server = grpc.aio.server(options=_OPTIONS)
        handler = _LinkHandler(accept, self._security)
        server.add_generic_rpc_handlers((handler,))
        if self._configure is not None:
            self._configure(server)
        shown = f"[{host}]" if ":" in host else host
        try:
            bound = self._add_port(server, f"{shown}:{port}")
        except RuntimeError as error:
            raise UsageError(
                f"cannot listen on {shown}:{port}: is the port taken, the address this device's?"
            ) from error
        await server.start()
        return _GrpcListener(server, f"grpc://{contact_host(host)}:{bound}", handler)

    def _add_port(self, server: grpc.aio.Server, place: str) -> int:
        if self._security is None:
            return server.add_insecure_port(place)
        security = self._security

        shown, deciding = security.pem(), threading.Lock()

        def renewed() -> Any:
            # Asked at every handshake, so that a renewed certificate is shown at once.  None keeps the
            # old one: gRPC aborts the process if handshakes at the same time replace it each.
            nonlocal shown
            with deciding:
                pem = security.pem()
                if pem == shown:
                    return None
                shown = pem
            return _configuration(pem)

        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(shown), renewed, require_client_authentication=True
        )
        return server.add_secure_port(place, credentials)

    async def dial(self, address: str, timeout_s: float) -> Connection:
        """Open a channel of its own and a stream over it."""
        channel, peer = await open_channel(address, self._security, timeout_s)
        host, _ = split_host_port(split_address(address)[1])
        return _ClientConnection(channel, address, is_loopback(host), peer)


async def open_channel(
    address: str, security: Security | None, timeout_s: float
) -> tuple[grpc.aio.Channel, Peer]:
    """A connected channel, and who is at its other end; the caller closes it.

    Raises `PeerUnreachable`, or `Refused` by either end's certificate.
    """
    _, place = split_address(address)
    host, port = split_host_port(place)
    channel: grpc.aio.Channel | None = None
    peer = Peer()
    try:
        async with timeout(timeout_s):
            if security is not None:
                peer = await _who_is_there(security, address, host, port)
            channel = _channel(place, security, peer)
            if not await _ready(channel):
                raise PeerUnreachable(f"{address}: {await _why_not(host, port)}")
    except BaseException as error:
        if channel is not None:
            await channel.close(None)
        if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
            raise PeerUnreachable(
                f"{address}: no answer within {timeout_s:g} s; is a node listening there?"
            ) from error
        raise
    return channel, peer


def _channel(place: str, security: Security | None, peer: Peer) -> grpc.aio.Channel:
    if security is None:
        return grpc.aio.insecure_channel(place, options=_OPTIONS)
    pem = security.pem()
    # gRPC shows no certificate of the server, so it trusts the one alone that was judged.
    judged = ssl.DER_cert_to_PEM_cert(peer.certificate).encode("ascii")
    credentials = grpc.ssl_channel_credentials(judged, pem.key, pem.certificate)
    pinned = ("grpc.ssl_target_name_override", str(peer.principal))
    return grpc.aio.secure_channel(place, credentials, options=(*_OPTIONS, pinned))


def _configuration(pem: Pem) -> Any:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.authority)


async def _who_is_there(security: Security, address: str, host: str, port: int) -> Peer:
    """Who answers at a place, by a TLS handshake of its own."""
    context = security.context(server_side=False, alpn="h2")
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="")
    except ssl.SSLCertVerificationError as error:
        raise Refused(f"{address}: its certificate is refused: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise Refused(
            f"{address}: no TLS handshake: {error.reason or error}; does it run with certificates?"
        ) from error
    except OSError as error:
        raise PeerUnreachable(f"{address}: {error.strerror or error}; is a node listening there?") from error
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return Peer(security.check(certificate), certificate)
    finally:
        writer.transport.abort()


async def _ready(channel: grpc.aio.Channel) -> bool:
    """Whether the first connection succeeds; does not sit out gRPC's own back-off."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            return False
        await channel.wait_for_state_change(state)
        state = channel.get_state()
    return True


async def _why_not(host: str, port: int) -> str:
    """What gRPC does not tell: whether anything listens at a place."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return "connection refused or no route; is a node listening there?"
    writer.transport.abort()
    return (
        "something listens there, but no node that goes without certificates; if it has some, enrol this "
        "device with 'collab cluster join TOKEN'"
    )
