"""Mutual TLS 1.3 inside a connection, where the transport itself proves nobody's identity.

A broker, a relay or whoever else stands between the two ends can drop and delay
frames; it cannot read, forge, replay or swap them: the TLS record numbers of RFC 8446
(5.3) make every such frame fail.  One frame within is one frame outside.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final

import numpy as np

from collab.codec.wire import Buffer
from collab.core.identity import Principal
from collab.errors import CollabError, LimitExceeded, LinkLost, PeerUnreachable, ProtocolError, Refused
from collab.transport.aio import timeout
from collab.transport.base import Connection, Security

_RECORD_BYTES: Final = 1 << 14
"""Most plaintext of a TLS record (RFC 8446 5.1)."""
_RECORD_OVERHEAD: Final = 32
"""Header, content type and tag of a record, rounded up (RFC 8446 5.2: 5 + 1 + 16)."""
_HANDSHAKE_FRAMES: Final = 16
_HANDSHAKE_BYTES: Final = 64 * 1024
"""Most that a peer may send before it has proven who it is."""
_NO_TLS: Final = bytes((21, 3, 3, 0, 2, 2, 70))
"""A fatal alert, protocol_version (RFC 8446 6.2)."""
_MARK: Final = b"\0"
"""Before each frame, because TLS carries no empty one."""
_ALERT: Final = 21
"""Content type of an alert (RFC 8446 5.1)."""


class _Secured(Connection):
    """A connection whose frames are encrypted end to end; made by `secure`."""

    def __init__(
        self, outer: Connection, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._outer = outer
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self.address = outer.address
        self.kind = outer.kind
        self.loopback = outer.loopback
        self.relayed = outer.relayed
        records, rest = divmod(outer.max_frame_bytes, _RECORD_BYTES + _RECORD_OVERHEAD)
        self.max_frame_bytes = records * _RECORD_BYTES + max(0, rest - _RECORD_OVERHEAD) - len(_MARK)

    async def send(self, parts: Sequence[Buffer]) -> None:
        if sum(map(len, parts)) > self.max_frame_bytes:
            raise LimitExceeded(f"frame of {sum(map(len, parts))} bytes is over {self.max_frame_bytes}")
        try:
            for part in _records(parts or (b"",)):
                self._tls.write(part)
        except ssl.SSLError as error:
            raise LinkLost(f"connection to {self.address}: {_reason(error)}") from error
        await self._outer.send([self._outgoing.read()])

    async def receive(self) -> Buffer:
        while True:
            data = await self._outer.receive()
            self._incoming.write(data)
            frame = self._read(len(data))
            if len(frame):
                return frame[len(_MARK) :]

    def _read(self, most: int) -> memoryview:
        """The plaintext of one frame; empty if it held none."""
        buffer = np.empty(most, np.uint8).data
        size = 0
        try:
            while self._incoming.pending or self._tls.pending():
                taken = self._tls.read(most - size, buffer[size:])
                size += int(taken)
                if not taken:
                    raise LinkLost(f"connection to {self.address}: the other end closed it")
        except ssl.SSLWantReadError:
            if self._incoming.pending:
                raise ProtocolError(f"{self.address}: a TLS record is cut off") from None
        except ssl.SSLError as error:
            raise _refusal(self.address, error) from error
        return buffer[:size]

    async def close(self) -> None:
        await self._outer.close()

    def abort(self) -> None:
        self._outer.abort()


def _records(parts: Sequence[Buffer]) -> list[Buffer]:
    """A frame in pieces that fill records, so that there are as few as of one piece.

    What is short before a long body is joined with the body's begin; the rest is not copied.
    """
    *front, body = parts
    head = b"".join((_MARK, *front))
    taken = -len(head) % _RECORD_BYTES
    view = memoryview(body)
    return [b"".join((head, view[:taken])), *([view[taken:]] if taken < len(view) else [])]


async def secure(
    connection: Connection, security: Security, *, server_side: bool, timeout_s: float
) -> Connection:
    """Run the handshake and return the secured connection, its ``principal`` checked.

    Raises `Refused` if either end does not accept the other, `ProtocolError` if the peer
    does not speak TLS, `PeerUnreachable` if it does not answer in time, or `LinkLost`.
    The connection is ended then.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = security.context(server_side=server_side)
    tls = context.wrap_bio(incoming, outgoing, server_side=server_side)
    made = _Secured(connection, tls, incoming, outgoing)
    try:
        async with timeout(timeout_s):
            await _handshake(connection, tls, incoming, outgoing)
            certificate = tls.getpeercert(binary_form=True)
            made.principal = _check(connection, security, certificate)
            made.certificate = certificate or b""
    except (TimeoutError, asyncio.TimeoutError) as error:
        connection.abort()
        raise PeerUnreachable(
            f"{connection.address}: connected, but no TLS handshake within {timeout_s:g} s; "
            "does the other end use certificates?"
        ) from error
    except CollabError:
        await connection.close()
        raise
    except BaseException:
        connection.abort()
        raise
    return made


def _check(connection: Connection, security: Security, certificate: bytes | None) -> Principal:
    if certificate is None:
        raise Refused(f"{connection.address}: shows no certificate")
    return security.check(certificate)


async def _handshake(
    connection: Connection, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
) -> None:
    taken = 0
    for _ in range(_HANDSHAKE_FRAMES):
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            # The alert tells the other end why; OpenSSL has none for what is no TLS at all.
            await connection.send([outgoing.read() or _NO_TLS])
            raise _refusal(connection.address, error) from error
        else:
            if outgoing.pending:
                await connection.send([outgoing.read()])
            return
        if outgoing.pending:
            await connection.send([outgoing.read()])
        data = await connection.receive()
        taken += len(data)
        if taken > _HANDSHAKE_BYTES:
            break
        incoming.write(data)
    raise ProtocolError(f"{connection.address}: the TLS handshake does not end")


def _refusal(address: str, error: ssl.SSLError) -> CollabError:
    """What a TLS failure means to people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"{address}: its certificate is refused: {error.verify_message}")
    reason = _reason(error)
    if "ALERT" in (error.reason or ""):
        return Refused(f"{address}: refuses this end's certificate: {reason}")
    if error.reason in (
        "WRONG_VERSION_NUMBER",
        "UNKNOWN_PROTOCOL",
        "RECORD_LAYER_FAILURE",
        "UNEXPECTED_MESSAGE",
    ):
        return ProtocolError(f"{address}: speaks no TLS; it runs without certificates, this end with them")
    return ProtocolError(f"{address}: TLS fails: {reason}")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


def demands_tls(frame: Buffer) -> bool:
    """Whether what should be a frame of a session is a TLS alert: the other end wants certificates."""
    return len(frame) >= 2 and frame[0] == _ALERT and frame[1] == 3
