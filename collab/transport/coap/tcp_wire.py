"""A TCP or TLS stream of CoAP messages on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from collab.codec.wire import Buffer
from collab.core.identity import Principal
from collab.errors import CollabError, ProtocolError, Refused
from collab.transport.coap.stream import ABORT, RELEASE, Phase, Stream, message, read_head

_SCRATCH_BYTES: Final = 64 * 1024
_HELD_BYTES: Final = 4 << 20
_HELD_FRAMES: Final = 256
"""Frames kept for the reader before TCP is told to wait."""
_WRITTEN_BYTES: Final = 2 << 20
"""Bytes kept for the socket before `send` waits."""
_ANSWERS_BYTES: Final = 64 * 1024
"""Answers kept for somebody who asks and does not read; more end the connection."""


class Peer(NamedTuple):
    """The other end, as its certificate (DER) proves it; nobody without TLS."""

    principal: Principal | None = None
    certificate: bytes = b""


class Wire(asyncio.BufferedProtocol):
    """Reads messages from a TCP or TLS stream and keeps frames for a reader."""

    def __init__(self, *, dialler: bool, admit: Callable[[asyncio.Transport], Peer]) -> None:
        """``admit`` says who the other end is, before anything is said or heard."""
        self._admit = admit
        self.peer = Peer()
        self.stream = Stream(dialler=dialler)
        self.started = False
        """Whether there is a transport."""
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.news = asyncio.Event()
        """Set when the link opens or ends."""
        self.frames: deque[Buffer] = deque()
        self.problem: BaseException | None = None
        """What the other end did wrong, or broke the stream."""
        self.ended = False
        """Whether this end ended it."""
        self.gone = asyncio.Event()
        """Set when the socket is closed."""
        self.paused = False
        self._held = 0
        self._reading = True
        self._scratch = memoryview(b"")  # made when there is a transport
        self._filled = 0
        self._big: memoryview | None = None
        """A message that does not fit into the scratch buffer, on its way in."""
        self._big_filled = 0
        self.reader: asyncio.Future[None] | None = None
        self.writer: asyncio.Future[None] | None = None

    # --- asyncio's calls ------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.started = transport, True
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        transport.set_write_buffer_limits(high=_WRITTEN_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WRITTEN_BYTES)
        if self.ended:
            transport.abort()
            return
        try:
            self.peer = self._admit(transport)
        except CollabError as error:
            self._fail(error)
        else:
            transport.write(self.stream.start())

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        if self._big is not None:
            return self._big[self._big_filled :]
        return self._scratch[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what arrived."""
        try:
            if self._big is None:
                self._filled += nbytes
                self._parse()
                return
            self._big_filled += nbytes
            if self._big_filled == len(self._big):
                big, self._big = self._big, None
                self._message(big)
        except ProtocolError as error:
            self._fail(error)

    def eof_received(self) -> bool:
        """The other end sends nothing more."""
        self.fail_quietly("the other end closed it")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        if self.problem is None and exc is not None:
            self.problem = exc
        self.fail_quietly("it broke" if exc else "it has ended")
        self.gone.set()

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self.paused = True
        if self.stream.phase is Phase.STRANGER:
            self._fail(ProtocolError("coap: asks and does not read"))

    def resume_writing(self) -> None:
        """The socket takes more."""
        self.paused = False
        wake(self.writer)

    # --- messages -------------------------------------------------------------

    def _parse(self) -> None:
        """Take whole messages out of the scratch buffer."""
        at = 0
        while at < self._filled and self.stream.phase is not Phase.OVER:
            view = self._scratch[at : self._filled]
            head = read_head(view, self.stream.most_bytes)
            if head is None:
                break
            if head.size > len(view):
                if head.size > _SCRATCH_BYTES // 2:
                    self._big = memoryview(bytearray(head.size))
                    self._big[: len(view)] = view
                    self._big_filled = len(view)
                    at = self._filled
                break
            self._message(memoryview(bytes(view[: head.size])))
            at += head.size
        rest = self._filled - at
        if at and rest:
            self._scratch[:rest] = bytes(self._scratch[at : self._filled])
        self._filled = rest

    def _message(self, data: memoryview) -> None:
        if self.ended:
            self._discarding(data)
            return
        head = read_head(data, self.stream.most_bytes)
        assert head is not None
        before = self.stream.phase
        taken, answer = self.stream.take(head, data)
        if taken is not None:
            self.frames.append(taken)
            self._held += len(taken)
            if self._reading and (self._held >= _HELD_BYTES or len(self.frames) >= _HELD_FRAMES):
                self._reading = False
                self.transport.pause_reading()
            wake(self.reader)
        if answer and not self.transport.is_closing():
            self.transport.write(answer)
            if self.transport.get_write_buffer_size() > _WRITTEN_BYTES + _ANSWERS_BYTES:
                raise ProtocolError("coap: asks and does not read")
        if self.stream.phase is not before:
            self._changed()

    def _discarding(self, data: memoryview) -> None:
        """The link was ended here: only the other end's own goodbye matters."""
        head = read_head(data, self.stream.most_bytes)
        if head is not None and head.code in (RELEASE, ABORT):
            self.transport.close()

    def _changed(self) -> None:
        self.news.set()
        if self.stream.phase is Phase.OVER:
            self._wake_all()
            self.transport.close()

    def _fail(self, error: CollabError) -> None:
        """The other end broke the rules (RFC 8323 5.6): say so and end it."""
        if self.problem is None:
            self.problem = error
        self.stream.phase = Phase.OVER
        self._wake_all()
        if not self.transport.is_closing():
            self.transport.write(message(ABORT, payload=_public(error)))
        self.transport.abort() if self.paused else self.transport.close()

    def fail_quietly(self, cause: str) -> None:
        """The stream is over."""
        self.stream.cause = self.stream.cause or cause
        self.stream.phase = Phase.OVER
        self._wake_all()

    def _wake_all(self) -> None:
        self.news.set()
        wake(self.reader)
        wake(self.writer)

    # --- the user's calls -----------------------------------------------------

    def take(self) -> Buffer:
        """The next frame; there must be one."""
        taken = self.frames.popleft()
        self._held -= len(taken)
        if not self._reading and self._held < _HELD_BYTES // 2 and len(self.frames) < _HELD_FRAMES // 2:
            self._resume()
        return taken

    def _resume(self) -> None:
        self._reading = True
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def end(self) -> None:
        """End this end: nothing is read or sent any more."""
        self.ended = True
        self.frames.clear()
        self._held = 0
        if not self._reading:
            self._resume()
        self._wake_all()


def wake(waiting: asyncio.Future[None] | None) -> None:
    """Let whoever waits go on."""
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _public(error: CollabError) -> bytes:
    """What the other end is told; not how its certificate was judged."""
    return b"refused" if isinstance(error, Refused) else str(error).encode()[:100]
