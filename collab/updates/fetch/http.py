"""Repositories on a web server: plain GET requests, with ranges to go on where a download stopped."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from collab.errors import InputError, PeerError, PeerUnreachable
from collab.updates.fetch.base import CHUNK_BYTES, MAX_PATH, NotOffered, Opened, Source
from collab.updates.fetch.pace import Limits

MAX_REDIRECTS: Final = 3
_KEEP: Final = "/%:@!$&'()*+,;=~"
"""Characters of a path that stay as they are (RFC 3986, section 3.3); ``%`` is an escape already."""


class HttpSource(Source):
    """Files below an ``http://`` or ``https://`` address.

    Signatures protect what comes; ``https`` hides what is asked for.
    """

    def __init__(self, base: str, limits: Limits = Limits()) -> None:
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise InputError(f"{base[:80]!r}: give an address such as https://HOST/releases")
        self._base = base.rstrip("/") + "/"
        self._limits = limits

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Opened]:
        """Read a file; raises as the interface says."""
        if len(path) > MAX_PATH:
            raise InputError(f"{path[:80]!r} is no path within a repository")
        return self._open(self._base + quote(path, safe=_KEEP), offset)

    @contextmanager
    def _open(self, url: str, offset: int) -> Iterator[Opened]:
        with _Exchange(url, offset, self._limits) as (response, final):
            start = _start(response, offset, final)
            yield Opened(start, _chunks(response, final))


@dataclass
class _Exchange:
    """One request, and those it is redirected to; leaving it closes the connection."""

    url: str
    offset: int
    limits: Limits
    _connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> tuple[http.client.HTTPResponse, str]:
        url = self.url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                response = self._ask(url)
                if response.status not in (301, 302, 303, 307, 308):
                    return response, url
                target = urljoin(url, response.headers.get("Location", ""))
                if urlsplit(target).scheme not in ("https", urlsplit(url).scheme):
                    raise PeerError(f"{url}: redirects away from https")
                self._close()
                url = target
            raise PeerError(f"{self.url}: redirects more than {MAX_REDIRECTS} times")
        except BaseException:
            self._close()
            raise

    def __exit__(self, *error: object) -> None:
        self._close()

    def _ask(self, url: str) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        timeout = self.limits.answer_s
        try:
            if parts.scheme == "https":
                self._connection = http.client.HTTPSConnection(
                    parts.netloc, timeout=timeout, context=ssl.create_default_context()
                )
            else:
                self._connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
            headers = {"Accept-Encoding": "identity", "User-Agent": "collab"}
            if self.offset:
                headers["Range"] = f"bytes={self.offset}-"
            self._connection.connect()
            with _deadline(self._connection.sock, timeout):
                self._connection.request(
                    "GET", parts.path + (f"?{parts.query}" * bool(parts.query)), None, headers
                )
                return self._connection.getresponse()
        except TimeoutError as error:
            raise PeerError(f"{url}: no answer within {timeout:g} s; try another source") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PeerUnreachable(f"{url}: {_reason(error)}; is the server up?") from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def _deadline(sock: socket.socket, seconds: float) -> Iterator[None]:
    """Break a connection whose headers drip: a socket's own time-out starts anew with each byte."""
    late = threading.Event()

    def shut() -> None:
        late.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if late.is_set():
            # To the library it looks like headers that end.
            raise TimeoutError


def _start(response: http.client.HTTPResponse, offset: int, url: str) -> int:
    if response.status in (403, 404, 410):
        raise NotOffered(f"{url}: there is no such file ({response.status})")
    if response.status == 200:
        return 0
    if response.status == 206 and offset:
        unit, _, place = response.headers.get("Content-Range", "").partition(" ")
        first = place.partition("-")[0]
        if unit == "bytes" and first.isdecimal() and int(first) == offset:
            return offset
        raise PeerError(f"{url}: answers with another range than was asked for")
    if response.status == 416:
        raise PeerError(f"{url}: is shorter than what was fetched of it")
    raise PeerError(f"{url}: answers with status {response.status}; try again later")


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    try:
        # Whatever has come, and not a full buffer: a source that drips must be noticed.
        while data := response.read1(CHUNK_BYTES):
            yield data
    except TimeoutError as error:
        raise PeerError(f"{url}: stopped sending; it goes on from here next time") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise PeerError(f"{url}: {_reason(error)}; it goes on from here next time") from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
