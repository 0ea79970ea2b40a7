"""Uvicorn, with bounds on connections and headers that it does not have itself.  Needs the extra `serve`."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from collab.errors import PeerUnreachable
from collab.serving.gate import App, Line
from collab.serving.limits import ServeLimits
from collab.serving.tls import Certificates
from collab.transport.base import split_host_port

log = logging.getLogger("collab.serving")

_STOP_S = 5
"""How long requests under way have to finish when the server ends."""


_JOIN_BYTES: Final = 64 << 10
"""A longer body is sent by itself, without a copy of it."""


class _Joining:
    """A transport that sends the head of an answer together with its body.

    The web server writes them apart, which is a system call more, and wakes the client for the head alone.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send what is held and this; hold it for a turn of the loop where it is the first."""
        if self._held:
            data, self._held = self._send_first(data), b""
            self._transport.write(data)
        elif len(data) < _JOIN_BYTES:
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Send what is held, and close."""
        self._flush()
        self._transport.close()

    def _send_first(self, data: bytes) -> bytes:
        if len(data) < _JOIN_BYTES:
            return self._held + data
        self._transport.write(self._held)
        return data

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._transport.write(held)


class _Bounded(HttpToolsProtocol):
    """One connection: few beside it, and short and quick headers."""

    def __init__(self, limits: ServeLimits, **settings: Any) -> None:
        super().__init__(**settings)
        self._limits = limits
        self._line = Line()
        # Each request of the connection gets a copy of this state.
        self.app_state = {**self.app_state, "line": self._line}
        self._headers_due: asyncio.TimerHandle | None = None
        self._taken_due: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", _Joining(transport, self.loop)))
        if len(self.connections) > self._limits.connections:
            self._refuse(b"503 Service Unavailable", b"overloaded: too many connections")
            return
        self._headers_due = self.loop.call_later(self._limits.header_s, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            # What comes in one piece with a body may be longer than the headers.
            self._head_bytes += len(data) if b"\r\n\r\n" not in data else data.index(b"\r\n\r\n")
            if self._head_bytes > self._limits.header_bytes:
                self._refuse(b"431 Request Header Fields Too Large", b"limit: the headers are too long")
                return
        if self._headers_due is None and self._in_head and not self.transport.is_closing():
            self._headers_due = self.loop.call_later(self._limits.header_s, self._too_slow)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._unset_due()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        if not self.pipeline:
            # A long body stops the reading; without it nobody would see that the client goes away.
            self.flow.resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        left = self.transport.get_write_buffer_size()
        due_s = self._limits.body_s + left / self._limits.body_bytes_s
        self._taken_due = self.loop.call_later(due_s, self._not_taken)

    def resume_writing(self) -> None:
        self._unset_taken()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_due()
        self._unset_taken()
        super().connection_lost(exc)
        self._line.lost()

    def _unset_due(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _unset_taken(self) -> None:
        if self._taken_due is not None:
            self._taken_due.cancel()
            self._taken_due = None

    def _not_taken(self) -> None:
        self._taken_due = None
        log.info("a client does not take its answer; its connection is ended")
        self.transport.abort()

    def _too_slow(self) -> None:
        self._headers_due = None
        self._refuse(b"408 Request Timeout", b"the headers did not come in time")

    def _refuse(self, status: bytes, text: bytes) -> None:
        self._unset_due()
        if self.transport.is_closing():
            return
        body = b'{"error":"' + text + b'"}'
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d" % len(body)
        self.transport.write(b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n\r\n" + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """One that leaves signals to whoever runs it, and says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


class HttpServer:
    """Serves an application at one address; an asynchronous context manager."""

    def __init__(self, app: App, place: str, limits: ServeLimits, tls: Certificates | None = None) -> None:
        self._place = place
        self._tls = tls
        config = uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", partial(_Bounded, limits)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(limits.idle_s),
            timeout_graceful_shutdown=_STOP_S,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None
        self.address = ""
        """Where it serves, as a URL."""

    async def __aenter__(self) -> HttpServer:
        """Listen; raises `PeerUnreachable` for an address in use."""
        await asyncio.to_thread(self._server.config.load)
        if self._tls is not None:
            self._server.config.ssl = self._tls.context
        listening = _listening(self._place)
        host, port = listening.getsockname()[:2]
        scheme = "http" if self._tls is None else "https"
        self.address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self._task = asyncio.ensure_future(self._server.serve([listening]))
        up = asyncio.ensure_future(self._server.up.wait())
        await asyncio.wait((self._task, up), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._task.done():
            await self._task
            raise PeerUnreachable(f"--listen {self._place}: the server ended at once")
        return self

    async def __aexit__(self, *failure: Any) -> None:
        """Take nothing new, let requests finish for a while, and end."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


def _listening(place: str) -> socket.socket:
    host, port = split_host_port(place)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm, which costs 40 ms an answer, off only where the protocol is named.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise PeerUnreachable(f"--listen {place}: {error.strerror or error}") from error
    return made
