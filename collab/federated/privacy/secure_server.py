"""The server's part in a secure sum (Bonawitz et al., CCS 2017, figure 4).  Sans-IO.

A phase takes one message of each client that is still there.  The caller closes it, when
all are in or its deadline has come, and sends what it gets.  Clients whose message is
missing have dropped out.

At no time is a single client's vector here: masked vectors are added up when they come,
and the masks are taken from the sum of all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from collab.errors import ProtocolError, Refused
from collab.federated.privacy import shamir
from collab.federated.privacy.masks import (
    Mask,
    Ring,
    agreed_key,
    apply_masks,
    derived_key,
    public_bytes,
)
from collab.federated.privacy.messages import (
    Agreement,
    Agreements,
    FromClient,
    FromServer,
    Inbox,
    Keys,
    Masked,
    Revealed,
    Roster,
    Shares,
    Survivors,
    Terms,
    check_terms,
)
from collab.federated.privacy.statements import (
    Verify,
    about_survivors,
    mask_purpose,
    own_mask_purpose,
    roster_digest,
    signed_keys,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a session came to."""

    total: Ring
    """The sum of the survivors' vectors, exact, in the ring."""
    survivors: tuple[str, ...]
    """Whose vectors are in it."""
    dropped: tuple[str, ...]
    """Invited clients that are not in it."""
    liars: tuple[str, ...]
    """Clients that gave wrong shares; the sum is right without theirs."""


