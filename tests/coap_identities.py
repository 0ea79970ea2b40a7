"""Identities in memory, for tests of transports that run TLS themselves."""

from __future__ import annotations

import datetime
import ssl
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from collab.core.identity import Pem, Principal, parse_principal
from collab.errors import Refused

CLUSTER = "test"


class PlainSecurity:
    """A `collab.transport.base.Security` whose revocations are a set of names."""

    def __init__(self, principal: Principal, pem: Pem) -> None:
        self.principal = principal
        self._pem = pem
        self._contexts = {
            (side, alpn): self._context(side, alpn) for side in (True, False) for alpn in ("", "coap", "h2")
        }
        self.revoked: set[str] = set()

    def _context(self, server_side: bool, alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._pem.authority.decode())
        if alpn:
            context.set_alpn_protocols([alpn])
        with tempfile.NamedTemporaryFile() as file:
            file.write(self._pem.key + self._pem.certificate)
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def context(self, *, server_side: bool, alpn: str = "", hostname: bool = False) -> ssl.SSLContext:
        assert not hostname
        return self._contexts[server_side, alpn]

    def check(self, certificate: bytes) -> Principal:
        names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        principal = parse_principal(names.value.get_values_for_type(x509.DNSName)[0])
        if principal.name in self.revoked:
            raise Refused(f"{principal}: its certificate is revoked")
        return principal

    def pem(self) -> Pem:
        return self._pem


class PlainAuthority:
    """Issues certificates of one cluster."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self._certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(True, None), True)
            .sign(self._key, hashes.SHA256())
        )

    def security(self, name: str, role: str = "node") -> PlainSecurity:
        key = ec.generate_private_key(ec.SECP256R1())
        principal = parse_principal(f"{name}.{role}.{CLUSTER}")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            self._builder(subject, key)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(str(principal))]), False)
            .sign(self._key, hashes.SHA256())
        )
        kind, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        private = key.private_bytes(kind, form, serialization.NoEncryption())
        pem = Pem(private, made.public_bytes(kind), self._certificate.public_bytes(kind))
        return PlainSecurity(principal, pem)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )
