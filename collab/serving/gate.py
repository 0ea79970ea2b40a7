"""What every HTTP request passes before anything looks into it: who, how often, how much, how slowly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Final

import msgspec

from collab.errors import CollabError, LimitExceeded, Overloaded
from collab.serving.access import Access, Caller, bearer
from collab.serving.limits import ServeLimits
from collab.serving.status import one_line, status_of
from collab.transport.aio import timeout

log = logging.getLogger("collab.serving")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

OPEN_PATHS: Final = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Asked by probes, which have no keys; they tell nothing but yes and no."""
PROTOCOL_PATHS: Final = ("/v1", "/v2", "/openapi.json", "/metrics")
"""The protocol's, with all that is below them: no page beside it gets a request of these."""
_BODIES: Final = frozenset({"POST", "PUT", "PATCH"})


class TooSlow(Exception):
    """A client sends its body too slowly."""


class Gone(Exception):
    """A client went away before its answer was there; nobody is left to be answered."""


class Line:
    """One connection, which answers one request at a time: ends its work when the client goes away."""

    __slots__ = ("_gone", "_work")

    def __init__(self) -> None:
        self._gone = False
        self._work: asyncio.Task[Any] | None = None

    def lost(self) -> None:
        """The client is not there any more."""
        self._gone = True
        if self._work is not None:
            self._work.cancel()

    async def attend(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work while the client is there; raises `Gone` where it went away."""
        if self._gone:
            raise Gone
        self._work = asyncio.current_task()
        try:
            await work()
        except asyncio.CancelledError:
            if self._gone:
                raise Gone from None
            raise
        finally:
            self._work = None


class Gate:
    """An ASGI application around another one.

    The body is read here, within its bounds, and handed on in one message.
    """

    def __init__(self, app: App, access: Access, limits: ServeLimits, clock: Callable[[], float]) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._clock = clock
        self._held = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        began = False

        async def tell(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        taken = 0
        try:
            headers = _headers(scope)
            scope["state"]["caller"] = self._admit(scope, headers)
            body = b""
            if scope["method"] in _BODIES or "content-length" in headers or "transfer-encoding" in headers:
                taken = self._take(headers)
                body = await self._read(receive, taken)
            line: Line = scope["state"]["line"]
            await line.attend(partial(self._app, scope, _given(body, receive), tell))
        except CollabError as error:
            if began:
                raise
            await refuse(tell, error)
        except TooSlow:
            await answer_error(tell, 408, "the body did not come in time; send it faster", ())
        except Gone:
            log.debug("a client went away before its answer was there")
            if not began:
                # Nobody hears it, but the web server complains of requests without an answer.
                await answer_error(tell, 499, "the client went away", ())
        finally:
            self._held -= taken

    def _admit(self, scope: Any, headers: dict[str, str]) -> Caller:
        address = scope["client"][0] if scope["client"] else ""
        self._access.check_site(headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site"))
        if scope["path"] in OPEN_PATHS:
            return Caller(address, "viewer")
        key = bearer(headers.get("authorization"), headers.get("x-api-key"))
        return self._access.admit(key, address, self._clock())

    def _take(self, headers: dict[str, str]) -> int:
        """Room for a body, before a byte of it is read: what it says, or the most where it says nothing."""
        most = self._limits.body_bytes
        length = headers.get("content-length")
        size = int(length) if length is not None and length.isascii() and length.isdigit() else most
        if size > most:
            raise LimitExceeded(
                f"a body of {size} bytes is over {most}; send less, or raise --max-body-bytes"
            )
        if self._held + size > max(self._limits.held_bytes, most):
            raise Overloaded("too many large requests are under way; try again later")
        self._held += size
        return size

    async def _read(self, receive: Receive, most: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        began_s = self._clock()
        while True:
            left_s = began_s + self._limits.body_s + size / self._limits.body_bytes_s - self._clock()
            try:
                async with timeout(max(left_s, 0.0)):
                    message = await receive()
            except (TimeoutError, asyncio.TimeoutError):
                raise TooSlow from None
            if message["type"] != "http.request":
                raise Gone
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise LimitExceeded(f"the body is over {most} bytes; send less, or raise --max-body-bytes")
            if part:
                parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)


class Beside:
    """Gives the protocol's paths to the gate, and all others to a page with a gate of its own."""

    def __init__(self, gate: App, page: App) -> None:
        self._gate = gate
        self._page = page

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope.get("path", "")
        own = any(path == known or path.startswith(f"{known}/") for known in PROTOCOL_PATHS)
        await (self._gate if own else self._page)(scope, receive, send)


def _headers(scope: Any) -> dict[str, str]:
    """By name in small letters; of several with one name the last, so that none adds to another."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _given(body: bytes, receive: Receive) -> Receive:
    """The body in one message, then what the connection says."""
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return rest.pop() if rest else await receive()

    return give


async def refuse(send: Send, error: CollabError) -> None:
    """Tell an error of ours by its status."""
    status = status_of(error)
    extra = [(b"retry-after", b"1")] if status.again else []
    if status.http == 401:
        extra.append((b"www-authenticate", b"Bearer"))
    await answer_error(send, status.http, one_line(error), extra)


async def answer_error(send: Send, status: int, text: str, headers: Any) -> None:
    """Tell an error as the protocol has it, and close the connection: a body may be left unread."""
    body = msgspec.json.encode({"error": text})
    plain = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
    await send({"type": "http.response.body", "body": body})
