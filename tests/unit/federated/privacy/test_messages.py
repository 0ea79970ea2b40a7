"""Messages of a secure sum as bytes: nothing unbounded is taken, and only our errors leave."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import CollabError, LimitExceeded, ProtocolError
from collab.federated.privacy import messages
from collab.federated.privacy.messages import Inbox, Keys, Masked, Revealed, Roster, Shares, Survivors
from tests.unit.federated.privacy.cohort import Cohort, names, terms, vectors


def test_every_message_of_a_session_comes_through_within_its_bound():
    agreed = terms(4, 3)
    cohort = Cohort(agreed, vectors(agreed))
    kinds = []
    for _ in range(5):
        for name, said in cohort.said.items():
            data = messages.encode(said)
            assert len(data) <= agreed.max_message_bytes
            assert messages.decode_from_client(data, agreed) == said
            kinds.append(type(cohort.said[name]).__name__)
        for reply in cohort.phase().values():
            assert messages.decode_from_server(messages.encode(reply), agreed) == reply
            kinds.append(type(reply).__name__)
    assert set(kinds) == {
        *("Keys", "Roster", "Shares", "Inbox", "Masked", "Survivors", "Agreement", "Agreements", "Revealed")
    }


def test_the_longest_message_fits_the_bound():
    agreed = terms(messages.MAX_CLIENTS, 1)
    signature = bytes(messages.MAX_SIGNATURE_BYTES)
    roster = Roster({f"{name:x<63}": Keys(bytes(32), bytes(32), signature) for name in agreed.invited})
    data = messages.encode(roster)
    assert messages.decode_from_server(data, agreed) == roster
    with pytest.raises(LimitExceeded, match="bytes, at most"):
        messages.decode_from_server(data, terms(3, 1))


@pytest.mark.parametrize(
    "message",
    [
        Keys(bytes(31), bytes(32), b"s"),
        Keys(bytes(32), bytes(32), b""),
        Keys(bytes(32), bytes(32), bytes(messages.MAX_SIGNATURE_BYTES + 1)),
        Shares({"a": bytes(81)}, bytes(32)),
        Shares({"a" * 64: bytes(82)}, bytes(32)),
        Shares({name: bytes(82) for name in names(messages.MAX_CLIENTS + 1)}, bytes(32)),
        Revealed({"a": bytes(32)}, {}),
        Inbox({}),
        Survivors(("a",)),
    ],
)
def test_what_is_out_of_bounds_or_of_the_other_side_is_not_taken(message):
    with pytest.raises(ProtocolError, match="malformed"):
        messages.decode_from_client(messages.encode(message), terms(500, 1))


def test_what_is_malformed_is_not_repeated_in_the_error():
    data = messages.encode(Masked(b"secret weights"))[:-3]
    with pytest.raises(ProtocolError) as caught:
        messages.decode_from_client(data, terms())
    assert "secret" not in repr(caught.value) + repr(caught.value.__cause__)


def test_unknown_fields_are_ignored():
    data = msgspec.msgpack.encode({"type": "masked", "vector": b"v", "later": [1]})
    assert messages.decode_from_client(data, terms()) == Masked(b"v")


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    for decode in (messages.decode_from_client, messages.decode_from_server):
        with pytest.raises(CollabError):
            decode(data, terms())


@given(st.data())
def test_damaged_messages_raise_our_errors_or_are_other_messages(data):
    agreed = terms(4, 3)
    cohort = Cohort(agreed, vectors(agreed))
    cohort.phase()
    raw = bytearray(messages.encode(cohort.said["client-00"]))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        damaged = messages.decode_from_client(bytes(raw), agreed)
        cohort.server.receive("client-00", damaged)
    except CollabError:
        return
    assert damaged != cohort.said["client-00"]


def test_deep_nesting_is_refused():
    with pytest.raises(ProtocolError, match="malformed"):
        messages.decode_from_client(
            b"\x82\xa4type\xa6masked\xa1x" + b"\x91" * 50_000 + b"\xc0", terms(500, 50)
        )
