"""Secure sums in bytes: both ends, repeats, and what is not taken."""

from __future__ import annotations

from functools import partial

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.core.ids import Digest
from collab.errors import CollabError, LimitExceeded, NotLoaded, ProtocolError, Refused, TensorError
from collab.federated.privacy.fixed_point import Encoding, decode_sum
from collab.federated.privacy.identities import name_signer, name_verifier
from collab.federated.privacy.masking import (
    MAX_INVITATION_BYTES,
    Masking,
    basis_of,
    decode_invitation,
    encode_invitation,
    invite,
)
from collab.federated.privacy.messages import Inbox, Masked, decode_from_server, encode
from collab.federated.privacy.sessions import ClientSession, ServerSession
from collab.federated.update import LocalTraining

SHAPES = {"w": (3, 2), "b": (2,)}
NAMES = ("ann", "ben", "cyd", "dee")


def basis(masking, **training):
    return basis_of(Digest("1" * 64), Digest("2" * 64), LocalTraining(**training), masking)


def invitation(masking=Masking(), threshold=3, names=NAMES):
    return invite("run/1/0", names, threshold, masking.length(SHAPES), basis(masking), masking)


def delta(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) * scale for name, shape in SHAPES.items()}


class Both:
    """Both ends of one session."""

    def __init__(self, invited=None):
        self.invitation = invited or invitation()
        self.server = ServerSession(self.invitation, name_verifier())
        data = encode_invitation(self.invitation)
        self.clients = {
            name: ClientSession(name, data, basis, name_signer(name), name_verifier())
            for name in self.invitation.terms.invited
        }
        self.said = {name: client.again(data) for name, client in self.clients.items()}

    def phase(self, leave=()):
        for name, said in self.said.items():
            if name not in leave:
                self.server.take(name, said)
        replies = self.server.close()
        self.said = {name: self.clients[name].take(reply) for name, reply in replies.items()}
        return replies

    def keys(self):
        self.phase()
        return self.phase()

    def mask(self, updates):
        self.said = {name: self.clients[name].masked(*updates[name]) for name in self.clients}


@pytest.mark.parametrize(
    "masking",
    [
        Masking(),
        Masking(encoding=Encoding(32, fraction_bits=20, limit=4.0, max_samples=1)),
        Masking(encoding=Encoding(max_samples=1), clip=0.5, adaptive=True),
    ],
    ids=["samples", "narrow", "clipped"],
)
def test_sums_are_exact_although_one_leaves(masking):
    both = Both(invitation(masking))
    assert set(both.keys()) == set(NAMES)
    assert set(both.said.values()) == {b""}
    updates = {name: (delta(number), number + 1) for number, name in enumerate(NAMES)}
    both.mask(updates)
    for _ in range(3):
        both.phase(leave=["ben"])
    found = both.server.outcome
    assert (found.survivors, found.dropped) == (("ann", "cyd", "dee"), ("ben",))
    vectors = [masking.vector(*updates[name]) for name in found.survivors]
    assert (found.total == np.add.reduce(vectors, dtype=masking.encoding.type)).all()
    decode_sum(masking.encoding, masking.shapes(SHAPES), found.total, 3)


def test_who_has_more_samples_than_there_is_room_for_counts_for_the_most():
    masking = Masking(encoding=Encoding(max_samples=10))
    assert (masking.vector(delta(), 1000) == masking.vector(delta(), 10)).all()


def test_a_message_that_is_repeated_gets_the_same_answer_and_changes_nothing():
    both = Both()
    data = encode_invitation(both.invitation)
    assert both.clients["ann"].again(data) == both.said["ann"]
    replies = both.phase()
    said = dict(both.said)
    assert {name: both.clients[name].again(reply) for name, reply in replies.items()} == said
    assert both.clients["ann"].again(data) is None
    both.phase()
    both.mask({name: (delta(), 1) for name in NAMES})
    both.phase()


def test_a_client_masks_once_and_only_with_the_shares_of_the_others():
    both = Both()
    with pytest.raises(NotLoaded, match="holds no keys"):
        both.clients["ann"].masked(delta(), 1)
    both.keys()
    both.clients["ann"].masked(delta(), 1)
    with pytest.raises(NotLoaded, match="holds no keys"):
        both.clients["ann"].masked(delta(1), 1)


