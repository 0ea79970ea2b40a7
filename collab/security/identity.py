"""A device's identity: its key and certificate, and its judgement of others'.

It implements `collab.transport.base.Security`.  A directory holds ``key.pem``,
``certificate.pem``, ``authority.pem`` and, once the authority has taken something
back, ``revoked.pem``.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from collab.core.identity import Pem, Principal
from collab.errors import ConfigError, Refused
from collab.security import files
from collab.security.certificates import (
    MALFORMED,
    Leaf,
    Revocations,
    certificate_der,
    certificate_pem,
    check_period,
    read_authority,
    read_leaf,
    read_revocations,
)

KEY: Final = "key.pem"
CERTIFICATE: Final = "certificate.pem"
AUTHORITY: Final = "authority.pem"
REVOKED: Final = "revoked.pem"
_MAX_SEEN: Final = 1024
"""Certificates whose signatures are remembered as checked."""
_JOIN: Final = "enrol this device: collab cluster join TOKEN"

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """What this device's clock says."""
    return datetime.now(timezone.utc)


class _Loaded(NamedTuple):
    pem: Pem
    authority: x509.Certificate
    leaf: Leaf
    contexts: dict[tuple[bool, str, bool], ssl.SSLContext]
    """By side, application protocol, and whether host names are checked."""


class Credentials:
    """An identity in use.  `load` and `reload` block on the disk, as does `store_revocations`."""

    def __init__(self, directory: Path, clock: Clock = utc_now) -> None:
        """Load a directory; see `load`."""
        self.directory = directory
        self._clock = clock
        self._writing = threading.Lock()
        self._seen: dict[bytes, Leaf] = {}
        self._loaded = _load(directory)
        self._revocations = _load_revocations(directory, self._loaded.authority)
        self.on_revoked: list[Callable[[], None]] = []
        """Called, in the caller's thread, after `reload_revocations` has taken a newer list."""
        self.check(certificate_der(x509.load_pem_x509_certificate(self._loaded.pem.certificate)))

    @classmethod
    def load(cls, directory: Path, clock: Clock = utc_now) -> Credentials:
        """The identity in a directory.

        Raises `Refused` for a key that others can read or a certificate that does not hold
        (any more), `ConfigError` for a directory that has no identity.
        """
        return cls(directory, clock)

    @property
    def principal(self) -> Principal:
        """Who this end is."""
        return self._loaded.leaf.principal

    @property
    def leaf(self) -> Leaf:
        """What this end's certificate says."""
        return self._loaded.leaf

    @property
    def authority(self) -> x509.Certificate:
        """The cluster's authority."""
        return self._loaded.authority

    @property
    def revocations(self) -> Revocations | None:
        """The latest list of what was taken back."""
        return self._revocations

    def context(self, *, server_side: bool, alpn: str = "", hostname: bool = False) -> ssl.SSLContext:
        """Mutual TLS 1.3 with the cluster's authority as the only root; `check` the peer afterwards."""
        loaded, wanted = self._loaded, (server_side, alpn, hostname)
        context = loaded.contexts.get(wanted)
        if context is None:
            context = _context(self.directory, loaded.pem, *wanted)
            loaded.contexts[wanted] = context
        return context

    def pem(self) -> Pem:
        """Key and certificates for libraries that make contexts of their own."""
        return self._loaded.pem

    def key(self) -> ec.EllipticCurvePrivateKey:
        """This end's key."""
        return _key(self._loaded.pem.key, self.directory)

    def check(self, certificate: bytes) -> Principal:
        """Who a certificate (DER) names.

        Raises `Refused` if the authority has not signed it or has taken it back, if it is
        not valid now, or if it proves no identity of this cluster.
        """
        digest = hashlib.sha256(certificate).digest()
        leaf = self._seen.get(digest)
        if leaf is None:
            leaf = read_leaf(certificate, self._loaded.authority)
            if len(self._seen) >= _MAX_SEEN:
                del self._seen[next(iter(self._seen))]
            self._seen[digest] = leaf
        if leaf.principal.cluster != self.principal.cluster:
            raise Refused(f"{leaf.principal} is of another cluster than {self.principal.cluster!r}")
        check_period(leaf, self._clock())
        if self._revocations is not None and leaf.serial in self._revocations.serials:
            raise Refused(f"the certificate of {leaf.principal} was revoked")
        return leaf.principal

    def revoked(self, principal: Principal) -> bool:
        """Whether every certificate that a peer has shown here was taken back."""
        if self._revocations is None:
            return False
        shown = [leaf.serial for leaf in self._seen.values() if leaf.principal == principal]
        return bool(shown) and self._revocations.serials.issuperset(shown)

    def reload_revocations(self, pem: bytes) -> int:
        """Go by a newer list from now on; its number, or that of the list held if it is no newer.

        Raises `Refused` if the authority has not signed it.
        """
        given = read_revocations(pem, self._loaded.authority)
        held = self._revocations
        if held is not None and given.number <= held.number:
            return held.number
        self._revocations = given
        for listener in tuple(self.on_revoked):
            listener()
        return given.number

    def store_revocations(self) -> None:
        """Write the list gone by to the directory."""
        with self._writing:
            if self._revocations is not None:
                files.write(self.directory / REVOKED, self._revocations.pem, files.PUBLIC)

    def install(self, certificate: bytes) -> None:
        """Write a renewed certificate (PEM) for this identity's key and use it from now on.

        Raises `Refused`, and keeps the old one, if it is not this identity's.
        """
        loaded = self._loaded
        leaf = leaf_of(certificate, self.key(), loaded.authority, "renewal")
        if leaf.principal != self.principal:
            raise Refused(f"the new certificate names {leaf.principal}, not {self.principal}")
        check_period(leaf, self._clock())
        with self._writing:
            files.write(self.directory / CERTIFICATE, certificate, files.PUBLIC)
        self.reload()

    def reload(self) -> None:
        """Read the directory again, after a renewal; contexts made before keep the old certificate.

        Raises as `load` does, and then changes nothing.
        """
        loaded = _load(self.directory)
        if loaded.leaf.principal != self.principal:
            raise Refused(f"identity {self.directory}: is {loaded.leaf.principal} now; start again with it")
        if loaded.authority != self._loaded.authority:
            raise Refused(f"identity {self.directory}: has another authority now; start again with it")
        self._loaded = loaded


