"""Signatures of a secure sum by certificates of a cluster."""

from __future__ import annotations

import msgspec
import pytest

from collab.federated.privacy.identities import signer, verifier
from collab.federated.privacy.messages import MAX_SIGNATURE_BYTES
from tests.identities import Identities


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    identities = Identities(tmp_path_factory.mktemp("home"))
    identities.enrol("a", "b")
    return identities


def test_a_node_signs_and_every_other_one_can_tell(home):
    signature = signer(home.of("a"))(b"statement")
    assert len(signature) < MAX_SIGNATURE_BYTES
    verify = verifier(home.of("b"))
    assert verify("a", b"statement", signature)
    assert not verify("b", b"statement", signature)
    assert not verify("a", b"another", signature)


def test_another_role_another_cluster_and_junk_do_not_count(home, tmp_path):
    verify = verifier(home.of("b"))
    home.enrol("op", role="operator")
    stranger = Identities(tmp_path).of("a")
    assert not verify("op", b"statement", signer(home.of("op", "operator"))(b"statement"))
    assert not verify("a", b"statement", signer(stranger)(b"statement"))
    good = msgspec.msgpack.decode(signer(home.of("a"))(b"statement"))
    for bad in (
        b"",
        b"\x92",
        msgspec.msgpack.encode([b"", good[1]]),
        msgspec.msgpack.encode([good[0], b"?"]),
    ):
        assert not verify("a", b"statement", bad)
