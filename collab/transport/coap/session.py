"""One end of a connection over CoAP/UDP, sans-IO: datagrams and the time in, datagrams and frames out."""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

from collab.errors import ProtocolError
from collab.transport.coap.blocks import read_block, read_missing
from collab.transport.coap.message import (
    CHANGED,
    CONTENT,
    CONTINUE,
    DELETE,
    DELETED,
    GET,
    INCOMPLETE,
    NOT_FOUND,
    POST,
    Q_BLOCK1,
    URI_PATH,
    Option,
    encode_options,
    find,
    read_options,
    read_uint,
    uint,
)
from collab.transport.coap.receiving import Receiver
from collab.transport.coap.sending import Sender
from collab.transport.coap.wire import (
    BLOCK_BYTES,
    HEAD_BYTES,
    LIMIT,
    MAX_FRAME_BYTES,
    RESOURCE_BYTES,
    SECRET_BYTES,
    Peer,
    answer,
)

KEEP_ALIVE_S: Final = 3.0
"""After so long without a sign of the other end it is asked for one."""
SILENCE_S: Final = 10.0
"""After so long without a sign of the other end the connection is over."""
REFUSED_S: Final = 1.0
"""The same, once the network said that nobody is there (which may be forged)."""
FLUSH_S: Final = 2.0
"""How long `Session.close` waits for the other end to take what was sent."""
GOODBYE_S: Final = 1.0
_GOODBYE_EVERY_S: Final = 0.15
_BODIES_BYTES: Final = BLOCK_BYTES + 128
_MOST_ANSWERS: Final = 1024
"""Answers to questions and repeats that wait to be sent; more are not given."""


class State(enum.Enum):
    """How far a connection has come."""

    OPEN = enum.auto()
    FLUSHING = enum.auto()
    """Ended here; what was sent is still on its way."""
    LEAVING = enum.auto()
    """Ended here; the other end is being told."""
    OVER = enum.auto()