def identity_files(
    key: bytes, certificate: bytes, authority: bytes, revoked: bytes, more: dict[str, bytes]
) -> dict[str, tuple[bytes, int]]:
    """Content and modes of an identity directory."""
    made = {
        KEY: (key, files.PRIVATE),
        CERTIFICATE: (certificate, files.PUBLIC),
        AUTHORITY: (authority, files.PUBLIC),
        REVOKED: (revoked, files.PUBLIC),
    }
    return made | {name: (data, files.PUBLIC) for name, data in more.items()}


def _load(directory: Path) -> _Loaded:
    authority_pem = files.read(directory / AUTHORITY, _JOIN)
    key = files.read_private(directory / KEY, _JOIN)
    authority = read_authority(authority_pem, str(directory / AUTHORITY))
    # Of the file, only the certificate that was checked is trusted.
    pem = Pem(key, files.read(directory / CERTIFICATE, _JOIN), certificate_pem(authority))
    leaf = leaf_of(pem.certificate, _key(key, directory), authority, f"identity {directory}")
    plain = {(side, "", False): _context(directory, pem, side) for side in (True, False)}
    return _Loaded(pem, authority, leaf, plain)


def leaf_of(
    certificate: bytes, key: ec.EllipticCurvePrivateKey, authority: x509.Certificate, what: str
) -> Leaf:
    """What a certificate (PEM) says, once it fits its key and authority.  Raises `Refused`."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate)
    except MALFORMED as error:
        raise Refused(f"{what}: the certificate cannot be read; {_JOIN}") from error
    if key.public_key() != parsed.public_key():
        raise Refused(f"{what}: the certificate is for another key; {_JOIN}")
    return read_leaf(certificate_der(parsed), authority)


def _key(pem: bytes, directory: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except MALFORMED as error:
        raise ConfigError(f"{directory / KEY}: cannot be read; {_JOIN}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{directory / KEY}: is not on an elliptic curve; {_JOIN}")
    return key


def _load_revocations(directory: Path, authority: x509.Certificate) -> Revocations | None:
    path = directory / REVOKED
    if not path.exists():
        return None
    try:
        return read_revocations(files.read(path, _JOIN), authority)
    except Refused as error:
        raise Refused(f"{path}: {error}") from error


def _context(
    directory: Path, pem: Pem, server_side: bool, alpn: str = "", hostname: bool = False
) -> ssl.SSLContext:
    context = bare_context(server_side, pem.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = hostname
    if alpn:
        context.set_alpn_protocols([alpn])
    try:
        context.load_cert_chain(directory / CERTIFICATE, directory / KEY)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"identity {directory}: key or certificate cannot be used: {error}") from error
    return context


def bare_context(server_side: bool, authority: bytes) -> ssl.SSLContext:
    """TLS 1.3 that trusts one authority (PEM), without an identity; a client demands a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=authority.decode("ascii"))
    if server_side:
        # A resumed session (RFC 8446 2.2) would show no certificate again.
        context.num_tickets = 0
    return context
