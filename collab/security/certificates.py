"""What a certificate of the cluster proves, and what the authority has taken back.

No clock and no files here; times are passed in.  Certificates and lists are those of
RFC 5280.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from collab.core.identity import Principal, parse_principal
from collab.errors import InputError, Refused

MAX_CERTIFICATE_BYTES: Final = 16 * 1024
MAX_LIST_BYTES: Final = 8 << 20
"""Of a revocation list: about 200,000 entries."""
CURVE: Final = ec.SECP256R1()

# Parsers raise ValueError for what is malformed, and these for what they do not know.
MALFORMED: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension)


class Leaf(NamedTuple):
    """A certificate that the authority has signed for somebody of the cluster."""

    principal: Principal
    serial: int
    not_before: datetime
    not_after: datetime


class Revocations(NamedTuple):
    """A list of certificates that the authority has taken back (RFC 5280 5)."""

    number: int
    """Grows with each list (RFC 5280 5.2.3)."""
    serials: frozenset[int]
    pem: bytes


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key on the curve that gRPC, OpenSSL and browsers all take."""
    return ec.generate_private_key(CURVE)


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """The key as PKCS #8 (RFC 5958), encrypted where there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_der(certificate: x509.Certificate) -> bytes:
    """A certificate as the handshake carries it."""
    return certificate.public_bytes(serialization.Encoding.DER)


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of a certificate."""
    return certificate.fingerprint(hashes.SHA256())


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request (PKCS #10, RFC 2986) that proves possession of a key and names nobody.

    Who it is for, only the authority says.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request; nothing else of it counts.  Raises `Refused`."""
    try:
        if len(pem) > MAX_CERTIFICATE_BYTES:
            raise ValueError("too long")
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        valid = request.is_signature_valid
    except MALFORMED as error:
        raise Refused("the signing request cannot be read; upgrade the older end") from error
    if not valid:
        raise Refused("the signing request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != CURVE.name:
        raise Refused("the signing request is for a key that is not on the curve P-256")
    return key


def read_authority(pem: bytes, what: str) -> x509.Certificate:
    """An authority's own certificate.  Raises `Refused`."""
    try:
        if len(pem) > MAX_CERTIFICATE_BYTES:
            raise ValueError("too long")
        certificate = x509.load_pem_x509_certificate(pem)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(certificate)
    except (*MALFORMED, InvalidSignature, x509.ExtensionNotFound) as error:
        raise Refused(f"{what}: is no certificate of an authority") from error
    if not constraints.ca:
        raise Refused(f"{what}: is a certificate, but not of an authority")
    return certificate


def read_leaf(der: bytes, authority: x509.Certificate) -> Leaf:
    """Who a certificate names, once its signature and its purpose are checked.

    Validity in time, revocation and the cluster are the caller's to check.
    Raises `Refused` with one line that says what is wrong.
    """
    try:
        if len(der) > MAX_CERTIFICATE_BYTES:
            raise ValueError("too long")
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions
    except MALFORMED as error:
        raise Refused("the certificate cannot be read") from error
    try:
        certificate.verify_directly_issued_by(authority)
    except (*MALFORMED, InvalidSignature) as error:
        raise Refused(
            "the certificate is of another cluster: this cluster's authority has not signed it"
        ) from error
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        purposes = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        common = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (*MALFORMED, x509.ExtensionNotFound) as error:
        raise Refused("the certificate proves no identity: it is an authority's or incomplete") from error
    if constraints.ca:
        raise Refused("the certificate is an authority's, not an identity")
    if not purposes >= {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}:
        raise Refused("the certificate proves no identity: it is for a server such as a broker")
    principal = _principal(names, common)
    return Leaf(
        principal,
        certificate.serial_number,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def _principal(names: list[x509.GeneralName], common: list[str]) -> Principal:
    if len(names) != 1 or not isinstance(names[0], x509.DNSName):
        raise Refused("the certificate proves no identity: it must have one name, NAME.ROLE.CLUSTER")
    try:
        principal = parse_principal(names[0].value)
    except InputError as error:
        raise Refused(f"the certificate proves no identity: {error}") from error
    if common != [principal.name]:
        raise Refused("the certificate proves no identity: its two names differ")
    return principal


def check_period(leaf: Leaf, now: datetime) -> None:
    """Raise `Refused` unless a certificate is valid at a time."""
    if now < leaf.not_before:
        raise Refused(
            f"the certificate of {leaf.principal} is not valid before {leaf.not_before:%Y-%m-%d %H:%M:%SZ}, "
            f"and here it is {now:%Y-%m-%d %H:%M:%SZ}; set the clocks right"
        )
    if now > leaf.not_after:
        raise Refused(
            f"the certificate of {leaf.principal} expired on {leaf.not_after:%Y-%m-%d %H:%M:%SZ} "
            f"(here it is {now:%Y-%m-%d %H:%M:%SZ}); enrol it again, or set the clocks right"
        )


def read_revocations(pem: bytes, authority: x509.Certificate) -> Revocations:
    """A list that the authority has signed.  Raises `Refused`."""
    try:
        if len(pem) > MAX_LIST_BYTES:
            raise ValueError("too long")
        revoked = x509.load_pem_x509_crl(pem)
        number = revoked.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        key = authority.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("an authority's key is on an elliptic curve")
        signed = revoked.issuer == authority.subject and revoked.is_signature_valid(key)
        serials = frozenset(entry.serial_number for entry in revoked)
    except (*MALFORMED, x509.ExtensionNotFound) as error:
        raise Refused("the revocation list cannot be read") from error
    if not signed:
        raise Refused("the revocation list is not signed by this cluster's authority")
    return Revocations(number, serials, pem)
