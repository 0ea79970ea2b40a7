"""Routes of the Open Inference Protocol over REST.  Needs the extra `serve`."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from collab.core.decoding import prepare
from collab.errors import CollabError, InputError
from collab.serving.about import EXTENSIONS, NAME, VERSION, model_metadata
from collab.serving.access import Action, Caller
from collab.serving.files import FileDesk
from collab.serving.inference import answer
from collab.serving.limits import ServeLimits
from collab.serving.offers import Offers
from collab.serving.openapi import describe
from collab.serving.rest_body import LENGTH_HEADER, parse_call, write_answer
from collab.serving.status import one_line, status_of
from collab.telemetry.context import SERVED, parse_traceparent

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(document), status, headers, JSON)


def _may(request: Request, action: Action) -> None:
    caller: Caller = request.scope["state"]["caller"]
    caller.check(action)
    SERVED.set(parse_traceparent(request.headers.get("traceparent", "")))


def _check_type(request: Request, *allowed: str) -> None:
    """Refuse a body that says it is something else; one that says nothing is what the path takes."""
    given = request.headers.get("content-type")
    kind = (given or "").partition(";")[0].strip().lower()
    if given is not None and kind not in allowed:
        raise HTTPException(415, f"content type {kind[:80]!r}: send {' or '.join(allowed)}")


class Rest:
    """Answers REST requests from what is offered."""

    def __init__(self, offers: Offers, limits: ServeLimits, files: FileDesk) -> None:
        self._offers = offers
        self._limits = limits
        self._files = files
        self._openapi = describe(VERSION)

    def routes(self) -> list[BaseRoute]:
        """All routes, model paths with and without a version."""
        model = "/v2/models/{name}"
        version = model + "/versions/{version}"
        repository = "/v2/repository"
        # Routes are tried in turn: inference first.
        infer = [Route(f"{path}/infer", self.infer, methods=["POST"]) for path in (model, version)]
        about = [
            route
            for path in (model, version)
            for route in (
                Route(path, self.model, methods=["GET"]),
                Route(f"{path}/ready", self.model_ready, methods=["GET"]),
            )
        ]
        return [
            *infer,
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
            *about,
            Route(f"{repository}/index", self.index, methods=["POST"]),
            Route(f"{repository}/models/{{name}}/load", self.load, methods=["POST"]),
            Route(f"{repository}/models/{{name}}/unload", self.unload, methods=["POST"]),
            Route("/v1/files/{name}", self.file, methods=["POST"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
        ]

    async def live(self, request: Request) -> Response:
        """Whether this process answers."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether every plan can be asked; 503 where not."""
        ready = self._offers.ready
        return _json({"live": True, "ready": ready}, 200 if ready else 503)

    async def server(self, request: Request) -> Response:
        """What this server is."""
        _may(request, "look")
        return _json({"name": NAME, "version": VERSION, "extensions": list(EXTENSIONS)})

    async def openapi(self, request: Request) -> Response:
        """This interface, as OpenAPI 3.1."""
        _may(request, "look")
        return _json(self._openapi)

    async def model(self, request: Request) -> Response:
        """A plan's inputs and outputs."""
        _may(request, "look")
        offer = self._offers.get(request.path_params["name"], request.path_params.get("version", ""))
        return _json(model_metadata(offer))

    async def model_ready(self, request: Request) -> Response:
        """Whether a plan can be asked; 503 where not."""
        _may(request, "look")
        name = request.path_params["name"]
        ready = self._offers.is_ready(name, request.path_params.get("version", ""))
        return _json({"name": name, "ready": ready}, 200 if ready else 503)

    async def infer(self, request: Request) -> Response:
        """One call of a plan."""
        _may(request, "infer")
        _check_type(request, JSON, BINARY)
        offer = self._offers.get(request.path_params["name"], request.path_params.get("version", ""))
        length = request.headers.get(LENGTH_HEADER)
        if length is not None and not (length.isascii() and length.isdigit() and len(length) < 12):
            raise InputError(f"Inference-Header-Content-Length: give a number of bytes, not {length[:40]!r}")
        head_bytes = None if length is None else int(length)
        parsed = parse_call(await request.body(), head_bytes, offer.plan, self._limits.deadline_s)
        body = write_answer(await answer(offer, parsed.call), parsed.binary)
        if body.head_bytes is None:
            return Response(body.data, media_type=JSON)
        return Response(body.data, headers={LENGTH_HEADER: str(body.head_bytes)}, media_type=BINARY)

    async def file(self, request: Request) -> Response:
        """A picture or a table, as the model's package takes it."""
        _may(request, "infer")
        offer = self._offers.get(request.path_params["name"])
        top = request.query_params.get("top", "3")
        if not (top.isascii() and top.isdigit() and len(top) < 5 and int(top) > 0):
            raise InputError(f"top: give a number above 0, not {top[:40]!r}")
        kind = request.headers.get("content-type", "")
        told = await self._files.ask(offer, await request.body(), kind, int(top), self._limits.deadline_s)
        return _json(told)

    async def index(self, request: Request) -> Response:
        """The plans of this server."""
        _may(request, "look")
        _check_type(request, JSON, BINARY)
        body = await request.body()
        try:
            wanted = msgspec.json.decode(body, type=_Index) if body.strip() else _Index()
        except (msgspec.DecodeError, RecursionError) as error:
            raise InputError(f"body: not an index request: {str(error)[:200]}") from error
        return _json([one._asdict() for one in self._offers.index(wanted.ready)])

    async def load(self, request: Request) -> Response:
        """Offer a plan as its file says now."""
        _may(request, "operate")
        _check_type(request, JSON, BINARY)
        await self._offers.load(request.path_params["name"])
        return _json({})

    async def unload(self, request: Request) -> Response:
        """Offer a plan no longer."""
        _may(request, "operate")
        _check_type(request, JSON, BINARY)
        await self._offers.unload(request.path_params["name"])
        return _json({})


class _Index(msgspec.Struct):
    ready: bool = False


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, CollabError)
    status = status_of(error)
    return _json({"error": one_line(error)}, status.http, {"retry-after": "1"} if status.again else None)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _broken(request: Request, error: Exception) -> Response:
    return _json({"error": f"internal: {type(error).__name__}; the server's log says more"}, 500)


def application(rest: Rest) -> Starlette:
    """The routes with our errors; `collab.serving.gate.Gate` goes around it."""
    app = Starlette(
        routes=rest.routes(),
        exception_handlers={CollabError: _told, HTTPException: _http, Exception: _broken},
    )
    # A path with a slash too many is none, and not a redirect to a host that a header names.
    app.router.redirect_slashes = False
    return app


prepare(_Index)
