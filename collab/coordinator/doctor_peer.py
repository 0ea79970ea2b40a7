"""Probe of one peer: a real link first; where none comes up, step by step what is in its way."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from collab.client.control import Control
from collab.codec.pb import link_pb2
from collab.codec.wire import Buffer
from collab.coordinator.cluster import Cluster
from collab.coordinator.doctor import PeerSeen, Port, Shown
from collab.coordinator.doctor_net import other_family, try_port
from collab.discovery.base import printable
from collab.errors import CollabError, ProtocolError, Refused, UsageError
from collab.link.hello import MAX_HELLO_BYTES, Identity, encode_hello, refusal_text
from collab.link.mux import MuxLimits, Type, head, parse
from collab.link.relay import split_relay
from collab.link.secure import demands_tls, secure
from collab.transport.base import Transport, split_address, split_host_port

if TYPE_CHECKING:
    from collab.security.identity import Credentials

TIMEOUT_S: Final = 3.0
"""Of one step."""
_TCP: Final = {"grpc": 0, "coap+tcp": 5683, "coaps+tcp": 5684, "mqtt": 1883, "mqtts": 8883}
"""Schemes whose peers, or whose brokers, are reached by TCP, and the ports meant where none is written."""
_MAX_TEXT: Final = 64


@dataclass(frozen=True)
class Examiner:
    """What the probes need."""

    cluster: Cluster
    transports: Mapping[str, Transport]
    security: Credentials | None = None
    timeout_s: float = TIMEOUT_S

    async def examine(self, address: str, found: tuple[str, ...] = ()) -> PeerSeen:
        """Look at one address.  Raises `UsageError` for what is none."""
        split_address(address)
        identified = self.security is not None
        seen = PeerSeen(address, detail="", identified=identified, found=found)
        try:
            return await self._meet(seen)
        except UsageError:
            raise
        except CollabError as error:
            seen = replace(seen, detail=_line(error))
        scheme, place = split_address(address)
        if split_relay(address) is None and scheme in _TCP:
            seen = await self._look_at_port(seen, scheme, place)
            if seen.port is not Port.OPEN:
                return seen
        if seen.shown in (Shown.UNTESTED, Shown.NONE, Shown.GOOD):
            seen = await self._ask_hello(seen)
        return seen

    async def _meet(self, seen: PeerSeen) -> PeerSeen:
        """A link, and what the peer says of itself."""
        link = await self.cluster.links.connect(seen.address)
        before, start = time.time(), time.monotonic()
        reply = await asyncio.wait_for(Control(link).describe(), 2 * self.timeout_s)
        took_s = time.monotonic() - start
        ahead = reply.wall_clock_ms - (before + took_s / 2) * 1000 if reply.wall_clock_ms else None
        return replace(
            seen,
            name=link.peer.name,
            reached=True,
            port=Port.OPEN,
            answered=True,
            software=printable(reply.software, _MAX_TEXT),
            endpoints=tuple(link.peer.endpoints) or tuple(reply.endpoints),
            clock_ahead_ms=ahead,
            rtt_ms=link.rtt_us / 1000 or took_s * 1000,
        )

    # --- what is in the way ------------------------------------------------------------

    async def _look_at_port(self, seen: PeerSeen, scheme: str, place: str) -> PeerSeen:
        host, port = _host_port(scheme, place)
        tried = await try_port(host, port, self.timeout_s)
        seen = replace(seen, port=tried.port, detail=tried.detail or seen.detail)
        if tried.port in (Port.REFUSED, Port.NO_ROUTE, Port.SILENT):
            other = await other_family(host, port, tried.family, self.timeout_s)
            return replace(seen, other_family=other)
        if tried.port is Port.OPEN and scheme in ("grpc", "coaps+tcp"):
            return await self._look_at_certificate(seen, host, port, scheme)
        return seen

    async def _look_at_certificate(self, seen: PeerSeen, host: str, port: int, scheme: str) -> PeerSeen:
        """What the peer shows to anybody; it is judged here, not by the handshake, which says less."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"] if scheme == "grpc" else ["coap"])
        try:
            der = await asyncio.wait_for(_shown(host, port, context), self.timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            return replace(seen, detail="connected, but no answer")
        except (ssl.SSLError, OSError):
            return replace(seen, shown=Shown.NONE, answered=True)
        shown, text = judge(der, self.security, datetime.now(timezone.utc))
        return replace(seen, shown=shown, certificate=text, answered=True)

    async def _ask_hello(self, seen: PeerSeen) -> PeerSeen:
        """The peer's hello, read without judging it."""
        me = replace(self.cluster.links.identity)
        try:
            frame = await asyncio.wait_for(self._hello(seen.address, me), 3 * self.timeout_s)
            return read_hello(seen, frame)
        except (asyncio.TimeoutError, TimeoutError):
            return replace(seen, detail=seen.detail or "no hello in time")
        except Refused as error:
            return replace(seen, answered=True, refusal=_line(error))
        except CollabError as error:
            return replace(seen, detail=_line(error))

    async def _hello(self, address: str, me: Identity) -> Buffer:
        scheme, _ = split_address(address)
        transport = self.transports.get(scheme)
        if transport is None:
            raise ProtocolError(f"scheme {scheme!r} is not known here")
        connection = await transport.dial(address, self.timeout_s)
        try:
            if self.security is not None and connection.principal is None:
                connection = await secure(
                    connection, self.security, server_side=False, timeout_s=self.timeout_s
                )
            await connection.send([head(Type.HELLO), encode_hello(me, MuxLimits())])
            return await connection.receive()
        finally:
            connection.abort()
            await connection.close()


def read_hello(seen: PeerSeen, frame: Buffer) -> PeerSeen:
    """What a first frame says."""
    if demands_tls(frame):
        return replace(seen, answered=True, shown=Shown.NO_JUDGE)
    try:
        type_, _, _, _, _, body = parse(frame)
        if type_ is Type.BYE:
            return replace(seen, answered=True, refusal=refusal_text(body))
        if type_ is not Type.HELLO or len(body) > MAX_HELLO_BYTES:
            raise ProtocolError("the first frame is not a hello")
        hello = link_pb2.Hello.FromString(bytes(body))
    except (ProtocolError, DecodeError, UnicodeDecodeError) as error:
        return replace(seen, answered=True, detail=_line(error))
    return replace(
        seen,
        answered=True,
        name=printable(hello.name, _MAX_TEXT),
        versions=(hello.version_min, hello.version_max),
        software=printable(hello.software, _MAX_TEXT),
    )


def judge(der: bytes | None, security: Credentials | None, now: datetime) -> tuple[Shown, str]:
    """What a certificate (DER) is worth to an identity, and why."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    from collab.security.certificates import MALFORMED, read_leaf

    if security is None or der is None:
        return Shown.NO_JUDGE, ""
    try:
        certificate = x509.load_der_x509_certificate(der)
        issuer = printable(certificate.issuer.rfc4514_string(), _MAX_TEXT)
        certificate.verify_directly_issued_by(security.authority)
    except (*MALFORMED, InvalidSignature):
        return Shown.FOREIGN, "this cluster's authority has not signed it"
    try:
        leaf = read_leaf(der, security.authority)
    except Refused as error:
        return Shown.UNFIT, f"{_line(error)}; issued by {issuer}"
    if leaf.principal.cluster != security.principal.cluster:
        return Shown.FOREIGN, f"{leaf.principal} is of another cluster"
    if now < leaf.not_before:
        return Shown.EARLY, f"{leaf.principal}'s begins {leaf.not_before:%Y-%m-%d %H:%MZ}"
    if now > leaf.not_after:
        return Shown.EXPIRED, f"{leaf.principal}'s ended {leaf.not_after:%Y-%m-%d %H:%MZ}"
    if security.revocations is not None and leaf.serial in security.revocations.serials:
        return Shown.REVOKED, str(leaf.principal)
    return Shown.GOOD, str(leaf.principal)


async def _shown(host: str, port: int, context: ssl.SSLContext) -> bytes | None:
    _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="")
    try:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True)
    finally:
        writer.transport.abort()


def _host_port(scheme: str, place: str) -> tuple[str, int]:
    authority = place.partition("?")[0].partition("/")[0].rpartition("@")[2]
    bare = authority.startswith("[") and authority.endswith("]")
    if _TCP[scheme] and (":" not in authority or bare):
        authority = f"{authority}:{_TCP[scheme]}"
    return split_host_port(authority)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