class Session:
    """One end of a connection.

    The caller hands in each datagram of it (`receive`), calls `tick` at `deadline`, and
    sends what `datagrams` returns after each of these.
    """

    def __init__(self, own_resource: bytes, peer: Peer, limit: int, now: float) -> None:
        self.own_resource = own_resource
        self.peer = peer
        self.sender = Sender(peer, limit)
        self.receiver = Receiver()
        self.state = State.OPEN
        self.cause = ""
        """Why it ended, for people."""
        self.heard = False
        """Whether the other end used the connection."""
        self.bad = 0
        """Datagrams that were no sense."""
        self._heard_at = now
        self._refused_at: float | None = None
        self._answers: deque[tuple[int, bytes, bytes]] = deque()
        self._until = 0.0
        """End of the present state, when leaving."""
        self._goodbye_at = 0.0
        self._mid = 0

    # --- for the user ---------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether frames may be sent."""
        return self.state is State.OPEN

    def send(self, frame: bytes) -> None:
        """Queue a frame (see `Sender.has_room`)."""
        self.sender.queue(frame)

    def take(self) -> bytes | bytearray:
        """The next frame; `Receiver.ready` says whether there is one."""
        frame = self.receiver.take()
        if self.receiver.limit_is_old and self.is_open:
            self._ask()
        return frame

    def close(self, now: float) -> None:
        """End it after what was sent has arrived."""
        if self.state is not State.OPEN:
            return
        self.cause = "it was ended here"
        self.receiver.drop()
        self.state, self._until = State.FLUSHING, now + FLUSH_S
        if self.sender.idle:
            self._leave(now)

    def abort(self, now: float) -> None:
        """End it now; the other end is told."""
        if self.state in (State.OPEN, State.FLUSHING):
            self.cause = "it was ended here"
            self.receiver.drop()
            self._leave(now)

    def forget(self) -> None:
        """End it without a word."""
        self._end("it was ended here")

    def refused(self, now: float) -> None:
        """The network says that nobody is there: believe it if the other end stays silent."""
        if self._refused_at is None and self.is_open:
            self._refused_at = now
            self._ask()

    def greet(self) -> None:
        """Use the connection, so that the other end knows that it stands."""
        self._ask()

    def _ask(self) -> None:
        self.receiver.told()
        self.sender.window_limit = self.receiver.limit
        self.sender.ask()

    def _leave(self, now: float) -> None:
        self.state, self._until, self._goodbye_at = State.LEAVING, now + GOODBYE_S, now

    def _end(self, cause: str) -> None:
        if self.state is State.OPEN:
            self.cause = cause
        self.state = State.OVER

    # --- datagrams in ---------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take in a datagram that names this connection; nonsense is counted and dropped."""
        try:
            if data[1] < 0x20:
                self._request(data, now)
            else:
                self._response(data, now)
        except ProtocolError:
            self.bad += 1

    def _hear(self, now: float) -> None:
        self.heard = True
        self._heard_at = now
        self._refused_at = None

    def _request(self, data: bytes, now: float) -> None:
        code, token = data[1], data[4:HEAD_BYTES]
        options, at = read_options(data, HEAD_BYTES + RESOURCE_BYTES, URI_PATH)
        self._hear(now)
        if code == POST:
            if self.state is State.OPEN and len(data) <= _BODIES_BYTES:
                self.receiver.posted(options, data[at:], token, now)
        elif code == GET:
            self._take_limit(options)
            if len(self._answers) < _MOST_ANSWERS:
                limit = encode_options(((LIMIT, uint(self.receiver.limit)),))
                self._answers.append((CONTENT, token, limit))
        elif code == DELETE:
            self._answers.append((DELETED, token, b""))
            self._end("the other end closed it")

    def _take_limit(self, options: list[Option]) -> None:
        value = find(options, LIMIT)
        if value is not None:
            self.sender.limit(read_uint(value, 8))

    def _response(self, data: bytes, now: float) -> None:
        code = data[1]
        low = int.from_bytes(data[4 + SECRET_BYTES : HEAD_BYTES], "big")
        options, at = read_options(data, HEAD_BYTES)
        if code in (NOT_FOUND, DELETED):
            # Only the other end and those on the way know the token.
            if self.state is State.LEAVING or code == NOT_FOUND:
                self._end("the other end does not know it any more")
            return
        self._take_limit(options)
        upto, missing = 0, frozenset[int]()
        if code in (CONTINUE, INCOMPLETE):
            value = find(options, Q_BLOCK1)
            if value is None:
                raise ProtocolError("coap: an answer that names no block")
            upto = read_block(value).number + 1
            if code == INCOMPLETE:
                missing = frozenset(read_missing(data[at:], MAX_FRAME_BYTES // BLOCK_BYTES))
        elif code == CHANGED:
            upto = MAX_FRAME_BYTES // BLOCK_BYTES
        elif code != CONTENT:
            raise ProtocolError("coap: an answer of no known kind")
        self._hear(now)
        self.sender.answered(low, now, upto, missing)
        if self.state is State.FLUSHING and self.sender.idle:
            self._leave(now)

    # --- datagrams out --------------------------------------------------------

    def datagrams(self, now: float) -> list[bytes]:
        """What is to be sent now."""
        out = []
        if self.state in (State.OPEN, State.FLUSHING):
            out += [self._answer(*parts) for parts in self.receiver.answers(now)]
        out += [self._answer(*parts) for parts in self._answers]
        self._answers.clear()
        if self.state in (State.OPEN, State.FLUSHING):
            out += self.sender.datagrams(now)
        elif self.state is State.LEAVING and now >= self._goodbye_at:
            self._goodbye_at = now + _GOODBYE_EVERY_S
            self._mid += 1
            out.append(self.peer.request(DELETE, self._mid))
        return out

    def _answer(self, code: int, token: bytes, rest: bytes) -> bytes:
        self._mid += 1
        return answer(code, self._mid, token, rest)

    # --- time -----------------------------------------------------------------

    def deadline(self) -> float | None:
        """When `tick` wants to be called; None once it is over."""
        if self.state is State.OVER:
            return None
        if self.state is State.LEAVING:
            return min(self._until, self._goodbye_at)
        times = [self._silent_at(), self.sender.deadline(), self.receiver.deadline()]
        if self.state is State.FLUSHING:
            times.append(self._until)
        elif not self.sender.waiting:
            times.append(self._heard_at + KEEP_ALIVE_S)
        return min(at for at in times if at is not None)

    def _silent_at(self) -> float:
        at = self._heard_at + SILENCE_S
        return at if self._refused_at is None else min(at, self._refused_at + REFUSED_S)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.state in (State.FLUSHING, State.LEAVING) and now >= self._until:
            if self.state is State.FLUSHING:
                self._leave(now)
            else:
                self.state = State.OVER
        if self.state is State.OPEN and now >= self._silent_at():
            refused = self._refused_at is not None
            self._end("nobody is there any more" if refused else f"silent for {SILENCE_S:g} s")
        if self.state not in (State.OPEN, State.FLUSHING):
            return
        self.sender.tick(now)
        if self.is_open and not self.sender.waiting and now >= self._heard_at + KEEP_ALIVE_S:
            self._ask()
