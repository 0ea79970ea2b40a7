"""What is asked and answered, without the CoAP library, and how errors map to response codes."""

from __future__ import annotations

from collections.abc import Hashable
from enum import IntEnum
from typing import Final, NamedTuple

from collab.codec.wire import Buffer
from collab.core.identity import Principal
from collab.errors import (
    CollabError,
    DeadlineExceeded,
    InputError,
    LimitExceeded,
    NodeLost,
    NotLoaded,
    Overloaded,
    PeerError,
    Refused,
)


class Code(IntEnum):
    """Methods and response codes (RFC 7252 12.1, 7959 6)."""

    GET = 1
    POST = 2
    DELETE = 4
    CREATED = 65
    DELETED = 66
    CHANGED = 68
    CONTENT = 69
    CONTINUE = 95
    BAD_REQUEST = 128
    UNAUTHORIZED = 129
    BAD_OPTION = 130
    FORBIDDEN = 131
    NOT_FOUND = 132
    METHOD_NOT_ALLOWED = 133
    NOT_ACCEPTABLE = 134
    INCOMPLETE = 136
    TOO_LARGE = 141
    UNSUPPORTED_FORMAT = 143
    INTERNAL = 160
    UNAVAILABLE = 163
    TIMEOUT = 164
    NO_PROXY = 165


class Format(IntEnum):
    """Content formats (RFC 7252 12.3, 8949 9.3)."""

    TEXT = 0
    LINKS = 40
    OCTETS = 42
    JSON = 50
    CBOR = 60


class Ask(NamedTuple):
    """One request, its body complete."""

    code: int
    path: tuple[str, ...]
    query: tuple[str, ...] = ()
    accept: int | None = None
    format: int | None = None
    body: Buffer = b""
    caller: Principal | None = None
    """Whom a certificate proves; None where nobody needs to prove anything."""
    host: Hashable = ""
    """Where it came from, as far as that can be believed; bounds count by it."""
    start: int = 0
    """Where the block begins that is asked for."""
    room: int = 0
    """Bytes of that block."""


class Reply(NamedTuple):
    """One answer."""

    code: Code
    body: bytes = b""
    format: int | None = None
    max_age_s: int | None = None
    size1: int | None = None
    """The longest body that would be taken (RFC 7959 4)."""
    location: tuple[str, ...] = ()
    total: int | None = None
    """Bytes of all that this is one block of; None where ``body`` is all of it."""
    etag: bytes = b""


class Declined(Exception):
    """Ends a request with an answer that is an error's."""

    def __init__(
        self, code: Code, why: str, *, max_age_s: int | None = None, size1: int | None = None
    ) -> None:
        super().__init__(why)
        self.reply = Reply(code, _line(why), None, max_age_s, size1)


AMPLIFICATION: Final = 3
"""Bytes sent to an address that nobody has proven for each byte from it (RFC 7252 11.3, and 9000 8.1)."""
SILENT: Final = 26
"""No-Response of every class (RFC 7967 2.1)."""
_MAX_LINE: Final = 200
OVERLOADED_S: Final = 1
"""Seconds after which to ask again (Max-Age of 5.03, RFC 7252 5.9.3.4)."""
_LOST_S: Final = 5

_CODES: Final[tuple[tuple[type[CollabError], Code, int | None], ...]] = (
    (LimitExceeded, Code.TOO_LARGE, None),
    (Refused, Code.FORBIDDEN, None),
    (Overloaded, Code.UNAVAILABLE, OVERLOADED_S),
    (NotLoaded, Code.NOT_FOUND, None),
    (DeadlineExceeded, Code.TIMEOUT, None),
    (NodeLost, Code.UNAVAILABLE, _LOST_S),
    (PeerError, Code.UNAVAILABLE, _LOST_S),
    (InputError, Code.BAD_REQUEST, None),
    (CollabError, Code.INTERNAL, None),
)
"""Response codes and Max-Age by error; the first that fits."""


def error_reply(error: CollabError) -> Reply:
    """The answer that says what went wrong: a diagnostic payload of one line (RFC 7252 5.5.2)."""
    code, max_age_s = next((code, age) for kind, code, age in _CODES if isinstance(error, kind))
    return Reply(code, _line(str(error)), None, max_age_s)


def _line(text: str) -> bytes:
    return " ".join(text.split()).encode()[:_MAX_LINE].decode("utf-8", "ignore").encode()


def choose(accept: int | None, offered: tuple[int, ...]) -> int:
    """The content format to answer in; raises `Declined` if none of those offered is accepted."""
    if accept is None:
        return offered[0]
    if accept not in offered:
        known = ", ".join(str(int(one)) for one in offered)
        raise Declined(Code.NOT_ACCEPTABLE, f"content format {accept} is not made here; accept {known}")
    return accept
