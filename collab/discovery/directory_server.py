"""A small CoAP resource directory over UDP (RFC 9176), for networks where multicast does not reach.

It proves nobody's identity; what it tells are hints, as with every discovery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import aiocoap
from aiocoap.error import BadRequest, NotFound, ServiceUnavailable
from aiocoap.error import Error as CoapError
from aiocoap.numbers.contentformat import ContentFormat
from aiocoap.resource import PathCapable, Resource, Site, WKCResource

from collab.discovery.records import parse_links
from collab.discovery.registry import Registry
from collab.errors import InputError, LimitExceeded, ProtocolError, UsageError


class DirectoryServer:
    """Serves a registry at one address, from `start` to `stop`."""

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)
        self._context: aiocoap.Context | None = None

    async def start(self) -> None:
        """Serve from now on.  Raises `UsageError` if the address cannot be bound."""
        registry = Registry(asyncio.get_running_loop().time)
        site = Site()
        site.add_resource([".well-known", "core"], WKCResource(site.get_resources_as_linkheader))
        site.add_resource(["rd"], _Directory(registry))
        site.add_resource(["rd"], _Registrations(registry))
        site.add_resource(["rd-lookup", "res"], _Lookup(registry.resources, "core.rd-lookup-res"))
        site.add_resource(["rd-lookup", "ep"], _Lookup(registry.endpoints, "core.rd-lookup-ep"))
        try:
            # A task of its own: aiocoap connects a UDP socket to find a route, which does not wait.
            self._context = await asyncio.get_running_loop().create_task(
                aiocoap.Context.create_server_context(site, bind=self._place, transports=["udp6"])
            )
        except (OSError, CoapError) as error:
            raise UsageError(f"directory at {self._place[0]}:{self._place[1]}: {error}") from error

    async def stop(self) -> None:
        """End; safe to repeat."""
        context, self._context = self._context, None
        if context is not None:
            await context.shutdown()


def _query(request: aiocoap.Message) -> dict[str, str]:
    pairs = [text.partition("=")[::2] for text in request.opt.uri_query]
    if len({key for key, _ in pairs}) != len(pairs):
        raise BadRequest("a query parameter is given twice")
    return dict(pairs)


class _Directory(Resource):  # type: ignore[misc]
    """``/rd``, which takes registrations."""

    rt = "core.rd"
    ct = ContentFormat.LINKFORMAT

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        if request.opt.content_format not in (None, ContentFormat.LINKFORMAT):
            raise BadRequest("links are application/link-format")
        try:
            links = parse_links(str(request.payload, "utf-8"))
            number = self._registry.register(_query(request), links, _origin(request))
        except (InputError, ProtocolError, UnicodeDecodeError) as error:
            raise BadRequest(str(error)) from error
        except LimitExceeded as error:
            raise ServiceUnavailable(str(error)) from error
        return aiocoap.Message(code=aiocoap.CREATED, location_path=("rd", str(number)))


class _Registrations(Resource, PathCapable):  # type: ignore[misc]
    """``/rd/NUMBER`` of each registration."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        try:
            known = self._registry.refresh(_number(request), _query(request))
        except InputError as error:
            raise BadRequest(str(error)) from error
        if not known:
            raise NotFound
        return aiocoap.Message(code=aiocoap.CHANGED)

    async def render_delete(self, request: aiocoap.Message) -> aiocoap.Message:
        if not self._registry.remove(_number(request)):
            raise NotFound
        return aiocoap.Message(code=aiocoap.DELETED)


def _number(request: aiocoap.Message) -> int:
    path = request.opt.uri_path
    if len(path) != 1 or not path[0].isascii() or not path[0].isdigit() or len(path[0]) > 18:
        raise NotFound
    return int(path[0])


def _origin(request: aiocoap.Message) -> str:
    """Where a registration comes from: its base URI unless it gives one (RFC 9176 5)."""
    return f"coap://{request.remote.hostinfo}"


class _Lookup(Resource):  # type: ignore[misc]
    ct = ContentFormat.LINKFORMAT

    def __init__(self, find: Callable[[Mapping[str, str]], str], kind: str) -> None:
        super().__init__()
        self.rt = kind
        self._find = find

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        try:
            found = self._find(_query(request))
        except InputError as error:
            raise BadRequest(str(error)) from error
        return aiocoap.Message(payload=found.encode(), content_format=ContentFormat.LINKFORMAT)
