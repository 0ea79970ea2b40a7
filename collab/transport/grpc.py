"""Frames over gRPC: one long bidirectional stream a connection.

The stream's messages are ``collab.v1.Frame``, written and read by hand: with
identity serializers the bytes on the wire are those of the ``.proto`` message, and
a frame is copied once, not three times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from collab.codec.wire import Buffer, read_varint, varint
from collab.errors import LimitExceeded, LinkLost, PeerUnreachable, ProtocolError, UsageError
from collab.transport.aio import timeout
from collab.transport.base import (
    Accept,
    Connection,
    Listener,
    Transport,
    is_loopback,
    split_address,
    split_host_port,
)

METHOD: Final = "/collab.v1.Link/Connect"
MAX_FRAME_BYTES: Final = 1 << 20
_OVERHEAD: Final = 16
_CLOSE_TIMEOUT_S: Final = 1.0
_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_FRAME_BYTES + _OVERHEAD),
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES + _OVERHEAD),
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


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

    max_frame_bytes = MAX_FRAME_BYTES

    def __init__(self, stream: Any, address: str, loopback: bool) -> None:
        self._stream = stream
        self.address = address
        self.loopback = loopback
        self._ended = False
        self.finished = asyncio.Event()

    async def send(self, parts: Sequence[Buffer]) -> None:
        message = _pack(parts)
        if self._ended:
            raise self._lost("it has ended")
        try:
            await self._stream.write(message)
        except (grpc.aio.AioRpcError, grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise self._lost(_cause(error)) from error

    async def receive(self) -> Buffer:
        if self._ended:
            raise self._lost("it has ended")
        try:
            message = await self._stream.read()
        except (grpc.aio.AioRpcError, grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise self._lost(_cause(error)) from error
        if message is grpc.aio.EOF:
            raise self._lost("the other end closed it")
        return _unpack(message)

    def _lost(self, cause: str) -> LinkLost:
        self._ended = True
        self.finished.set()
        return LinkLost(f"connection to {self.address}: {cause}")

    async def close(self) -> None:
        self._ended = True
        self.finished.set()

    def abort(self) -> None:
        self._ended = True
        self.finished.set()


class _ClientConnection(_GrpcConnection):
    def __init__(self, channel: grpc.aio.Channel, address: str, loopback: bool) -> None:
        stream = channel.stream_stream(METHOD)(wait_for_ready=False)
        super().__init__(stream, address, loopback)
        self._channel = channel
        self._closing: asyncio.Future[None] | None = None

    async def close(self) -> None:
        if not self._ended:
            self._ended = True
            try:
                async with timeout(_CLOSE_TIMEOUT_S):
                    await self._stream.done_writing()
                    while await self._stream.read() is not grpc.aio.EOF:
                        pass
            except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError, TimeoutError):
                pass
            except asyncio.TimeoutError:
                pass
        self.abort()
        assert self._closing is not None
        await asyncio.shield(self._closing)

    def abort(self) -> None:
        super().abort()
        self._stream.cancel()
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._channel.close(None))


def _cause(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name.lower()}, {error.details() or 'no details'}"
    return str(error) or type(error).__name__


class _GrpcListener(Listener):
    def __init__(self, server: grpc.aio.Server, address: str, open_: set[_GrpcConnection]) -> None:
        self._server = server
        self.address = address
        self._open = open_

    async def close(self) -> None:
        for connection in tuple(self._open):
            connection.abort()
        await self._server.stop(0.2)


class _LinkHandler(grpc.GenericRpcHandler):
    """Turns each stream into a connection and keeps it open while it is served."""

    def __init__(self, accept: Accept, open_: set[_GrpcConnection]) -> None:
        self._accept = accept
        self._open = open_

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == METHOD:
            return grpc.stream_stream_rpc_method_handler(self._serve)
        return None

    async def _serve(self, _: Any, context: Any) -> None:
        peer = context.peer()
        family, _, host = peer.partition(":")
        local = family == "unix" or is_loopback(host.rpartition(":")[0].replace("%5B", "").replace("%5D", ""))
        connection = _GrpcConnection(context, peer, local)
        self._open.add(connection)
        try:
            await self._accept(connection)
        finally:
            connection.abort()
            self._open.discard(connection)


class GrpcTransport(Transport):
    """Connections as streams of ``collab.v1.Link/Connect``.

    ``configure`` may add further services to the server before it starts, for tools.
    """

    scheme = "grpc"

    def __init__(self, configure: Callable[[grpc.aio.Server], None] | None = None) -> None:
        self._configure = configure

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Listen at ``grpc://HOST:PORT``; port 0 takes a free one."""
        _, place = split_address(address)
        host, port = split_host_port(place)
        server = grpc.aio.server(options=_OPTIONS)
        open_: set[_GrpcConnection] = set()
        server.add_generic_rpc_handlers((_LinkHandler(accept, open_),))
        if self._configure is not None:
            self._configure(server)
        shown = f"[{host}]" if ":" in host else host
        try:
            bound = server.add_insecure_port(f"{shown}:{port}")
        except RuntimeError as error:
            raise UsageError(
                f"cannot listen on {shown}:{port}: is the port taken, the address this device's?"
            ) from error
        await server.start()
        return _GrpcListener(server, f"grpc://{shown}:{bound}", open_)

    async def dial(self, address: str, timeout_s: float) -> Connection:
        """Open a channel of its own and a stream over it."""
        _, place = split_address(address)
        host, _ = split_host_port(place)
        channel = grpc.aio.insecure_channel(place, options=_OPTIONS)
        try:
            async with timeout(timeout_s):
                await _ready(channel, address)
        except (TimeoutError, asyncio.TimeoutError) as error:
            await channel.close(None)
            raise PeerUnreachable(
                f"{address}: no answer within {timeout_s:g} s; is a node listening there?"
            ) from error
        except BaseException:
            await channel.close(None)
            raise
        return _ClientConnection(channel, address, is_loopback(host))


async def _ready(channel: grpc.aio.Channel, address: str) -> None:
    """Wait for the first successful connection; do not sit out gRPC's own back-off."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            raise PeerUnreachable(f"{address}: connection refused or no route; is a node listening there?")
        await channel.wait_for_state_change(state)
        state = channel.get_state()
