"""How a connection over CoAP/UDP comes about, sans-IO.

The dialler posts its hello to ``collab/link``.  The listener keeps nothing of it: it
answers 4.01 with an Echo option that only this process can have made for this address
and hello (RFC 9175 2.3).  The dialler repeats its hello with the Echo; 2.01 names the
resource that was made for it.
"""

from __future__ import annotations

import hmac
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from collab.errors import ProtocolError
from collab.transport.coap.message import (
    ACK,
    BAD_REQUEST,
    CON,
    CREATED,
    ECHO,
    LOCATION_PATH,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    POST,
    RST,
    UNAUTHORIZED,
    UNAVAILABLE,
    URI_PATH,
    Message,
    path,
)
from collab.transport.coap.wire import (
    LINK_PATH,
    NAME_BYTES,
    RANDOM_BYTES,
    SECRET_BYTES,
    WINDOW_BYTES,
    Peer,
    name_of,
    resource,
)

VERSION: Final = 1
_HELLO_BYTES: Final = 1 + NAME_BYTES + 4
_ECHO_AGE_S: Final = 30
_MAC_BYTES: Final = 16
ACK_TIMEOUT_S: Final = 1.0
"""Half the default of RFC 7252 4.8, no less than RFC 8085 3.1.1 asks for."""
_ACK_RANDOM_FACTOR: Final = 1.5
_MAX_RETRANSMIT: Final = 4
"""RFC 7252 4.8."""


class Hello(NamedTuple):
    """What each end tells the other at first."""

    name: bytes
    """Of its resource for this connection."""
    window_bytes: int

    def encode(self) -> bytes:
        """The payload."""
        return bytes((VERSION,)) + self.name + self.window_bytes.to_bytes(4, "big")

    @staticmethod
    def read(payload: bytes) -> Hello:
        """Read a payload; raises `ProtocolError`."""
        if len(payload) < _HELLO_BYTES or payload[0] != VERSION:
            raise ProtocolError("coap: no hello of a version that is spoken here")
        name, window = payload[1 : 1 + NAME_BYTES], payload[1 + NAME_BYTES : _HELLO_BYTES]
        return Hello(name, int.from_bytes(window, "big"))


class Cookies:
    """Echo values that prove that an address can be reached; nothing is stored."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, place: bytes, hello: bytes, now: float) -> bytes:
        """An Echo value for a hello from a place."""
        made = int(now).to_bytes(8, "big")
        return (
            made
            + hmac.digest(self._key, made + len(place).to_bytes(2, "big") + place + hello, "sha256")[
                :_MAC_BYTES
            ]
        )

    def accepts(self, cookie: bytes, place: bytes, hello: bytes, now: float) -> bool:
        """Whether `make` made it for the same lately."""
        made = int.from_bytes(cookie[:8], "big")
        if len(cookie) != 8 + _MAC_BYTES or not 0 <= now - made <= _ECHO_AGE_S + 1:
            return False
        return hmac.compare_digest(cookie, self.make(place, hello, made))


class Door:
    """The listener's side: answers strangers, and says which of them may have a connection."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._cookies = Cookies(random_bytes(32))

    def answer(self, message: Message, place: bytes, now: float) -> bytes | Hello | None:
        """What to send back to a stranger; a `Hello` if a connection is due, None for silence.

        No answer is longer than the question, so nobody can be flooded through it.
        """
        if message.type in (ACK, RST) or message.code >= 0x20:
            return None
        if message.code == 0:
            return Message(RST, 0, message.mid).encode() if message.type == CON else None
        if path(message.options) != LINK_PATH:
            return reply(message, NOT_FOUND)
        if message.code != POST:
            return reply(message, METHOD_NOT_ALLOWED if message.code <= 7 else BAD_REQUEST)
        try:
            hello = Hello.read(message.payload)
        except ProtocolError:
            return reply(message, BAD_REQUEST)
        cookie = message.option(ECHO)
        if cookie is not None and self._cookies.accepts(cookie, place, message.payload, now):
            return hello
        if len(message.payload) < 2 * _HELLO_BYTES:
            return reply(message, BAD_REQUEST)  # an answer with a cookie would be longer
        fresh = self._cookies.make(place, message.payload, now)
        return reply(message, UNAUTHORIZED, ((ECHO, fresh),))


