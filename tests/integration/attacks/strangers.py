"""Those who attack: certificates that do not hold, and ends of links that keep no rules."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from collab.assembly import transports
from collab.codec.envelope import encode_envelope
from collab.codec.tensors import EncodedTensor
from collab.core.identity import Pem, Principal
from collab.core.ids import NodeName
from collab.core.token import Token
from collab.link.hello import Identity
from collab.link.link import Link, now_us
from collab.link.links import DialConfig, Links
from collab.security.authority import Authority, enrol_here
from collab.security.certificates import certificate_pem, key_pem, new_key, read_authority, read_leaf
from collab.transport.base import Security
from tests.identities import Identities
from tests.unit.link.ends import Recorder

DIAL = DialConfig(timeout_s=4.0)
Held = tuple[bytes, bytes]
"""A certificate and its key, PEM each."""


class Stolen:
    """A `Security` that shows whatever it was given and does not look at itself."""

    def __init__(self, authority: bytes, held: Held | None, name: str = "z", role: str = "node") -> None:
        self._authority = authority
        self._root = read_authority(authority, "authority")
        self._held = held
        self._contexts = {
            (side, alpn): self._context(side, alpn) for side in (True, False) for alpn in ("", "h2", "coap")
        }
        self.principal = Principal(NodeName(name), role, "home")

    def context(self, *, server_side: bool, alpn: str = "", hostname: bool = False) -> ssl.SSLContext:
        return self._contexts[server_side, alpn]

    def _context(self, server_side: bool, alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols([alpn])
        if self._held is not None:
            with tempfile.NamedTemporaryFile() as file:
                file.write(b"".join(self._held))
                file.flush()
                context.load_cert_chain(file.name)
        return context

    def check(self, certificate: bytes) -> Principal:
        """Believes the other end, whom the attacker has chosen."""
        return read_leaf(certificate, self._root).principal

    def pem(self) -> Pem:
        certificate, key = self._held or (None, None)
        return Pem(key, certificate, self._authority)


def held(directory: Path) -> Held:
    """The certificate and key of an identity's directory, stolen."""
    return (directory / "certificate.pem").read_bytes(), (directory / "key.pem").read_bytes()


def expired(identities: Identities, name: str) -> Held:
    """A certificate of the cluster that was good for 90 days, long ago."""
    then = datetime.now(timezone.utc) - timedelta(days=200)
    authority = Authority.open(identities.authority.directory, clock=lambda: then)
    directory = identities.folder / f"{name}-expired"
    enrol_here(authority, directory, name, "node")
    return held(directory)


def self_signed(name: str) -> Held:
    """A certificate for an identity of the cluster that nobody but its owner has signed."""
    key, now = new_key(), datetime.now(timezone.utc)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{name}.node.home")]), critical=False)
    )
    return certificate_pem(builder.sign(key, hashes.SHA256())), key_pem(key, None)


class Attacker:
    """An end of links that says and sends what its owner wants."""

    def __init__(self, links: Links, handler: Recorder) -> None:
        self.links = links
        self.handler = handler

    async def dial(self, address: str) -> Link:
        return await self.links.connect(address)

    def send(self, link: Link, token: Token, **changes: Any) -> None:
        """Send a token, with some of its fields changed."""
        changed = {name: getattr(token, name) for name in token.__struct_fields__} | changes
        link.send_tensors(encode_envelope(Token(**changed), now_us()))


@asynccontextmanager
async def attacker(
    security: Security | None, name: str, role: str = "node", known_as: str = ""
) -> AsyncIterator[Attacker]:
    """An attacker who says to be somebody; at brokers under the name ``known_as``."""
    recorder = Recorder()
    identity = replace(Identity(NodeName(name), role), endpoints=())
    links = Links(
        identity,
        transports(name=NodeName(known_as or name.partition("~")[0]), security=security),
        recorder,
        dial=DIAL,
        security=security,
    )
    async with links:
        yield Attacker(links, recorder)


def payload(tensors: Sequence[tuple[Any, str, bytes]]) -> tuple[EncodedTensor, ...]:
    """Encoded tensors of specs, codecs and bytes."""
    return tuple(EncodedTensor(spec, codec, memoryview(data)) for spec, codec, data in tensors)
