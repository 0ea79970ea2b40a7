"""Answers posted to an HTTP server, one JSON object each."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from collab.errors import InputError, LinkLost, PeerUnreachable, Refused
from collab.streams.settings import MAX_HEADERS, WebhookSettings
from collab.streams.sinks.base import Sink
from collab.streams.sources.video import shown_url

MAX_REPLY: Final = 1 << 16
"""Bytes of a reply that are read so that its connection can be used again."""
_AGAIN: Final = frozenset({408, 425, 429})
"""Codes that say to try later (RFC 9110 15.5.9, RFC 8470 5.2, RFC 6585 4); 5xx are others."""
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
"""A field's name (RFC 9110 5.6.2)."""
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,4094}[\x21-\x7e])?")
_OWN: Final = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "expect"}
)


class WebhookSink(Sink):
    """Posts to one address, and nowhere else: a redirect is a failure."""

    def __init__(self, settings: WebhookSettings) -> None:
        """Raises `InputError` for an address or a header that cannot be sent."""
        self.waiting, self.tries = settings.waiting, settings.tries
        self._timeout_s = settings.timeout_s
        self._shown = shown_url(settings.url)
        form = f"{self._shown!r}: write it as https://HOST[:PORT]/PATH"
        try:
            parts = urlsplit(settings.url)
            port = parts.port
        except ValueError:
            raise InputError(form) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or port == 0:
            raise InputError(form)
        if parts.username is not None or not re.fullmatch(r"[\x21-\x7e]+", settings.url):
            raise InputError(f"{form}, in printable ASCII, a login in an Authorization header")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {**_checked(settings.headers), "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None
        self._stopped = threading.Event()

    def open(self) -> None:
        """Connects when it first posts."""

    def write(self, answers: Sequence[bytes]) -> None:
        """Post; raises `PeerError` for what may be tried again, `Refused` for what may not."""
        for answer in answers:
            self._post(answer)

    def _post(self, answer: bytes) -> None:
        if self._stopped.is_set():
            raise Refused(f"{self._shown}: the stream ends")
        fresh = self._connection is None
        connection = self._connection or self._connected()
        self._connection = connection
        # One bound for the whole exchange: a server that answers byte by byte must not hold us.
        guard = threading.Timer(self._timeout_s, _cut, (connection,))
        guard.daemon = True
        guard.start()
        try:
            connection.request("POST", self._target, answer, self._headers)
            reply = connection.getresponse()
            reply.read(MAX_REPLY)
            reusable = reply.isclosed() and not reply.will_close
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not fresh and isinstance(error, (ConnectionError, http.client.RemoteDisconnected)):
                raise LinkLost(f"{self._shown}: the connection was closed") from error
            raise PeerUnreachable(
                f"{self._shown}: no answer ({str(error) or type(error).__name__})"
            ) from error
        finally:
            guard.cancel()
            guard.join()
        if not reusable:
            self.close()
        self._judge(reply.status)

    def _judge(self, status: int) -> None:
        if 200 <= status < 300:
            return
        if status in _AGAIN or status >= 500:
            raise PeerUnreachable(f"{self._shown}: answers {status}")
        if 300 <= status < 400:
            raise Refused(
                f"{self._shown}: answers {status}; redirects are not followed, give the final address"
            )
        raise Refused(f"{self._shown}: answers {status}; correct the address or its headers")

    def _connected(self) -> http.client.HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)

    def stop(self) -> None:
        """Cut what is under way."""
        self._stopped.set()
        if self._connection is not None:
            _cut(self._connection)

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _checked(headers: dict[str, str]) -> dict[str, str]:
    if len(headers) > MAX_HEADERS:
        raise InputError(f"headers: {len(headers)} of them; at most {MAX_HEADERS}")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise InputError(f"headers: {name[:40]!r} is no name of a header")
        if name.lower() in _OWN:
            raise InputError(f"headers: {name} is set by collab; leave it out")
        if not _VALUE.fullmatch(value):
            raise InputError(f"headers.{name}: give printable ASCII, at most 4096 characters")
    return headers
