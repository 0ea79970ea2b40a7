"""Statements and purposes say all that they are about: any change makes other bytes."""

from __future__ import annotations

import msgspec

from collab.federated.privacy import statements
from collab.federated.privacy.fixed_point import Encoding
from collab.federated.privacy.messages import Keys, Roster
from tests.unit.federated.privacy.cohort import names, sign_as, terms, verify

TERMS = terms()
OTHERS = [
    msgspec.structs.replace(TERMS, **change)
    for change in (
        {"session": "task/3/2"},
        {"invited": names(11)},
        {"threshold": 8},
        {"length": 51},
        {"basis": bytes(32)},
        {"encoding": Encoding(limit=8.0)},
    )
]


def roster(number: int = 0) -> Roster:
    return Roster({name: Keys(bytes([number]) * 32, bytes([1]) * 32, b"s") for name in names(3)})


def test_survivors_are_signed_with_the_terms_the_roster_and_who_has_shared():
    variants = [(t, roster(), "abc", "ab") for t in (TERMS, *OTHERS)]
    variants += [
        (TERMS, roster(2), "abc", "ab"),
        (TERMS, roster(), "abd", "ab"),
        (TERMS, roster(), "abc", "bc"),
    ]
    assert len({statements.about_survivors(*variant) for variant in variants}) == len(variants)
    assert statements.about_survivors(TERMS, roster(), "cba", "ba") == statements.about_survivors(
        *variants[0]
    )


def test_keys_are_signed_with_the_terms_and_the_name():
    keys = Keys(bytes(32), bytes([1]) * 32, b"")
    signature = sign_as("a")(statements.about_keys(TERMS, "a", keys.cipher, keys.mask))
    signed = msgspec.structs.replace(keys, signature=signature)
    assert statements.signed_keys(TERMS, "a", signed, verify)
    assert not statements.signed_keys(TERMS, "b", signed, verify)
    assert not any(statements.signed_keys(other, "a", signed, verify) for other in OTHERS)
    swapped = Keys(keys.mask, keys.cipher, signature)
    assert not statements.signed_keys(TERMS, "a", swapped, verify)


def test_no_two_purposes_are_the_same():
    digests = (bytes(32), bytes([1]) * 32)
    purposes = []
    for agreed in (TERMS, *OTHERS):
        purposes.append(statements.own_mask_purpose(agreed))
        for digest in digests:
            purposes += [statements.mask_purpose(agreed, digest, *pair) for pair in ("ab", "ac", "bc")]
            purposes += [statements.sealing_purpose(agreed, digest, *pair) for pair in ("ab", "ba", "ac")]
    assert len(set(purposes)) == len(purposes)
    assert statements.mask_purpose(TERMS, digests[0], "a", "b") == statements.mask_purpose(
        TERMS, digests[0], "b", "a"
    )
