"""The page over HTTP: a Starlette application of files, one stream of changes, and actions."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from collab.dashboard.access import BODY_S, MAX_BODY, MAX_STREAMS, SESSION_S, Session, Sessions
from collab.dashboard.source import Source
from collab.dashboard.stream import EventStream
from collab.errors import CollabError, InputError, LimitExceeded, PeerError, Refused

log = logging.getLogger("collab.dashboard")

COOKIE: Final = "collab_dashboard"
TOKEN: Final = "x-collab-token"

_TYPES: Final[Mapping[str, str]] = {
    "index.html": "text/html; charset=utf-8",
    **dict.fromkeys(
        ("app.js", "draw.js", "pages.js", "topology.js", "uplot.js"), "text/javascript; charset=utf-8"
    ),
    **dict.fromkeys(("style.css", "uplot.css"), "text/css; charset=utf-8"),
    "icon.svg": "image/svg+xml",
}
"""Every file that is served: no path of a request ever becomes one of the disk."""

HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def dashboard_app(source: Source, sessions: Sessions, *, clock: Callable[[], float] = time.time) -> Starlette:
    """The page of a source, for who has a session; it can be mounted under any path."""
    page = _Page(source, sessions, clock)
    return Starlette(
        routes=[
            Route("/", page.index),
            Route("/assets/{name}", page.asset),
            Route("/session", page.session, methods=["GET"]),
            Route("/session", page.sign_in, methods=["POST"]),
            Route("/session/end", page.sign_out, methods=["POST"]),
            Route("/state", page.state),
            Route("/events", page.events),
            Route("/actions/{action}", page.act, methods=["POST"]),
        ],
        middleware=[Middleware(_Headers)],
        exception_handlers={CollabError: _told, ClientDisconnect: _gone},
    )


class _Page:
    """The handlers of one application."""

    def __init__(self, source: Source, sessions: Sessions, clock: Callable[[], float]) -> None:
        self._source = source
        self._sessions = sessions
        self._clock = clock
        self._streams = 0
        self._server = secrets.token_hex(4)
        here = files("collab.dashboard") / "assets"
        # Read once: then no request touches the disk.
        self._assets = {name: (here / name).read_bytes() for name in _TYPES}

    async def index(self, _: Request) -> Response:
        return self._file("index.html")

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._assets:
            return _error(404, "not_found", "there is no such file")
        return self._file(name)

    def _file(self, name: str) -> Response:
        headers = {"cache-control": "no-cache"}
        return Response(self._assets[name], media_type=_TYPES[name], headers=headers)

    # --- sessions ----------------------------------------------------------------------

    async def session(self, request: Request) -> Response:
        """Who looks; where no key is asked for, a session begins."""
        self._check_site(request)
        found = self._session(request)
        if found is not None:
            return JSONResponse(self._about(found))
        if self._sessions.asks_for_a_key:
            return JSONResponse({"sign_in": True})
        secret, made = self._sessions.open(_address(request), self._clock())
        return self._with_cookie(request, secret, made)

    async def sign_in(self, request: Request) -> Response:
        self._check_site(request)
        key = (await _body(request)).get("key")
        if not isinstance(key, str):
            raise InputError("key: give a string")
        secret, made = self._sessions.sign_in(key, _address(request), self._clock())
        return self._with_cookie(request, secret, made)

    async def sign_out(self, request: Request) -> Response:
        self._check_site(request)
        self._sessions.sign_out(request.cookies.get(COOKIE))
        answer = JSONResponse({"sign_in": self._sessions.asks_for_a_key})
        answer.delete_cookie(COOKIE)
        return answer

    def _with_cookie(self, request: Request, secret: str, made: Session) -> Response:
        answer = JSONResponse(self._about(made))
        secure = request.url.scheme == "https"
        options: dict[str, Any] = {"httponly": True, "samesite": "strict", "secure": secure}
        answer.set_cookie(COOKIE, secret, max_age=int(SESSION_S), **options)
        return answer

    def _about(self, session: Session) -> dict[str, Any]:
        actions = {
            name: {"label": action.label, "question": action.question, "target": action.target}
            for name, action in self._source.actions.items()
        }
        return {
            "sign_in": False,
            "name": session.name,
            "role": session.role,
            "token": session.token,
            "actions": actions if session.acts else {},
            "keys": self._sessions.asks_for_a_key,
        }

    def _session(self, request: Request) -> Session | None:
        return self._sessions.of(request.cookies.get(COOKIE), self._clock())

    def _check_site(self, request: Request) -> None:
        headers = request.headers
        self._sessions.check_site(
            headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site")
        )

    # --- what is shown -------------------------------------------------------------------

    async def state(self, request: Request) -> Response:
        """Everything at once, for who has no stream."""
        self._check_site(request)
        if self._session(request) is None:
            return _unknown()
        return JSONResponse(self._source.board.versions.since(0))

    async def events(self, request: Request) -> Response:
        """Changes as server-sent events (HTML 9.2), the first of them everything there is."""
        self._check_site(request)
        if self._session(request) is None:
            return _unknown()
        if self._streams >= MAX_STREAMS:
            raise LimitExceeded(f"{MAX_STREAMS} pages look already; close one and load this again")
        told = request.headers.get("last-event-id", "")[:80]
        return EventStream(self._source, self._server, told, self._opened)

    def _opened(self, by: int) -> None:
        self._streams += by

    # --- what is done ----------------------------------------------------------------------

    async def act(self, request: Request) -> Response:
        """Do what an operator asked for."""
        self._check_site(request)
        session = self._session(request)
        if session is None:
            return _unknown()
        headers = request.headers
        try:
            self._sessions.check_action(session, headers.get(TOKEN, ""), headers.get("origin"))
        except Refused as error:
            log.warning("action of %s from %s is refused: %s", session.name, _address(request), error)
            raise
        target = (await _body(request)).get("target")
        if not isinstance(target, str) or not 0 < len(target) <= 200:
            raise InputError("target: give a name")
        said = await self._source.act(request.path_params["action"], target, session.name)
        return JSONResponse({"said": said})


class _Headers:
    """Adds the security headers to every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                given += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                if not any(name == b"cache-control" for name, _ in given):
                    given.append((b"cache-control", b"no-store"))
                message["headers"] = given
            await send(message)

        await self._app(scope, receive, with_headers)


async def _body(request: Request) -> dict[str, Any]:
    """A small JSON object; raises `InputError` or `LimitExceeded` before more is read."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InputError("Content-Type: give application/json")
    data = bytearray()

    async def read() -> None:
        async for part in request.stream():
            if len(data) + len(part) > MAX_BODY:
                raise LimitExceeded(f"the body is over {MAX_BODY} bytes")
            data.extend(part)

    try:
        await asyncio.wait_for(read(), BODY_S)
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise LimitExceeded(f"the body took more than {BODY_S:.0f} s") from error
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("the body is no JSON") from error
    if not isinstance(found, dict):
        raise InputError("the body is no JSON object")
    return found


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"


def _error(status: int, code: str, text: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": text}}, status)


def _unknown() -> Response:
    return _error(401, "unauthenticated", "sign in first")


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, CollabError)
    text = " ".join(str(error).split())
    if isinstance(error, LimitExceeded):
        return _error(413 if request.method == "POST" else 429, error.code, text)
    status = 403 if isinstance(error, Refused) else 400 if isinstance(error, InputError) else 409
    return _error(502 if isinstance(error, PeerError) else status, error.code, text)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)