@pytest.mark.parametrize(
    ("update", "error", "said"),
    [
        ({"w": np.full((3, 2), np.nan, np.float32), "b": np.zeros(2)}, TensorError, "'w' is not finite"),
        (
            {"w": np.full((3, 2), 17.0, np.float32), "b": np.zeros(2)},
            TensorError,
            "over the encoding's limit",
        ),
        ({"w": np.zeros((3, 2), np.float32)}, ProtocolError, "has 7 numbers, the terms say 9"),
    ],
)
def test_what_cannot_be_summed_does_not_leave(update, error, said):
    both = Both()
    both.keys()
    with pytest.raises(error, match=said):
        both.clients["ann"].masked(update, 1)


def test_a_client_that_was_asked_for_something_else_does_not_begin():
    data = encode_invitation(invitation())
    for changed in ({"learning_rate": 0.5}, {"epochs": 9}):
        with pytest.raises(Refused, match="other weights or orders"):
            ClientSession("ann", data, partial(basis, **changed), name_signer("ann"), name_verifier())
    clipped = encode_invitation(invitation(Masking(encoding=Encoding(max_samples=1), clip=1.0)))
    with pytest.raises(Refused, match="other weights or orders"):
        ClientSession("ann", clipped, lambda _: basis(Masking()), name_signer("ann"), name_verifier())
    # Seeds are the clients' own.
    ClientSession("ann", data, lambda found: basis(found, seed=7), name_signer("ann"), name_verifier())
    with pytest.raises(Refused, match="not invited"):
        ClientSession("eve", data, basis, name_signer("eve"), name_verifier())


def test_a_vector_is_looked_at_before_it_is_counted():
    both = Both()
    both.keys()
    both.mask({name: (delta(), 1) for name in NAMES})
    both.server.check_masked("ann", both.said["ann"])
    for name, data, said in (
        ("ann", encode(Masked(b"short")), "sent 5 bytes of 72"),
        ("ann", keys_of(both), "no masked vector"),
        ("eve", both.said["ann"], "no vector of client 'eve' is due"),
    ):
        with pytest.raises(ProtocolError, match=said):
            both.server.check_masked(name, data)
    both.phase()
    with pytest.raises(ProtocolError, match="no vector of client 'ann' is due"):
        both.server.check_masked("ann", encode(Masked(bytes(72))))


def keys_of(both):
    """A message of another kind."""
    client = ClientSession(
        "ann", encode_invitation(both.invitation), basis, name_signer("ann"), name_verifier()
    )
    return client.again(encode_invitation(both.invitation))


def test_invitations_come_through_and_are_bounded():
    wide = invite("r/1/0", [f"{i:x>63}" for i in range(512)], 400, 9, bytes(32), Masking())
    data = encode_invitation(wide)
    assert len(data) < MAX_INVITATION_BYTES
    assert decode_invitation(data) == wide
    with pytest.raises(LimitExceeded):
        decode_invitation(bytes(MAX_INVITATION_BYTES + 1))
    tree = msgspec.to_builtins(wide, builtin_types=(bytes,)) | {"later": 1}
    assert decode_invitation(msgspec.msgpack.encode(tree)) == wide


@given(st.binary(max_size=300))
def test_random_bytes_are_no_invitation_and_no_message(data):
    with pytest.raises(CollabError):
        ClientSession("ann", data, basis, name_signer("ann"), name_verifier())
    both = Both()
    for step in (lambda: both.clients["ann"].take(data), lambda: both.server.take("ann", data)):
        with pytest.raises(CollabError):
            step()


@given(st.data())
@settings(max_examples=30)
def test_damaged_invitations_and_messages_raise_our_errors_or_are_others(data):
    both = Both()
    rosters = both.phase()
    for whole, take in (
        (encode_invitation(both.invitation), lambda raw: ClientSession("ann", raw, basis, *signs())),
        (rosters["ann"], lambda raw: fresh().take(raw)),
    ):
        raw = bytearray(whole)
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] ^= data.draw(st.integers(1, 255))
        try:
            took = take(bytes(raw))
        except CollabError:
            continue
        assert took is not None
        assert bytes(raw) != whole


def signs():
    return name_signer("ann"), name_verifier()


def fresh():
    return ClientSession("ann", encode_invitation(invitation()), basis, *signs())


def test_shares_wait_for_the_update_and_nothing_else_is_answered_before():
    both = Both()
    inboxes = both.keys()
    message = decode_from_server(inboxes["ann"], both.invitation.terms)
    assert isinstance(message, Inbox)
    assert both.clients["ann"].again(inboxes["ann"]) == b""