class SecureServer:
    """One session.

    `receive` raises `ProtocolError` for what the client may not send, and has then changed
    nothing: the client counts as dropped out unless it sends something better before the end
    of the phase.
    """

    def __init__(self, terms: Terms, verify: Verify) -> None:
        """Raises `ConfigError` for terms under which the sum would not hide its terms."""
        check_terms(terms)
        self.terms = terms
        self.expects: type[FromClient] | None = Keys
        """The kind of message that this phase takes; none after the end."""
        self.waiting = frozenset(terms.invited)
        """Clients that this phase has not heard of yet."""
        self.outcome: Outcome | None = None
        """After the last phase was closed."""
        self._verify = verify
        self._heard: frozenset[str] = frozenset()
        self._roster = Roster({})
        self._shares: dict[str, Shares] = {}
        self._sharing: frozenset[str] = frozenset()
        self._survivors: frozenset[str] = frozenset()
        self._total: Ring = np.zeros(terms.length, terms.encoding.type)
        self._agreements: dict[str, bytes] = {}
        self._revealed: dict[str, Revealed] = {}

    def receive(self, name: str, message: FromClient) -> None:
        """Take a client's message; the link has made sure who it is."""
        if self.expects is None or not isinstance(message, self.expects):
            due = "none" if self.expects is None else self.expects.__name__.lower()
            raise _wrong(name, f"sent {type(message).__name__.lower()}, due is {due}")
        if name not in self.waiting:
            raise _wrong(name, "is not or no longer asked in this phase")
        self._PHASES[self.expects].take(self, name, message)
        self.waiting -= {name}
        self._heard |= {name}

    def close(self) -> Mapping[str, FromServer]:
        """End the phase; what to send to whom next, nothing after the last one.

        Raises `Refused` when fewer clients are left than the threshold, or a secret cannot be
        restored; the session is then over and nothing of the sum is known.
        """
        if self.expects is None:
            raise ValueError("the session is over")
        phase = self._PHASES[self.expects]
        try:
            if len(self._heard) < self.terms.threshold:
                raise Refused(
                    f"secure aggregation: {len(self._heard)} clients sent "
                    f"{self.expects.__name__.lower()}, fewer than the threshold {self.terms.threshold}; "
                    "nothing of the sum is opened; run the round again, with more clients or a later deadline"
                )
            replies = phase.close(self)
        except Exception:
            self._forget()
            raise
        self.waiting, self._heard = frozenset(replies), frozenset()
        self.expects = phase.then
        if self.expects is None:
            self._forget()
        return replies

    # --- one pair of methods a phase ------------------------------------------

    def _take_keys(self, name: str, keys: Keys) -> None:
        if not signed_keys(self.terms, name, keys, self._verify):
            raise _wrong(name, "has not signed its keys for this session")
        taken = {key for other in self._roster.keys.values() for key in (other.cipher, other.mask)}
        if keys.cipher == keys.mask or taken & {keys.cipher, keys.mask}:
            raise _wrong(name, "sent a key that is there already")
        self._roster.keys[name] = keys

    def _close_keys(self) -> Mapping[str, FromServer]:
        return dict.fromkeys(self._heard, self._roster)

    def _take_shares(self, name: str, shares: Shares) -> None:
        if shares.sealed.keys() != self._roster.keys.keys() - {name}:
            raise _wrong(name, "has not sealed shares for exactly the others on the roster")
        self._shares[name] = shares

    def _close_shares(self) -> Mapping[str, FromServer]:
        self._sharing = self._heard
        return {
            name: Inbox({peer: self._shares[peer].sealed[name] for peer in sorted(self._heard - {name})})
            for name in self._heard
        }

    def _take_masked(self, name: str, masked: Masked) -> None:
        if len(masked.vector) != self.terms.vector_bytes:
            raise _wrong(name, f"sent {len(masked.vector)} bytes of {self.terms.vector_bytes}")
        self._total += np.frombuffer(masked.vector, self._total.dtype.newbyteorder("<"))

    def _close_masked(self) -> Mapping[str, FromServer]:
        self._survivors = self._heard
        return dict.fromkeys(self._heard, Survivors(tuple(sorted(self._heard))))

    def _take_agreement(self, name: str, agreement: Agreement) -> None:
        statement = about_survivors(self.terms, self._roster, self._sharing, self._survivors)
        if not self._verify(name, statement, agreement.signature):
            raise _wrong(name, "has not signed this roster and these survivors")
        self._agreements[name] = agreement.signature

    def _close_agreement(self) -> Mapping[str, FromServer]:
        return dict.fromkeys(self._heard, Agreements(self._agreements))

    def _take_revealed(self, name: str, revealed: Revealed) -> None:
        if not (
            revealed.seeds.keys() <= self._survivors
            and revealed.keys.keys() <= self._sharing - self._survivors
        ):
            raise _wrong(name, "revealed shares that it was not asked for")
        self._revealed[name] = revealed

    def _close_revealed(self) -> Mapping[str, FromServer]:
        liars: set[str] = set()
        masks = [Mask(self._own_mask(name, liars), -1) for name in sorted(self._survivors)]
        gone = sorted(self._sharing - self._survivors)
        for name in gone:
            masks += self._pair_masks(name, liars)
        apply_masks(self._total, masks)
        survivors = tuple(sorted(self._survivors))
        dropped = tuple(name for name in self.terms.invited if name not in self._survivors)
        self.outcome = Outcome(self._total, survivors, dropped, tuple(sorted(liars)))
        return {}

    def _own_mask(self, name: str, liars: set[str]) -> bytes:
        """The key of the mask that a survivor has put on its own vector."""
        commitment = self._shares[name].commitment
        given = {peer: revealed.seeds for peer, revealed in self._revealed.items()}
        seed = self._recover(name, given, lambda secret: hashlib.sha256(secret).digest() == commitment, liars)
        return derived_key(seed, *own_mask_purpose(self.terms))

    def _pair_masks(self, name: str, liars: set[str]) -> list[Mask]:
        """The masks that survivors have put on for one that dropped out, to be taken off again."""
        public = self._roster.keys[name].mask
        given = {peer: revealed.keys for peer, revealed in self._revealed.items()}
        secret = self._recover(name, given, lambda found: public_bytes(found) == public, liars)
        digest = roster_digest(self._roster)
        return [
            Mask(
                agreed_key(
                    secret, self._roster.keys[peer].mask, *mask_purpose(self.terms, digest, name, peer)
                ),
                -1 if peer < name else 1,
            )
            for peer in sorted(self._survivors)
        ]

    def _recover(
        self,
        name: str,
        given: Mapping[str, Mapping[str, bytes]],
        check: Callable[[bytes], bool],
        liars: set[str],
    ) -> bytes:
        places = {
            self.terms.invited.index(peer) + 1: peer for peer, shares in given.items() if name in shares
        }
        shares = {place: given[peer][name] for place, peer in places.items()}
        try:
            found = shamir.recover(shares, self.terms.threshold, check)
        except ProtocolError as error:
            raise Refused(
                f"secure aggregation: the masks of {name!r} cannot be taken off ({error}); "
                f"leave {name!r} out and run the round again"
            ) from error
        liars |= {places[place] for place in found.wrong}
        return found.secret

    def _forget(self) -> None:
        self.expects, self.waiting = None, frozenset()
        self._total = np.zeros(0, self._total.dtype)
        self._shares, self._revealed, self._agreements = {}, {}, {}

    class _Phase(NamedTuple):
        take: Callable[[SecureServer, str, Any], None]
        close: Callable[[SecureServer], Mapping[str, FromServer]]
        then: type[FromClient] | None

    _PHASES: ClassVar[dict[type[Any], _Phase]] = {
        Keys: _Phase(_take_keys, _close_keys, Shares),
        Shares: _Phase(_take_shares, _close_shares, Masked),
        Masked: _Phase(_take_masked, _close_masked, Agreement),
        Agreement: _Phase(_take_agreement, _close_agreement, Revealed),
        Revealed: _Phase(_take_revealed, _close_revealed, None),
    }


def _wrong(name: str, why: str) -> ProtocolError:
    return ProtocolError(f"secure aggregation: client {name!r} {why}")
