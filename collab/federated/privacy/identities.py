"""Signatures of a secure sum by the identities of the cluster.  A signature carries its certificate.

Where there are no identities (``--insecure``, simulations) names stand in for them, as they do on links.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec import Meta

from collab.errors import CollabError
from collab.federated.privacy.messages import MAX_SIGNATURE_BYTES
from collab.federated.privacy.statements import Sign, Verify
from collab.security.certificates import certificate_der
from collab.security.identity import Credentials
from collab.transport.base import Security

ROLE: Final = "node"
"""Only nodes train."""
_ALGORITHM: Final = ec.ECDSA(SHA256())


class _Signed(NamedTuple):
    certificate: Annotated[bytes, Meta(max_length=MAX_SIGNATURE_BYTES)]
    signature: Annotated[bytes, Meta(max_length=256)]


_DECODER: Final = msgspec.msgpack.Decoder(_Signed)


def signer(credentials: Credentials) -> Sign:
    """Sign with the key of this end."""
    key = credentials.key()
    certificate = certificate_der(x509.load_pem_x509_certificate(credentials.pem().certificate))
    return lambda statement: msgspec.msgpack.encode(_Signed(certificate, key.sign(statement, _ALGORITHM)))


def verifier(credentials: Security) -> Verify:
    """Check signatures by the authority and the revocations that these credentials go by."""

    def verify(name: str, statement: bytes, signature: bytes) -> bool:
        try:
            signed = _DECODER.decode(signature)
            principal = credentials.check(signed.certificate)
            key = x509.load_der_x509_certificate(signed.certificate).public_key()
            if (principal.name, principal.role) != (name, ROLE):
                return False
            if not isinstance(key, ec.EllipticCurvePublicKey):
                return False
            key.verify(signed.signature, statement, _ALGORITHM)
        except (CollabError, InvalidSignature, msgspec.DecodeError, ValueError):
            return False
        return True

    return verify


def name_signer(name: str) -> Sign:
    """Where there are no identities: binds a statement to a name, and proves nothing."""
    return lambda statement: _bound(name, statement)


def name_verifier() -> Verify:
    """Where there are no identities."""
    return lambda name, statement, signature: signature == _bound(name, statement)


def _bound(name: str, statement: bytes) -> bytes:
    return hashlib.sha256(b"collab: nobody signs\0" + name.encode() + b"\0" + statement).digest()
