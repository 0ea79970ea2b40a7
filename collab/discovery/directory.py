"""Discovery through a CoAP resource directory (RFC 9176): register, keep registered, look up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final
from urllib.parse import quote, urlsplit

import aiocoap
from aiocoap.error import Error as CoapError
from aiocoap.numbers.contentformat import ContentFormat

from collab.discovery.base import Discovery, Gone, Report, Sighting
from collab.discovery.records import RESOURCE_TYPE, from_links, parse_links, to_links
from collab.errors import CollabError, PeerUnreachable, ProtocolError, UsageError

log = logging.getLogger("collab.discovery")

LIFETIME_S: Final = 60
"""Of a registration (RFC 9176 5: "lt")."""
REFRESH_S: Final = LIFETIME_S / 3
LOOKUP_S: Final = (0.7, 5.0)
"""Pauses behind the first lookup and behind every further one."""
RETRY_S: Final = 2.0
_REQUEST_S: Final = 3.0
_GOODBYE_S: Final = 1.0
_MAX_PATH: Final = 100
_DEFAULTS: Final = {"core.rd": "/rd", "core.rd-lookup-res": "/rd-lookup/res"}
"""Where directories have what they do not tell (the examples of RFC 9176)."""
_SCHEMES: Final = ("coap", "coap+tcp")


class DirectoryDiscovery(Discovery):
    """Registers at the directory at ``coap://HOST[:PORT]``, and asks it who else did."""

    how = "directory"

    def __init__(self, directory: str) -> None:
        """Raises `UsageError` for an address that cannot be read."""
        try:
            parts = urlsplit(directory)
            _ = parts.port
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in _SCHEMES or not parts.hostname or parts.path.strip("/") or parts.query:
            raise UsageError(f"directory {directory[:80]!r}: write it as coap://HOST:PORT")
        self._base = f"{parts.scheme}://{parts.netloc}"
        self._me: Sighting | None = None
        self._report: Report | None = None
        self._gone: Gone | None = None
        self._context: aiocoap.Context | None = None
        self._paths: dict[str, str] = {}
        self._location = ""
        self._registered_s = 0.0
        self._found: set[str] = set()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._registering: asyncio.Future[None] | None = None

    async def start(self, me: Sighting | None, report: Report, gone: Gone) -> None:
        """Register and look up behind it; a directory that is away is tried again."""
        self._me, self._report, self._gone = me, report, gone
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def update(self, me: Sighting) -> None:
        """Register anew, which replaces the registration."""
        if self._me is not None:
            self._me = me
            self._registered_s = 0.0
            self._changed.set()

    async def stop(self) -> None:
        """Remove the registration."""
        self._report = self._gone = None
        self._changed.set()
        if self._registering is not None:
            # A registration that is under way would stay; its number is needed to remove it.
            await asyncio.wait((self._registering,), timeout=_GOODBYE_S)
            self._registering.cancel()
            await asyncio.wait((self._registering,))
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        context, self._context = self._context, None
        if context is None:
            return
        try:
            if self._location:
                message = aiocoap.Message(code=aiocoap.DELETE, uri=self._base + self._location)
                with contextlib.suppress(CoapError, OSError, asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(context.request(message).response, _GOODBYE_S)
        finally:
            await asyncio.shield(asyncio.ensure_future(context.shutdown()))

    # --- life ------------------------------------------------------------------------

    async def _run(self) -> None:
        looked = 0
        while self._report is not None:
            pause_s = RETRY_S
            try:
                self._registering = asyncio.ensure_future(self._register())
                await asyncio.shield(self._registering)
                await self._look_up()
                self.trouble = ""
                pause_s = LOOKUP_S[min(looked, 1)]
                looked += 1
            except CollabError as error:
                self._location, self._paths = "", {}
                if not self.trouble:
                    log.warning("%s", error)
                self.trouble = str(error)
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause_s)
            self._changed.clear()

    async def _register(self) -> None:
        me = self._me
        if me is None:
            return
        now = asyncio.get_running_loop().time()
        if self._location and self._registered_s:
            if now - self._registered_s < REFRESH_S:
                return
            reply = await self._request(aiocoap.POST, self._location, {})
            if reply.code.is_successful():
                self._registered_s = now
                return
        query = {"ep": me.name, "lt": str(LIFETIME_S), **({"d": me.cluster} if me.cluster else {})}
        path = await self._path("core.rd")
        reply = await self._request(aiocoap.POST, path, query, to_links(me).encode())
        location = "/" + "/".join(quote(part, safe="") for part in reply.opt.location_path)
        if not reply.code.is_successful() or len(location) > _MAX_PATH:
            raise ProtocolError(
                f"directory: {self._base}: does not take this node ({_said(reply)}); "
                "is there room, and is it a resource directory?"
            )
        self._location, self._registered_s = location, now

    async def _look_up(self) -> None:
        path = await self._path("core.rd-lookup-res")
        reply = await self._request(aiocoap.GET, path, {"rt": RESOURCE_TYPE})
        if not reply.code.is_successful():
            raise ProtocolError(f"directory: {self._base}: does not answer lookups ({_said(reply)})")
        links = parse_links(str(reply.payload, "utf-8", "replace"))
        found = {seen.source: seen for seen in from_links(links, self.how, LIFETIME_S, self._base)}
        if self._report is None or self._gone is None:
            return
        for source in self._found - found.keys():
            self._gone(self.how, source)
        self._found = set(found)
        for seen in found.values():
            self._report(seen)

    async def _path(self, kind: str) -> str:
        """Where the directory has a function, as its ``/.well-known/core`` says (RFC 9176 4.3)."""
        if not self._paths:
            self._paths = dict(_DEFAULTS)
            reply = await self._request(aiocoap.GET, "/.well-known/core", {"rt": "core.rd*"})
            if reply.code.is_successful():
                for target, said in parse_links(str(reply.payload, "utf-8", "replace")):
                    for each in said.get("rt", "").split():
                        if each in _DEFAULTS and target.startswith("/") and len(target) <= _MAX_PATH:
                            self._paths[each] = target
        return self._paths[kind]

    async def _request(
        self, code: aiocoap.Code, path: str, query: dict[str, str], payload: bytes = b""
    ) -> aiocoap.Message:
        """One request.  Raises `PeerUnreachable`."""
        try:
            if self._context is None:
                self._context = await aiocoap.Context.create_client_context(transports=["udp6", "tcpclient"])
            message = aiocoap.Message(code=code, uri=self._base + path, payload=payload)
            message.opt.uri_query = tuple(f"{key}={value}" for key, value in query.items())
            if payload:
                message.opt.content_format = ContentFormat.LINKFORMAT
            return await asyncio.wait_for(self._context.request(message).response, _REQUEST_S)
        except (CoapError, OSError, ValueError, asyncio.TimeoutError, TimeoutError) as error:
            why = str(error) or f"no answer within {_REQUEST_S:g} s"
            raise PeerUnreachable(
                f"directory: {self._base}: cannot be asked ({why}); is it running, and is UDP let through?"
            ) from error


def _said(reply: aiocoap.Message) -> str:
    return str(reply.code).lower()
