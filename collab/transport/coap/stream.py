"""CoAP over reliable transports (RFC 8323): framing and signalling, sans-IO.

The dialler opens a link by a POST to ``collab/link`` with a token; after 2.01 each end
posts frames there, without a token and with No-Response (RFC 7967), so that TCP alone
paces them.  Other requests, which a foreign client may send, get an error or the
list of resources.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple

from collab.codec.wire import Buffer
from collab.errors import ProtocolError
from collab.transport.coap.message import (
    CONTENT,
    CONTENT_FORMAT,
    CREATED,
    GET,
    LINK_FORMAT,
    MAX_TOKEN_BYTES,
    METHOD_NOT_ALLOWED,
    NO_RESPONSE,
    NOT_FOUND,
    POST,
    URI_PATH,
    Option,
    encode_options,
    find,
    path,
    read_options,
    read_uint,
    uint,
)
from collab.transport.coap.wire import LINK_PATH

# Signalling codes (RFC 8323 5).
CSM: Final = 0xE1
PING: Final = 0xE2
PONG: Final = 0xE3
RELEASE: Final = 0xE4
ABORT: Final = 0xE5

_MAX_MESSAGE_SIZE: Final = 2
_BLOCK_WISE_TRANSFER: Final = 4
"""Options of a CSM (RFC 8323 5.3)."""
_CUSTODY: Final = 2
"""Option of Ping and Pong (RFC 8323 5.4.1)."""
_BASE_MESSAGE_BYTES: Final = 1152
"""What every end takes before its CSM says more (RFC 8323 5.3.1)."""

MAX_FRAME_BYTES: Final = 1 << 20
_OVERHEAD_BYTES: Final = 64
MAX_MESSAGE_BYTES: Final = MAX_FRAME_BYTES + _OVERHEAD_BYTES
STRANGER_BYTES: Final = 4096
"""Longest message from whoever has not opened a link."""
_EXTENDED: Final = ((13, 1), (269, 2), (65805, 4))
"""Base and length of extended message lengths for nibbles 13 to 15 (RFC 8323 3.2)."""
_MAX_HEAD_BYTES: Final = 1 + 4 + 1 + MAX_TOKEN_BYTES
_RESOURCE: Final = encode_options((URI_PATH, part.encode()) for part in LINK_PATH)
_FRAME_OPTIONS: Final = _RESOURCE + encode_options(((NO_RESPONSE, uint(2 | 8 | 16)),), URI_PATH)
"""Not interested in any response (RFC 7967 2.1)."""
_CATALOGUE: Final = b'</collab/link>;rt="collab.link"'


class Head(NamedTuple):
    """Start of a message."""

    size: int
    """Of the whole message."""
    code: int
    token: bytes
    at: int
    """Where the options start."""


def read_head(view: Buffer, most: int) -> Head | None:
    """Read a message's start; None if more bytes are needed.

    Raises `ProtocolError` for what is none, or a message of over ``most`` bytes.
    """
    if not len(view):
        return None
    nibble, token_bytes = view[0] >> 4, view[0] & 15
    if token_bytes > MAX_TOKEN_BYTES:
        raise ProtocolError("coap: a token is too long")
    base, extra = _EXTENDED[nibble - 13] if nibble > 12 else (nibble, 0)
    at = 1 + extra + 1 + token_bytes
    if len(view) < 1 + extra:
        return None
    size = at + base + int.from_bytes(view[1 : 1 + extra], "big")
    if size > most:
        raise ProtocolError(f"coap: a message of {size} bytes is over {most}")
    if len(view) < at:
        return None
    return Head(size, view[1 + extra], bytes(view[2 + extra : at]), at)


def head(code: int, token: bytes, size: int) -> bytes:
    """Start of a message with ``size`` bytes of options and payload."""
    nibble, more = size, b""
    for index, (base, length) in enumerate(_EXTENDED):
        if size >= base:
            nibble, more = (
                13 + index,
                (size - base).to_bytes(length, "big") if size - base < 256**length else b"",
            )
    return bytes((nibble << 4 | len(token),)) + more + bytes((code,)) + token


def message(code: int, token: bytes = b"", options: Sequence[Option] = (), payload: bytes = b"") -> bytes:
    """A short message."""
    rest = encode_options(options) + (b"\xff" + payload if payload else b"")
    return head(code, token, len(rest)) + rest


def frame(parts: Sequence[Buffer], size: int) -> bytes:
    """A frame of ``size`` bytes as a message."""
    if not size:
        return head(POST, b"", len(_FRAME_OPTIONS)) + _FRAME_OPTIONS
    start = head(POST, b"", len(_FRAME_OPTIONS) + 1 + size)
    return b"".join((start, _FRAME_OPTIONS, b"\xff", *parts))


_FRAME_BEHIND: Final = _FRAME_OPTIONS + b"\xff"


class Phase(enum.Enum):
    """How far a link has come."""

    STRANGER = enum.auto()
    """Nothing was agreed on; a foreign client stays here."""
    LINK = enum.auto()
    OVER = enum.auto()
    """The other end will send nothing more."""


class Stream:
    """One end of a CoAP stream: decides what each message means and what to answer."""

    def __init__(self, *, dialler: bool) -> None:
        self.phase = Phase.STRANGER
        self.opened = False
        """Whether there is, or was, a link."""
        self.cause = ""
        """Why the other end left, for people."""
        self.max_frame_bytes = 0
        """Longest frame that the other end takes."""
        self._dialler = dialler
        self._heard_csm = False
        self._token = b"\x01"

    @property
    def most_bytes(self) -> int:
        """Longest message taken now."""
        return MAX_MESSAGE_BYTES if self._dialler or self.phase is Phase.LINK else STRANGER_BYTES

    def start(self) -> bytes:
        """What is sent first (RFC 8323 5.3: a CSM before all else)."""
        settings = self._settings()
        return settings + message(POST, self._token, _path_options()) if self._dialler else settings

    def _settings(self) -> bytes:
        most = (_MAX_MESSAGE_SIZE, uint(self.most_bytes))
        return message(CSM, b"", (most, (_BLOCK_WISE_TRANSFER, b"")))

    def take(self, head: Head, data: Buffer) -> tuple[Buffer | None, bytes]:
        """A frame if a whole message is one, and what to answer; raises `ProtocolError`."""
        at = head.at
        behind = at + len(_FRAME_BEHIND)
        if head.code == POST and self.phase is Phase.LINK and bytes(data[at:behind]) == _FRAME_BEHIND:
            return memoryview(data)[behind : head.size], b""
        options, payload_at = read_options(memoryview(data)[: head.size], at)
        if head.code >= 0xE0:
            return None, self._signal(head, options)
        if not self._heard_csm:
            raise ProtocolError("coap: a message before the CSM")
        if head.code == 0:
            return None, b""  # RFC 8323 3.4: empty messages are ignored
        if head.code >= 0x40:
            self._response(head)
            return None, b""
        if path(options) == LINK_PATH and head.code == POST:
            if self.phase is Phase.LINK:
                return memoryview(data)[payload_at : head.size], b""
            if not self._dialler and head.token:
                self.phase, self.opened = Phase.LINK, True
                return None, self._settings() + message(CREATED, head.token)
        return None, _answer(head, options)

    def _response(self, head: Head) -> None:
        if self._dialler and self.phase is Phase.STRANGER and head.token == self._token:
            if head.code != CREATED:
                raise ProtocolError(f"it speaks CoAP, but answers {head.code >> 5}.{head.code & 31:02d}")
            self.phase, self.opened = Phase.LINK, True

    def _signal(self, head: Head, options: list[Option]) -> bytes:
        if not self._heard_csm and head.code not in (CSM, ABORT):
            raise ProtocolError("coap: a message before the CSM")
        if head.code == CSM:
            self._heard_csm = True
            most = read_uint(find(options, _MAX_MESSAGE_SIZE) or b"", 4)
            room = max(most, _BASE_MESSAGE_BYTES) - _OVERHEAD_BYTES
            self.max_frame_bytes = min(max(room, self.max_frame_bytes), MAX_FRAME_BYTES)
        elif head.code == PING:
            custody = [(_CUSTODY, b"")] if find(options, _CUSTODY) is not None else []
            return message(PONG, head.token, custody)
        elif head.code in (RELEASE, ABORT):
            self.phase = Phase.OVER
            self.cause = "the other end closed it" if head.code == RELEASE else "the other end gave it up"
        return b""


def _path_options() -> list[Option]:
    return [(URI_PATH, part.encode()) for part in LINK_PATH]


def _answer(head: Head, options: list[Option]) -> bytes:
    """Response to a request that is no frame."""
    if find(options, NO_RESPONSE) is not None:
        return b""
    where = path(options)
    if where == (".well-known", "core") and head.code == GET:
        return message(CONTENT, head.token, ((CONTENT_FORMAT, uint(LINK_FORMAT)),), _CATALOGUE)
    known = where in (LINK_PATH, (".well-known", "core"))
    return message(METHOD_NOT_ALLOWED if known else NOT_FOUND, head.token)
