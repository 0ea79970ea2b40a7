"""Serves enrolment and renewal over TLS, to anybody: bounded in number, size and time.

A connection takes one line and gets one.  When too many are open the oldest that has
not asked anything yet gives way, so that those who say nothing cannot keep others out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from collab.core.identity import Principal
from collab.errors import CollabError, InputError, ProtocolError, Refused, UsageError
from collab.security import files
from collab.security.authority import Authority
from collab.security.certificates import certificate_pem
from collab.security.enrolment import (
    MAX_LINE_BYTES,
    Answer,
    Ask,
    Join,
    Request,
    decode_request,
    encode,
    refusal,
)
from collab.security.identity import Clock, bare_context, utc_now
from collab.security.invites import Attempts, Enrolled, Invites, WrongSecret

log = logging.getLogger("collab.security.enrolment")

_CERTIFICATE_DAYS: Final = 30
_CERTIFICATE_REFRESH: Final = timedelta(days=7)
_SERVER: Final = "enrolment.pem"
_ACCEPT_PAUSE_S: Final = 0.2
_CLOSE_S: Final = 1.0


@dataclass(frozen=True)
class EnrolLimits:
    """Bounds on what strangers can take."""

    connections: int = 128
    handshake_s: float = 5.0
    total_s: float = 15.0
    """For a whole connection."""


class EnrolServer:
    """A server as an asynchronous context manager; it listens while the block runs."""

    def __init__(
        self,
        authority: Authority,
        host: str,
        port: int,
        *,
        limits: EnrolLimits = EnrolLimits(),
        clock: Clock = utc_now,
        enrolled: Enrolled = lambda _: None,
    ) -> None:
        self._authority = authority
        self._invites = Invites(authority, clock)
        self._where = host, port
        self._limits = limits
        self._clock = clock
        self._enrolled = enrolled
        self._attempts = Attempts()
        self._context: ssl.SSLContext | None = None
        self._context_from = clock()
        self._waiting: dict[asyncio.Task[None], None] = {}
        """Connections that have not asked anything yet, the oldest first."""
        self._open: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self.port = port
        """The port that was really bound."""

    async def __aenter__(self) -> EnrolServer:
        await self._fresh_context()
        listening = self._bind()
        self.port = listening.getsockname()[1]
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listening))
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._accepting is not None
        tasks = [self._accepting, *self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self) -> None:
        """Let answers that are under way reach their devices; takes a bounded time."""
        current = [task for task in self._open if task not in self._waiting]
        if current:
            await asyncio.wait(current, timeout=self._limits.total_s)

    def _bind(self) -> socket.socket:
        host, port = self._where
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(self._limits.connections)
            listening.setblocking(False)
        except OSError as error:
            listening.close()
            raise UsageError(f"--listen {host}:{port}: {error.strerror}; choose another") from error
        return listening

    # --- connections -------------------------------------------------------------

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    connection, address = await loop.sock_accept(listening)
                except OSError as error:  # such as no more file descriptors
                    log.warning("enrolment: cannot accept: %s", error.strerror)
                    await asyncio.sleep(_ACCEPT_PAUSE_S)
                    continue
                self._make_room()
                if len(self._open) >= 2 * self._limits.connections:
                    connection.close()
                    continue
                task = loop.create_task(self._serve(connection, str(address[0])))
                self._open.add(task)
                self._waiting[task] = None
                task.add_done_callback(self._ended)

    def _make_room(self) -> None:
        while len(self._waiting) >= self._limits.connections:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._waiting.pop(task, None)

    async def _serve(self, connection: socket.socket, host: str) -> None:
        try:
            await asyncio.wait_for(self._converse(connection, host), self._limits.total_s)
        except (TimeoutError, asyncio.TimeoutError):
            log.info("enrolment: %s was too slow", host)
        except (OSError, EOFError) as error:  # TLS errors are among them
            log.info("enrolment: connection from %s: %s", host, error)
        except Exception:
            log.exception("enrolment: connection from %s", host)

    async def _converse(self, connection: socket.socket, host: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            context = await self._fresh_context()
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=context, ssl_handshake_timeout=self._limits.handshake_s
            )
        except BaseException:
            connection.close()
            raise
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            try:
                answer = await self._answer(await _line(reader), writer, host)
            except CollabError as error:
                log.warning("enrolment refused for %s: %s", host, error)
                answer = refusal(error)
            writer.write(encode(answer))
            await writer.drain()
            writer.close()
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), _CLOSE_S)
        finally:
            transport.abort()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter, host: str) -> Answer:
        task = asyncio.current_task()
        assert task is not None
        request = decode_request(line)
        if isinstance(request, Ask):
            return Answer(authority=certificate_pem(self._authority.certificate).decode())
        self._waiting.pop(task, None)
        certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(True)
        if isinstance(request, Join):
            self._attempts.check(host, time.monotonic())
            try:
                principal, answer = await asyncio.to_thread(self._join, request)
            except WrongSecret:
                self._attempts.wrong(host, time.monotonic())
                raise
            log.info("enrolled %s from %s", principal, host)
            self._enrolled(principal)
            return answer
        return await asyncio.to_thread(self._renew, request, certificate)

    # --- off the loop ------------------------------------------------------------

    def _join(self, request: Join) -> tuple[Principal, Answer]:
        principal, certificate = self._invites.redeem(request.secret, request.request.encode())
        return principal, self._granted(certificate)

    def _renew(self, request: Request, certificate: bytes | None) -> Answer:
        assert not isinstance(request, (Ask, Join))
        if certificate is None:
            raise Refused("renew: show the certificate that is to be renewed")
        return self._granted(self._authority.renew(certificate, request.request.encode()))

    def _granted(self, certificate: bytes) -> Answer:
        return Answer(certificate=certificate.decode(), revoked=self._authority.crl().decode())

    async def _fresh_context(self) -> ssl.SSLContext:
        """This server's context; its certificate is replaced long before it expires."""
        now = self._clock()
        if self._context is None or now - self._context_from > _CERTIFICATE_REFRESH:
            self._context_from = now
            self._context = await asyncio.to_thread(self._make_context, now)
        return self._context

    def _make_context(self, now: datetime) -> ssl.SSLContext:
        certificate, key = self._authority.issue_enrolment(_CERTIFICATE_DAYS)
        path: Path = self._authority.directory / _SERVER
        files.write(path, key + certificate)
        context = bare_context(True, certificate_pem(self._authority.certificate))
        # Those who join have no certificate; those who renew show theirs.
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            context.load_cert_chain(path)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"{path}: cannot be used: {error}") from error
        return context


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as error:
        raise ProtocolError(f"the request is over {MAX_LINE_BYTES} bytes") from error
