"""Agreed keys, sealing and streams."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest

from collab.errors import ProtocolError
from collab.federated.privacy import masks
from collab.federated.privacy.masks import Mask, agreed_key, apply_masks


def test_the_stream_is_that_of_rfc_8439():
    # Appendix A.1, test vector 1: key, nonce and counter of zeros.
    first = masks.stream(bytes(32)).update(bytes(64))
    assert first.hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )


def test_a_mask_is_its_stream_as_little_endian_numbers():
    vector = np.full(3, 1, np.uint64)
    apply_masks(vector, [Mask(bytes(32), 1)])
    numbers = [
        int.from_bytes(bytes.fromhex(text), "little") for text in ("76b8e0ada0f13d90", "405d6ae55386bd28")
    ]
    assert vector[:2].tolist() == [number + 1 for number in numbers]
    apply_masks(vector, [Mask(bytes(32), -1)])
    assert vector.tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
@pytest.mark.parametrize("length", [1, 32768, 65537])
def test_masks_of_any_length_cancel_out(kind, length):
    before = np.random.default_rng(length).integers(0, np.iinfo(kind).max, length, kind)
    vector = before.copy()
    keys = [bytes([number]) * 32 for number in range(3)]
    apply_masks(vector, [Mask(keys[0], 1), Mask(keys[1], -1), Mask(keys[2], 1)])
    assert (vector == before).mean() < 0.01 or length == 1
    for key, sign in zip(keys, (-1, 1, -1), strict=True):
        apply_masks(vector, [Mask(key, sign)])
    assert (vector == before).all()


def test_both_ends_agree_on_a_key_for_each_purpose():
    one, other = bytes(range(32)), bytes(range(1, 33))
    key = agreed_key(one, masks.public_bytes(other), "mask", b"about")
    assert key == agreed_key(other, masks.public_bytes(one), "mask", b"about")
    assert key != agreed_key(one, masks.public_bytes(other), "mask", b"other")
    # Where one part ends and the next begins is part of the purpose.
    assert agreed_key(one, masks.public_bytes(other), "maska", b"bout") != key


def test_a_derived_key_is_hkdf_of_rfc_5869():
    secret, purpose = bytes(range(32)), masks.statement("own mask", b"about")
    extracted = hmac.digest(bytes(32), secret, hashlib.sha256)
    assert masks.derived_key(secret, "own mask", b"about") == hmac.digest(
        extracted, purpose + b"\x01", hashlib.sha256
    )


def test_a_point_of_low_order_is_refused():
    with pytest.raises(ProtocolError, match="public key"):
        agreed_key(bytes(range(32)), bytes(32), "mask")


def test_sealed_shares_open_only_for_the_session_they_were_made_for():
    sealed = masks.seal(bytes(32), b"shares", b"session")
    assert masks.unseal(bytes(32), sealed, b"session") == b"shares"
    for key, text, about in [
        (bytes(31) + b"1", sealed, b"session"),
        (bytes(32), sealed[:-1] + b"?", b"session"),
        (bytes(32), sealed, b"another"),
    ]:
        with pytest.raises(ProtocolError, match="sealed shares"):
            masks.unseal(key, text, about)
