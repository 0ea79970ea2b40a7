"""What identities sign in a secure sum, and who does it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TypeAlias

from collab.federated.privacy.masks import statement
from collab.federated.privacy.messages import Keys, Roster, Terms

Sign: TypeAlias = Callable[[bytes], bytes]
"""Sign a statement with the identity of this end; what comes out may hold its certificate."""
Verify: TypeAlias = Callable[[str, bytes, bytes], bool]
"""Whether (name, statement, signature) was signed by the client of that name."""


def about_keys(terms: Terms, name: str, cipher: bytes, mask: bytes) -> bytes:
    """Signed by a client with its keys."""
    return statement("collab secure sum: keys", terms.digest(), name, cipher, mask)


def about_survivors(terms: Terms, roster: Roster, sharing: Iterable[str], survivors: Iterable[str]) -> bytes:
    """Signed by every survivor: that all have seen the same keys and lists."""
    return statement(
        "collab secure sum: survivors",
        terms.digest(),
        roster_digest(roster),
        sorted(sharing),
        sorted(survivors),
    )


def roster_digest(roster: Roster) -> bytes:
    """Of everybody's keys, without the signatures."""
    return hashlib.sha256(
        statement(*((name, keys.cipher, keys.mask) for name, keys in sorted(roster.keys.items())))
    ).digest()


def signed_keys(terms: Terms, name: str, keys: Keys, verify: Verify) -> bool:
    """Whether the keys are that client's for this session."""
    return verify(name, about_keys(terms, name, keys.cipher, keys.mask), keys.signature)


def mask_purpose(terms: Terms, roster: bytes, one: str, other: str) -> tuple[str | bytes, ...]:
    """What the mask of a pair is derived for; the same from both ends."""
    return ("mask", terms.digest(), roster, min(one, other), max(one, other))


def own_mask_purpose(terms: Terms) -> tuple[str | bytes, ...]:
    """What the mask of one client is derived from its seed for."""
    return ("own mask", terms.digest())


def sealing_purpose(terms: Terms, roster: bytes, sender: str, recipient: str) -> tuple[str | bytes, ...]:
    """What shares from one client to another are sealed for."""
    return ("shares", terms.digest(), roster, sender, recipient)
