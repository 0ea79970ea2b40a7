"""One page's stream of changes as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from collab.dashboard.source import IDLE_S, LEAST_S, Source
from collab.transport.aio import timeout

SEND_S: Final = 20.0
"""A page that takes nothing for so long is let go; it comes back by itself, for everything anew."""


class EventStream(Response):
    """At most four messages a second, each with all that changed since the one before.

    While a page is slow, its next message waits for the one before and then has more in it:
    nothing is ever queued for it.  ``server`` tells one run of this program from the next in ids
    of messages, of which a page that comes back has ``told`` the last.
    """

    media_type = "text/event-stream"

    def __init__(self, source: Source, server: str, told: str, opened: Callable[[int], None]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._server = server
        self._known = _version(server, told)
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell until the page goes, or takes too long."""
        self._opened(1)
        loop = asyncio.get_running_loop()
        telling = loop.create_task(self._tell(send))
        gone = loop.create_task(_disconnected(receive))
        try:
            await asyncio.wait({telling, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._opened(-1)
            for task in (telling, gone):
                task.cancel()
            await asyncio.gather(telling, gone, return_exceptions=True)

    async def _tell(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        board = self._source.board
        while True:
            news = board.versions.since(self._known)
            await _send(send, _event(self._server, news))
            self._known = news["version"]
            await asyncio.sleep(LEAST_S)
            try:
                async with timeout(IDLE_S):
                    more = await self._source.changed(self._known)
                if not more:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
            except (TimeoutError, asyncio.TimeoutError):
                await _send(send, b": alive\n\n")


async def _send(send: Send, data: bytes) -> None:
    async with timeout(SEND_S):
        await send({"type": "http.response.body", "body": data, "more_body": True})


def _version(server: str, told: str) -> int:
    """What a page has, by the id of its last message; 0 where that was another server's."""
    whose, _, version = told.rpartition("-")
    return int(version) if whose == server and version.isascii() and version.isdigit() else 0


def _event(server: str, news: dict[str, Any]) -> bytes:
    body = json.dumps(news, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"id: {server}-{news['version']}\ndata: {body}\n\n".encode()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