def reply(
    message: Message, code: int, options: tuple[tuple[int, bytes], ...] = (), body: bytes = b""
) -> bytes:
    """A response: piggybacked on the acknowledgement if one is asked for (RFC 7252 5.2)."""
    kind = ACK if message.type == CON else message.type
    return Message(kind, code, message.mid, message.token, options, body).encode()


def created(message: Message, name: bytes) -> bytes:
    """The response that tells the dialler where its connection is."""
    location = tuple((LOCATION_PATH, part) for part in (*(p.encode() for p in LINK_PATH), name))
    return reply(message, CREATED, location, Hello(name, WINDOW_BYTES).encode())


class Dial:
    """The dialler's side."""

    def __init__(self, random_bytes: Callable[[int], bytes], jitter: random.Random, now: float) -> None:
        self.name = name_of(random_bytes(RANDOM_BYTES))
        self.secret = random_bytes(SECRET_BYTES)
        self._token = random_bytes(RANDOM_BYTES)
        self._mid = int.from_bytes(random_bytes(2), "big")
        self._echo: bytes | None = None
        self._jitter = jitter
        self.peer: Peer | None = None
        """How to talk to the other end, once it agreed."""
        self.window_bytes = 0
        self.problem = ""
        """Why the other end will not have it, for people."""
        self._start(now)

    def _start(self, now: float) -> None:
        self._mid = self._mid + 1 & 0xFFFF
        self._wait_s = ACK_TIMEOUT_S * self._jitter.uniform(1, _ACK_RANDOM_FACTOR)
        self._tries = 0
        self._send_at = now

    @property
    def done(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.peer is not None or bool(self.problem)

    def deadline(self) -> float:
        """When `datagrams` wants to be called."""
        return self._send_at

    def datagrams(self, now: float) -> list[bytes]:
        """What is to be sent now; retransmits as RFC 7252 4.2 says."""
        if self.done or now < self._send_at:
            return []
        if self._tries > _MAX_RETRANSMIT:
            self.problem = "no answer"
            return []
        self._tries += 1
        self._send_at = now + self._wait_s
        self._wait_s *= 2
        hello = Hello(self.name, WINDOW_BYTES).encode()
        # Padding, so that the answer with its Echo is no longer (RFC 9175 2.4).
        options: list[tuple[int, bytes]] = [(URI_PATH, part.encode()) for part in LINK_PATH]
        if self._echo is not None:
            options.append((ECHO, self._echo))
        payload = hello + bytes(_HELLO_BYTES)
        return [Message(CON, POST, self._mid, self._token, tuple(options), payload).encode()]

    def receive(self, message: Message, now: float) -> None:
        """Take in a response; what answers something else is ignored."""
        if message.mid != self._mid or self.done:
            return
        if message.type == RST:
            self.problem = "it speaks CoAP, but resets the message"
            return
        if message.type != ACK or message.token != self._token:
            return
        echo = message.option(ECHO)
        if message.code == UNAUTHORIZED and echo is not None and self._echo is None:
            self._echo = echo
            self._start(now)
        elif message.code == CREATED:
            try:
                hello = Hello.read(message.payload)
            except ProtocolError as error:
                self.problem = str(error)
                return
            self.window_bytes = hello.window_bytes
            self.peer = Peer(resource(hello.name), self.secret)
        elif message.code == UNAVAILABLE:
            self.problem = "it has too many connections"
        elif message.code >= 0x80:
            self.problem = f"it speaks CoAP, but answers {message.code >> 5}.{message.code & 31:02d}"


def not_found(datagram: bytes) -> bytes:
    """Answer to a request for a connection that does not exist (any more)."""
    return b"".join((datagram[:1], bytes((NOT_FOUND,)), datagram[2:12]))
