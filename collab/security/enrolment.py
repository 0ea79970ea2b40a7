"""What is said between a device that enrols and the authority: one JSON line each way.

``authority`` asks for the authority's certificate, which proves nothing yet; ``join``
redeems a token; ``renew`` asks for another certificate, over mutual TLS.
"""

from __future__ import annotations

from typing import Final

import msgspec

from collab.core.decoding import prepare
from collab.errors import CollabError, ProtocolError, from_wire

MAX_LINE_BYTES: Final = 64 * 1024
MAX_REPLY_BYTES: Final = 12 << 20
"""A reply carries the revocation list."""


class Ask(msgspec.Struct, frozen=True, tag="authority", tag_field="op"):
    """Which authority is it?"""


class Join(msgspec.Struct, frozen=True, tag="join", tag_field="op"):
    """Redeem a token's secret for a certificate."""

    secret: bytes
    request: str
    """The signing request, PEM."""


class Renew(msgspec.Struct, frozen=True, tag="renew", tag_field="op"):
    """Another certificate for who the handshake has proven."""

    request: str


Request = Ask | Join | Renew


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reply to each; an error leaves the rest empty."""

    authority: str = ""
    certificate: str = ""
    revoked: str = ""
    """The latest revocation list, PEM."""
    code: str = ""
    message: str = ""


def encode(message: Request | Answer) -> bytes:
    """A line."""
    return msgspec.json.encode(message) + b"\n"


def decode_request(line: bytes) -> Request:
    """What a device asks.  Raises `ProtocolError`."""
    try:
        request: Request = msgspec.json.decode(line, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("the request cannot be read; upgrade the older end") from error
    return request


def decode_answer(line: bytes) -> Answer:
    """What the authority answers.  Raises what it reports, or `ProtocolError`."""
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("the answer cannot be read; is a server of enrolments there?") from error
    if answer.code:
        raise from_wire(answer.code[:40], " ".join(answer.message[:500].split()))
    return answer


def refusal(error: CollabError) -> Answer:
    """An error as an answer."""
    return Answer(code=error.code, message=str(error))


prepare(Request, Answer)
