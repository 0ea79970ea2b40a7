"""A small HTTP server for scrapes: one page, bounded in every way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final

from collab.errors import UsageError
from collab.telemetry.catalogue import Value
from collab.telemetry.exposition import Page, render, require
from collab.telemetry.process import process_values

MAX_HEAD_BYTES: Final = 8 * 1024
"""Request line and headers of a scrape."""
MAX_CONNECTIONS: Final = 8
"""Scrapes at a time; further ones are told to come again."""
SCRAPE_S: Final = 10.0
"""From the connection to the end of the reply."""
PATH: Final = "/metrics"

log = logging.getLogger("collab.metrics")

_REASONS: Final = {
    **{200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout"},
    **{431: "Request Header Fields Too Large", 503: "Service Unavailable"},
}


class MetricsServer:
    """Serves what ``values`` gives.  Use as an asynchronous context manager.

    ``values`` is called in the event loop, so what it reads needs no locks; the text is written in
    a thread.  Raises `ConfigError` without the extra ``metrics``, `UsageError` for an address that
    cannot be listened at.
    """

    def __init__(self, values: Callable[[], Sequence[Value]], host: str, port: int) -> None:
        require()
        self._values = values
        self._host, self._port = host, port
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""
        """Where it is scraped, once entered."""

    async def __aenter__(self) -> MetricsServer:
        try:
            self._server = await asyncio.start_server(
                self._accepted, self._host, self._port, limit=MAX_HEAD_BYTES
            )
        except OSError as error:
            place = f"{self._host}:{self._port}"
            why = error.strerror or str(error)
            raise UsageError(f"--metrics {place}: cannot listen there: {why}; give another port") from error
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._open) > MAX_CONNECTIONS:
                writer.write(_reply(503, "GET", b"too many scrapes at a time\n"))
            else:
                await asyncio.wait_for(self._exchange(reader, writer), SCRAPE_S)
        except (OSError, asyncio.TimeoutError, TimeoutError):
            writer.transport.abort()
        except Exception:
            log.exception("a scrape failed")
            writer.transport.abort()
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            writer.write(_reply(431, "GET", b"the headers are too long\n"))
            await writer.drain()
            return
        except asyncio.IncompleteReadError:
            return
        writer.write(await self._answer(head))
        await writer.drain()

    async def _answer(self, head: bytes) -> bytes:
        line, *headers = head.decode("latin-1").split("\r\n")
        words = line.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _reply(400, "GET", b"this is no HTTP/1 request\n")
        method, path = words[0], words[1].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _reply(405, "GET", b"only GET and HEAD\n", ("Allow: GET, HEAD",))
        if path != PATH:
            return _reply(404, method, f"metrics are at {PATH}\n".encode())
        page = await asyncio.to_thread(_page, self._values(), _accept(headers))
        return _reply(200, method, page.body, (), page.content_type)


def _page(values: Sequence[Value], accept: str) -> Page:
    return render([*values, *process_values()], accept)


def _accept(headers: Sequence[str]) -> str:
    for header in headers:
        name, _, value = header.partition(":")
        if name.strip().lower() == "accept":
            return value.strip()
    return ""


def _reply(
    status: int,
    method: str,
    body: bytes,
    headers: Sequence[str] = (),
    content_type: str = "text/plain; charset=utf-8",
) -> bytes:
    lines = (
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "X-Content-Type-Options: nosniff",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (b"" if method == "HEAD" else body)
