"""One-time invitations to enrol: what a token says, and when it counts.

A token is ``collab1-`` and base64url (RFC 4648 5) of JSON.  It carries the SHA-256 of the
authority's certificate, so that the device knows whom it may tell the secret, and the
secret, of which the authority keeps only the hash.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from collab.core.decoding import prepare
from collab.core.identity import Principal, check_cluster, check_role
from collab.core.ids import NodeName, check_name
from collab.errors import InputError, LimitExceeded, Refused
from collab.security import records
from collab.security.authority import DEFAULT_DAYS, MAX_DAYS, Authority
from collab.security.certificates import fingerprint
from collab.security.identity import Clock, utc_now
from collab.security.records import Invite

PREFIX: Final = "collab1-"
SECRET_BYTES: Final = 32
MAX_TOKEN_CHARACTERS: Final = 2048
MAX_OPEN: Final = 1000
"""Invitations of one authority that are open at a time."""
LONGEST: Final = timedelta(days=7)
_WRONG_PER_HOST: Final = 5
_WINDOW_S: Final = 60.0
_MAX_HOSTS: Final = 4096


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What the device that joins has to know."""

    cluster: str
    name: str
    role: str
    address: str
    """HOST:PORT of the server of enrolments."""
    expires: datetime
    secret: bytes
    authority_sha256: bytes

    @property
    def principal(self) -> Principal:
        """Who the device will be."""
        return Principal(NodeName(self.name), self.role, self.cluster)

    def encode(self) -> str:
        """As text for a command line; whoever has it can enrol in this name."""
        return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(self)).decode("ascii").rstrip("=")

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Token({self.principal}, {self.address}, {self.expires})"


def parse_token(text: str, now: datetime | None = None) -> Token:
    """Read a token.  Raises `InputError` if it is none or incomplete, `Refused` if it has expired.

    Its expiry is checked only for the sake of a quick answer; the authority's records decide.
    """
    text = text.strip()
    if not text.startswith(PREFIX) or len(text) > MAX_TOKEN_CHARACTERS:
        raise InputError(f"token: is none; copy all of what 'collab cluster invite' printed ({PREFIX}…)")
    body = text[len(PREFIX) :]
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        token = msgspec.json.decode(data, type=Token)
        if len(token.secret) != SECRET_BYTES or len(token.authority_sha256) != hashlib.sha256().digest_size:
            raise ValueError("wrong length")
        if token.expires.tzinfo is None:
            raise ValueError("no time zone")
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise InputError("token: is incomplete or altered; copy all of it") from error
    check_cluster(token.cluster, "token: cluster")
    check_name(token.name, "token: name")
    check_role(token.role, "token: role")
    if now is not None and now > token.expires:
        raise Refused(
            f"token: expired on {token.expires:%Y-%m-%d %H:%M:%SZ} (here it is {now:%Y-%m-%d %H:%M:%SZ}); "
            "ask for another, or set the clocks right"
        )
    return token


class Invites:
    """An authority's invitations.  Methods block on the disk."""

    def __init__(self, authority: Authority, clock: Clock = utc_now) -> None:
        self._authority = authority
        self._clock = clock

    def create(
        self, name: str, role: str, address: str, valid_for: timedelta, days: int = DEFAULT_DAYS
    ) -> Token:
        """Invite somebody; an open invitation in the same name is void from then on.

        Raises `Refused` if the name is taken, `InputError` for a value that cannot be.
        """
        check_name(name, "name")
        check_role(role, "role")
        if not timedelta(0) < valid_for <= LONGEST:
            raise InputError(f"expires: give more than nothing and at most {LONGEST.days} days")
        if not 1 <= days <= MAX_DAYS:
            raise InputError(f"days: {days}; give 1 to {MAX_DAYS}")
        secret, now = secrets.token_bytes(SECRET_BYTES), self._clock()
        expires = (now + valid_for).replace(microsecond=0)
        with records.changing(self._authority.directory, now) as held:
            self._authority.check_free(held, name)
            for other in held.invites:
                if other.open(now) and other.name.lower() == name.lower():
                    other.withdrawn = True
            if sum(invite.open(now) for invite in held.invites) >= MAX_OPEN:
                raise LimitExceeded(f"invitations: {MAX_OPEN} are open; wait until some have expired")
            held.invites.append(
                Invite(secret_sha256=_hash(secret), name=name, role=role, expires=expires, days=days)
            )
        return Token(
            cluster=self._authority.cluster,
            name=name,
            role=role,
            address=address,
            expires=expires,
            secret=secret,
            authority_sha256=fingerprint(self._authority.certificate),
        )

    def withdraw(self, token: Token) -> None:
        """Make a token void."""
        with records.changing(self._authority.directory, self._clock()) as held:
            for invite in held.invites:
                if invite.secret_sha256 == _hash(token.secret):
                    invite.withdrawn = True

    def redeem(self, secret: bytes, request: bytes) -> tuple[Principal, bytes]:
        """Whom a secret invites, and the certificate (PEM) for the key of a signing request.

        It works once: looking, marking as used and issuing are one change of the records.
        Raises `WrongSecret` or another `Refused`.
        """
        now = self._clock()
        with records.changing(self._authority.directory, now) as held:
            digest = _hash(secret)
            # Every entry is compared, each in constant time.
            matching = [i for i in held.invites if hmac.compare_digest(i.secret_sha256, digest)]
            if not matching:
                raise WrongSecret("the token is unknown here; ask for another")
            invite = matching[0]
            if invite.used is not None:
                raise WrongSecret(f"the token for {invite.name!r} was used before; ask for another")
            if invite.withdrawn:
                raise WrongSecret(f"the token for {invite.name!r} was withdrawn; ask for another")
            if not invite.open(now):
                raise WrongSecret(f"the token for {invite.name!r} has expired; ask for another")
            principal = Principal(NodeName(invite.name), invite.role, held.cluster)
            certificate = self._authority.issue_in(held, request, principal, invite.days)
            invite.used = now
        return principal, certificate


class WrongSecret(Refused):
    """A token that does not count, or not any more."""

    code = Refused.code


class Attempts:
    """Counts wrong secrets by host, and says who has to wait.  No clock: times are passed in."""

    def __init__(self, most: int = _WRONG_PER_HOST, window_s: float = _WINDOW_S) -> None:
        self._most = most
        self._window_s = window_s
        self._wrong: dict[str, list[float]] = {}

    def check(self, host: str, now_s: float) -> None:
        """Raise `LimitExceeded` if a host has given too many wrong secrets lately."""
        if len(self._recent(host, now_s)) >= self._most:
            raise LimitExceeded(f"{self._most} wrong tokens came from {host}; wait {self._window_s:.0f} s")

    def wrong(self, host: str, now_s: float) -> None:
        """Count a wrong secret; hosts that were quiet longest are forgotten first."""
        recent = self._recent(host, now_s)
        self._wrong.pop(host, None)
        if len(self._wrong) >= _MAX_HOSTS:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[host] = [*recent, now_s][-self._most :]

    def _recent(self, host: str, now_s: float) -> list[float]:
        return [at for at in self._wrong.get(host, ()) if now_s - at < self._window_s]


Enrolled = Callable[[Principal], None]
"""Told who has enrolled."""


def _hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


prepare(Token)
