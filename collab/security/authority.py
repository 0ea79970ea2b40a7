"""The cluster's authority: it says who is who, and takes it back.

Its directory (mode 0700) holds the key, encrypted if there is a passphrase, its own
certificate, the records of what it issued and the latest revocation list.  All methods
block on the disk: call them off the event loop.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from collab.core.identity import Principal, check_cluster, check_role
from collab.core.ids import NodeName, check_name
from collab.errors import InputError, Refused
from collab.security import files, records
from collab.security.certificates import (
    certificate_pem,
    key_pem,
    new_key,
    read_authority,
    read_leaf,
    read_revocations,
    requested_key,
    signing_request,
)
from collab.security.identity import AUTHORITY, KEY, REVOKED, Clock, identity_files, utc_now
from collab.security.records import Issued, Records

AUTHORITY_LIFE: Final = timedelta(days=3650)
DEFAULT_DAYS: Final = 90
MAX_DAYS: Final = 825
SKEW: Final = timedelta(minutes=5)
"""Certificates are valid from this long ago, for devices whose clocks are late."""
_INIT: Final = "make an authority: collab cluster init NAME"
_HOST: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?")


def enrolment_host(cluster: str) -> str:
    """The name that only the server of enrolments proves; no identity and no host has it."""
    return f"enrolment.{cluster}"


class Authority:
    """An authority's directory; `create` makes one, `open` uses one."""

    def __init__(
        self, directory: Path, certificate: x509.Certificate, passphrase: bytes | None, clock: Clock
    ) -> None:
        self.directory = directory
        self.certificate = certificate
        self.cluster = records.load(directory).cluster
        self._passphrase = passphrase
        self._clock = clock
        self._key: ec.EllipticCurvePrivateKey | None = None

    @classmethod
    def create(
        cls, directory: Path, cluster: str, passphrase: bytes | None = None, clock: Clock = utc_now
    ) -> Authority:
        """Make a key and a certificate for a new cluster.

        Raises `Refused` if the directory holds something, `InputError` for a bad name.
        """
        check_cluster(cluster, "cluster")
        key, now = new_key(), clock()
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{cluster} authority"),
            ]
        )
        builder = _builder(name, name, key.public_key(), key.public_key(), now, now + AUTHORITY_LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        certificate = builder.add_extension(_usage(signs_certificates=True), critical=True).sign(
            key, hashes.SHA256()
        )
        made = {
            KEY: (key_pem(key, passphrase), files.PRIVATE),
            AUTHORITY: (certificate_pem(certificate), files.PUBLIC),
            records.RECORDS: (records.empty(cluster), files.PRIVATE),
        }
        files.write_new_directory(directory, made, "authority")
        authority = cls(directory, certificate, passphrase, clock)
        with records.changing(directory, now) as held:
            authority._write_list(held)
        return authority

    @classmethod
    def open(cls, directory: Path, passphrase: bytes | None = None, clock: Clock = utc_now) -> Authority:
        """Use a directory that `create` made.  The key is read when it is first needed."""
        pem = files.read(directory / AUTHORITY, _INIT)
        return cls(directory, read_authority(pem, str(directory / AUTHORITY)), passphrase, clock)

    def unlock(self) -> ec.EllipticCurvePrivateKey:
        """The authority's key.  Raises `Refused` for open file modes or a wrong passphrase."""
        if self._key is not None:
            return self._key
        path = self.directory / KEY
        data = files.read_private(path, _INIT)
        encrypted = b"ENCRYPTED" in data
        if encrypted and not self._passphrase:
            raise Refused(f"{path}: is encrypted; give --passphrase-file FILE")
        try:
            key = serialization.load_pem_private_key(data, self._passphrase if encrypted else None)
        except (ValueError, TypeError) as error:
            raise Refused(f"{path}: cannot be opened; is it the right passphrase?") from error
        if (
            not isinstance(key, ec.EllipticCurvePrivateKey)
            or key.public_key() != self.certificate.public_key()
        ):
            raise Refused(f"{path}: is not the key of {AUTHORITY} beside it")
        self._key = key
        return key

    # --- issuing -----------------------------------------------------------------

    def issue(self, request: bytes, principal: Principal, days: int = DEFAULT_DAYS) -> bytes:
        """A certificate (PEM) for the key of a signing request, in a name that nobody has.

        Raises `Refused` if a live certificate has the name, in whatever role and case.
        """
        with records.changing(self.directory, self._clock()) as held:
            return self.issue_in(held, request, principal, days)

    def issue_in(self, held: Records, request: bytes, principal: Principal, days: int) -> bytes:
        """`issue` as a part of a change of the records that also does something else."""
        check_name(principal.name, "name")
        check_role(principal.role, "role")
        if principal.cluster != self.cluster:
            raise Refused(f"{principal} is not of cluster {self.cluster!r}")
        self.check_free(held, principal.name)
        return self._sign(held, requested_key(request), principal, days)

    def check_free(self, held: Records, name: str) -> None:
        """Raise `Refused` if a live certificate has a name."""
        for issued in held.issued:
            if issued.name.lower() == name.lower() and issued.live(self._clock()):
                raise Refused(
                    f"name {name!r}: {issued.name!r} is enrolled as {issued.role}; "
                    f"choose another, or first run: collab cluster revoke {issued.name}"
                )

    def renew(self, certificate: bytes, request: bytes) -> bytes:
        """A new certificate for whoever a live one (DER) names, for as many days.

        Raises `Refused` if the authority has not issued it or has taken it back.
        """
        leaf = read_leaf(certificate, self.certificate)
        with records.changing(self.directory, self._clock()) as held:
            old = next((i for i in held.issued if i.serial == f"{leaf.serial:x}"), None)
            if old is None:
                raise Refused(f"the certificate of {leaf.principal} is not in this authority's records")
            if old.revoked is not None:
                raise Refused(f"the certificate of {leaf.principal} was revoked")
            if not old.live(self._clock()):
                raise Refused(f"the certificate of {leaf.principal} has expired; enrol it again")
            days = max(1, (old.not_after - old.not_before).days)
            return self._sign(held, requested_key(request), leaf.principal, days)

    def _sign(self, held: Records, key: ec.EllipticCurvePublicKey, principal: Principal, days: int) -> bytes:
        both = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        names = [x509.DNSName(str(principal))]
        certificate = self._leaf(principal.name, key, names, both, days)
        held.issued.append(_record(certificate, principal.name, principal.role, []))
        return certificate_pem(certificate)

    def issue_server(self, hosts: Sequence[str], days: int = DEFAULT_DAYS) -> tuple[bytes, bytes]:
        """Certificate and key (PEM) for a server such as a broker; they prove no identity.

        Raises `InputError` for what is neither a host name nor an address.
        """
        if not hosts:
            raise InputError("hosts: give at least one")
        names = [self._host(host) for host in hosts]
        return self._issue_server(list(hosts), names, days)

    def issue_enrolment(self, days: int) -> tuple[bytes, bytes]:
        """Certificate and key for the server of enrolments."""
        host = enrolment_host(self.cluster)
        return self._issue_server([host], [x509.DNSName(host)], days)

    def _issue_server(
        self, hosts: list[str], names: Sequence[x509.GeneralName], days: int
    ) -> tuple[bytes, bytes]:
        key = new_key()
        certificate = self._leaf(
            hosts[0][:64], key.public_key(), names, (ExtendedKeyUsageOID.SERVER_AUTH,), days
        )
        with records.changing(self.directory, self._clock()) as held:
            held.issued.append(_record(certificate, "", "", hosts))
        return certificate_pem(certificate), key_pem(key)

    def _host(self, host: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            pass
        if not _HOST.fullmatch(host) or host.lower().endswith(f".{self.cluster}"):
            raise InputError(
                f"host {host[:80]!r}: give a host name or an address; names that end in "
                f"'.{self.cluster}' are the cluster's own"
            )
        return x509.DNSName(host)

    def _leaf(
        self,
        common_name: str,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName],
        purposes: Sequence[x509.ObjectIdentifier],
        days: int,
    ) -> x509.Certificate:
        if not 1 <= days <= MAX_DAYS:
            raise InputError(f"days: {days}; give 1 to {MAX_DAYS}")
        signer, now = self.unlock(), self._clock()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        end = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        builder = _builder(subject, self.certificate.subject, key, signer.public_key(), now, end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(
            signer, hashes.SHA256()
        )

    # --- taking back -------------------------------------------------------------

    def revoke(self, what: str) -> list[Issued]:
        """Take back all live certificates of a name, or the one of a serial number (hexadecimal).

        Open invites of the name are void from then on too.  Raises `InputError` if there is none.
        """
        self.unlock()
        now = self._clock()
        with records.changing(self.directory, now) as held:
            named = [i for i in held.issued if i.live(now) and i.name and i.name.lower() == what.lower()]
            found = named or [i for i in held.issued if i.live(now) and i.serial == what.lower()]
            invites = [i for i in held.invites if i.open(now) and i.name.lower() == what.lower()]
            if not found and not invites:
                raise InputError(
                    f"{what[:80]!r}: no live certificate has this name or serial; see: collab cluster list"
                )
            for issued in found:
                issued.revoked = now
            for invite in invites:
                invite.withdrawn = True
            if found:
                self._write_list(held)
        return found

    def crl(self) -> bytes:
        """The latest revocation list (PEM)."""
        return files.read(self.directory / REVOKED, _INIT)

    def issued(self) -> list[Issued]:
        """Everything that was issued, the oldest first."""
        return records.load(self.directory).issued

    def _write_list(self, held: Records) -> None:
        signer, now = self.unlock(), self._clock()
        path = self.directory / REVOKED
        if path.exists():  # one may have been written by a process that died before it wrote the records
            last = read_revocations(files.read(path, _INIT), self.certificate).number
            held.list_number = max(held.list_number, last)
        held.list_number += 1
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        # Valid as long as the authority: a list that expires would end every link if nobody renewed it.
        builder = builder.last_update(now - SKEW).next_update(self.certificate.not_valid_after_utc)
        builder = builder.add_extension(x509.CRLNumber(held.list_number), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        for issued in held.issued:
            if issued.revoked is not None:
                entry = x509.RevokedCertificateBuilder().serial_number(int(issued.serial, 16))
                builder = builder.add_revoked_certificate(entry.revocation_date(issued.revoked).build())
        # Before the records: a list that is too new does no harm, a lost revocation would.
        pem = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        files.write(path, pem, files.PUBLIC)


def enrol_here(authority: Authority, directory: Path, name: str, role: str) -> Principal:
    """Make an identity on the authority's own device.  Raises `Refused` if there is one already."""
    files.check_vacant(directory, "identity")
    principal = Principal(NodeName(name), role, authority.cluster)
    key = new_key()
    certificate = authority.issue(signing_request(key), principal)
    made = identity_files(
        key_pem(key), certificate, certificate_pem(authority.certificate), authority.crl(), {}
    )
    files.write_new_directory(directory, made, "identity")
    return principal


def _record(certificate: x509.Certificate, name: str, role: str, hosts: list[str]) -> Issued:
    return Issued(
        serial=f"{certificate.serial_number:x}",
        name=name,
        role=role,
        hosts=hosts,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
