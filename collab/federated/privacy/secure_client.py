"""A client's part in a secure sum (Bonawitz et al., CCS 2017, figure 4, against active servers).  Sans-IO.

    keys -> roster -> shares -> inbox -> masked -> survivors -> agreement -> agreements -> revealed

The client believes the server nothing that identities can prove: keys and the list of
survivors are signed by the clients.  It answers each kind of message once, so that for no
peer it ever gives away both a share of its key and a share of its own mask's seed.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from collab.errors import ProtocolError, Refused
from collab.federated.privacy import shamir
from collab.federated.privacy.masks import (
    KEY_BYTES,
    Mask,
    Ring,
    agreed_key,
    apply_masks,
    derived_key,
    public_bytes,
    seal,
    unseal,
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
    Sign,
    Verify,
    about_keys,
    about_survivors,
    mask_purpose,
    own_mask_purpose,
    roster_digest,
    sealing_purpose,
    signed_keys,
)


class SecureClient:
    """One client in one session.  After any error it says no more, and counts as dropped out."""

    def __init__(
        self,
        name: str,
        terms: Terms,
        vector: Ring,
        *,
        basis: bytes,
        sign: Sign,
        verify: Verify,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Take the input.

        Args:
            name: Of this client, one of the invited.
            terms: As the server has sent them.  The caller refuses a session that it knows already.
            vector: What to add, encoded by `fixed_point.encode` with the encoding of the terms.
            basis: What the client itself finds for `Terms.basis`.
            sign: By this client's identity.
            verify: Others' signatures.
            random: Bytes that nobody can guess; tests give their own.

        Raises `ConfigError` for terms that hide nothing, `Refused` if this client is not invited or
        the basis is another.
        """
        check_terms(terms)
        if name not in terms.invited:
            raise Refused(f"secure aggregation: {name!r} is not invited to session {terms.session!r}")
        if basis != terms.basis:
            raise Refused(
                f"secure aggregation: session {terms.session!r} is about other weights or orders than this "
                "client was given"
            )
        if vector.shape != (terms.length,) or vector.dtype != terms.encoding.type:
            raise ValueError("the vector has another length or type than the terms say")
        self.name, self.terms = name, terms
        self.expects: type[FromServer] | None = None
        """The kind of message that is due; none before `start` and after the end."""
        self._vector: Ring | None = vector
        self._sign, self._verify, self._random = sign, verify, random
        # Before anything is sent, so that a session without randomness never starts.
        self._cipher, self._mask, self._seed = (random(KEY_BYTES) for _ in range(3))
        self._roster = Roster({})
        self._roster_digest = b""
        self._sharing: frozenset[str] = frozenset()
        self._survivors: frozenset[str] = frozenset()
        self._own_seed_share = b""
        self._shares: dict[str, bytes] = {}
        """Of each peer: share of its key, then share of its seed."""

    def start(self) -> Keys:
        """What the client says first; once."""
        if self.expects is not None or self._vector is None:
            raise ValueError("a session starts once")
        cipher, mask = public_bytes(self._cipher), public_bytes(self._mask)
        self._own = Keys(cipher, mask, self._sign(about_keys(self.terms, self.name, cipher, mask)))
        self.expects = Roster
        return self._own

    def answer(self, message: FromServer) -> FromClient:
        """What the client says to a message of the server.

        Raises `ProtocolError` or `Refused` for what an honest server would not send; the session
        is then over on this side.
        """
        try:
            if self.expects is None or not isinstance(message, self.expects):
                due = "none" if self.expects is None else self.expects.__name__.lower()
                self._refuse(f"{type(message).__name__.lower()} came, due is {due}")
            act, self.expects = self._STEPS[type(message)]
            reply: FromClient = act(self, message)
        except Exception:
            self._forget()
            raise
        if self.expects is None:
            self._forget()
        return reply

    def _share(self, roster: Roster) -> Shares:
        """Check everybody's keys, and share the two secrets."""
        names = self._enough(roster.keys, self.terms.invited, "the roster")
        if roster.keys.get(self.name) != self._own:
            self._refuse("the roster has other keys for this client than it sent")
        if len({key for keys in roster.keys.values() for key in (keys.cipher, keys.mask)}) < 2 * len(names):
            self._refuse("the roster has a key twice")
        for name in names - {self.name}:
            if not signed_keys(self.terms, name, roster.keys[name], self._verify):
                self._refuse(f"the keys of {name!r} are not signed by it")
        self._roster, self._roster_digest = roster, roster_digest(roster)
        places = {name: self.terms.invited.index(name) + 1 for name in names}
        of_key, of_seed = (
            shamir.split(secret, self.terms.threshold, tuple(places.values()), self._random)
            for secret in (self._mask, self._seed)
        )
        self._own_seed_share = of_seed[places[self.name]]
        return Shares(
            {
                name: seal(
                    self._sealing_key(name, self.name, name),
                    of_key[places[name]] + of_seed[places[name]],
                    self._roster_digest,
                )
                for name in names - {self.name}
            },
            hashlib.sha256(self._seed).digest(),
        )

    def _mask_vector(self, inbox: Inbox) -> Masked:
        """Open what others have shared, and hide the vector."""
        if self.name in inbox.sealed:
            self._refuse("the inbox holds shares from this client itself")
        self._sharing = self._enough({self.name, *inbox.sealed}, self._roster.keys, "the inbox")
        for name, sealed in inbox.sealed.items():
            try:
                key = self._sealing_key(name, name, self.name)
                self._shares[name] = unseal(key, sealed, self._roster_digest)
            except ProtocolError:
                # Somebody lies, and who cannot be told here: others may restore its secrets.
                continue
        masks = [Mask(derived_key(self._seed, *own_mask_purpose(self.terms)), 1)]
        for name in sorted(inbox.sealed):
            purpose = mask_purpose(self.terms, self._roster_digest, self.name, name)
            key = agreed_key(self._mask, self._roster.keys[name].mask, *purpose)
            masks.append(Mask(key, 1 if self.name < name else -1))
        assert self._vector is not None
        masked = self._vector.copy()
        apply_masks(masked, masks)
        self._vector = None
        return Masked(masked.astype(masked.dtype.newbyteorder("<"), copy=False).tobytes())

    def _agree(self, survivors: Survivors) -> Agreement:
        """Sign who is in the sum."""
        if len(set(survivors.names)) < len(survivors.names):
            self._refuse("the list of survivors has a name twice")
        self._survivors = self._enough(survivors.names, self._sharing, "the list of survivors")
        return Agreement(self._sign(self._statement()))

    def _reveal(self, agreements: Agreements) -> Revealed:
        """Give away of each peer one kind of share, by what enough survivors have signed."""
        signed = self._enough(agreements.signatures, self._survivors, "the agreements", with_self=False)
        statement = self._statement()
        for name in signed - {self.name}:
            if not self._verify(name, statement, agreements.signatures[name]):
                self._refuse(f"{name!r} has not signed the same roster and survivors")
        size = shamir.SHARE_BYTES
        seeds = {name: self._shares[name][size:] for name in self._survivors & self._shares.keys()}
        gone = (self._sharing - self._survivors) & self._shares.keys()
        return Revealed(
            {self.name: self._own_seed_share, **seeds}, {name: self._shares[name][:size] for name in gone}
        )

    def _enough(self, names: Any, known: Any, what: str, *, with_self: bool = True) -> frozenset[str]:
        found = frozenset(names)
        if strangers := found - frozenset(known):
            self._refuse(f"{what} names {min(strangers)!r}, who was not there before")
        if with_self and self.name not in found:
            self._refuse(f"{what} leaves this client out")
        if len(found) < self.terms.threshold:
            raise Refused(
                f"secure aggregation: {what} names {len(found)} clients, fewer than the threshold "
                f"{self.terms.threshold}; this client leaves"
            )
        return found

    def _statement(self) -> bytes:
        return about_survivors(self.terms, self._roster, self._sharing, self._survivors)

    def _sealing_key(self, peer: str, sender: str, recipient: str) -> bytes:
        purpose = sealing_purpose(self.terms, self._roster_digest, sender, recipient)
        return agreed_key(self._cipher, self._roster.keys[peer].cipher, *purpose)

    def _refuse(self, why: str) -> NoReturn:
        raise ProtocolError(f"secure aggregation: {why}; this client leaves session {self.terms.session!r}")

    def _forget(self) -> None:
        self.expects = None
        self._vector = None
        self._cipher = self._mask = self._seed = self._own_seed_share = b""
        self._shares = {}

    _STEPS: ClassVar[dict[type[Any], tuple[Callable[[SecureClient, Any], FromClient], Any]]] = {
        Roster: (_share, Inbox),
        Inbox: (_mask_vector, Survivors),
        Survivors: (_agree, Agreements),
        Agreements: (_reveal, None),
    }
    """By what came: what is done, and what is due next."""
