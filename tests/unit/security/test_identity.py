"""Who is believed, and why not."""

from __future__ import annotations

import os
import ssl
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509

from collab.core.identity import Principal
from collab.core.ids import NodeName
from collab.errors import InputError, Refused
from collab.security.authority import Authority, enrol_here
from collab.security.certificates import certificate_der, new_key, signing_request
from collab.security.identity import Credentials


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A cluster's authority."""
    return Authority.create(tmp_path / "authority", "lab")


def enrol(authority: Authority, folder: Path, name: str = "a", role: str = "node") -> Credentials:
    """An identity in use."""
    enrol_here(authority, folder / name, name, role)
    return Credentials.load(folder / name)


def der(pem: bytes) -> bytes:
    """A certificate as the handshake carries it."""
    return certificate_der(x509.load_pem_x509_certificate(pem))


def shake(client: Credentials, server: Credentials) -> None:
    """A TLS handshake in memory; raises what either end raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.context(server_side=False).wrap_bio(to_client, to_server)
    other = server.context(server_side=True).wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (one, other):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_keys_are_for_their_owner_only(authority, tmp_path):
    enrol(authority, tmp_path)
    for folder in (tmp_path / "a", authority.directory):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(folder / "key.pem").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(authority.directory / "records.json").st_mode) == 0o600


def test_a_key_that_others_can_read_is_refused(authority, tmp_path):
    enrol(authority, tmp_path)
    os.chmod(tmp_path / "a" / "key.pem", 0o640)
    with pytest.raises(Refused, match="chmod 600"):
        Credentials.load(tmp_path / "a")


def test_a_certificate_of_the_cluster_names_its_owner(authority, tmp_path):
    one, other = enrol(authority, tmp_path, "a"), enrol(authority, tmp_path, "b", "operator")
    assert one.check(der(other.pem().certificate)) == Principal(NodeName("b"), "operator", "lab")
    shake(one, other)


def test_a_certificate_of_another_authority_is_refused_by_check_and_handshake(authority, tmp_path):
    one = enrol(authority, tmp_path, "a")
    stranger = enrol(Authority.create(tmp_path / "other", "lab"), tmp_path, "b")
    with pytest.raises(Refused, match="another cluster"):
        one.check(der(stranger.pem().certificate))
    with pytest.raises(ssl.SSLError):
        shake(stranger, one)


@pytest.mark.parametrize(("shift", "reason"), [(91, "expired"), (-1, "clocks")])
def test_a_certificate_out_of_its_time_is_refused(authority, tmp_path, shift, reason):
    clock = [datetime.now(timezone.utc)]
    enrol_here(authority, tmp_path / "a", "a", "node")
    one = Credentials.load(tmp_path / "a", clock=lambda: clock[0])
    other = enrol(authority, tmp_path, "b")
    clock[0] += timedelta(days=shift)
    with pytest.raises(Refused, match=reason):
        one.check(der(other.pem().certificate))


def test_a_revoked_certificate_is_refused_from_the_new_list_on(authority, tmp_path):
    one, other = enrol(authority, tmp_path, "a"), enrol(authority, tmp_path, "b")
    told = []
    one.on_revoked.append(lambda: told.append(True))
    old = authority.crl()
    one.check(der(other.pem().certificate))
    authority.revoke("B")
    number = one.reload_revocations(authority.crl())
    assert told == [True]
    assert one.revoked(other.principal)
    with pytest.raises(Refused, match="revoked"):
        one.check(der(other.pem().certificate))
    assert one.reload_revocations(old) == number  # an older list takes nothing back
    assert one.revoked(other.principal)
    one.store_revocations()
    with pytest.raises(Refused, match="revoked"):
        Credentials.load(tmp_path / "a").check(der(other.pem().certificate))


def test_a_list_of_another_authority_is_refused(authority, tmp_path):
    one = enrol(authority, tmp_path, "a")
    with pytest.raises(Refused, match="not signed"):
        one.reload_revocations(Authority.create(tmp_path / "other", "lab").crl())


def test_the_authority_itself_and_servers_are_no_identities(authority, tmp_path):
    one = enrol(authority, tmp_path, "a")
    server, _ = authority.issue_server(["broker.lan", "10.0.0.9"])
    for pem in (one.pem().authority, server, authority.issue_enrolment(1)[0]):
        with pytest.raises(Refused):
            one.check(der(pem))
    with pytest.raises(Refused, match="read"):
        one.check(b"no certificate")


def test_names_are_unique_over_roles_and_case(authority, tmp_path):
    enrol(authority, tmp_path, "Pi")
    request = signing_request(new_key())
    with pytest.raises(Refused, match="is enrolled as node"):
        authority.issue(request, Principal(NodeName("pI"), "client", "lab"))
    authority.revoke("pi")
    authority.issue(request, Principal(NodeName("pI"), "client", "lab"))


def test_no_server_gets_a_name_of_the_cluster(authority):
    for host in ("a.node.lab", "enrolment.lab", "no host", ""):
        with pytest.raises(InputError):
            authority.issue_server([host])


def test_an_encrypted_authority_wants_its_passphrase(tmp_path):
    Authority.create(tmp_path / "authority", "lab", b"secret")
    for passphrase in (None, b"wrong"):
        with pytest.raises(Refused, match="passphrase"):
            Authority.open(tmp_path / "authority", passphrase).unlock()
    Authority.open(tmp_path / "authority", b"secret").unlock()
