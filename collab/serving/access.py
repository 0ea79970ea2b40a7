"""Who asks, and what they may do.  No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from collab.errors import Refused
from collab.security.api_keys import ApiKey, whose
from collab.serving.rate import RateLimit
from collab.transport.base import is_loopback

Action = Literal["look", "infer", "operate"]

MAY: Final[Mapping[str, frozenset[Action]]] = {
    "viewer": frozenset({"look"}),
    "inference": frozenset({"look", "infer"}),
    "operator": frozenset({"look", "infer", "operate"}),
}
"""What each role may do."""


class Caller(NamedTuple):
    """Who asks; ``name`` is the key's, or the address where there are none."""

    name: str
    role: str

    def check(self, action: Action) -> None:
        """Raise `Refused` for what the role may not do."""
        if action not in MAY[self.role]:
            need = next(role for role, actions in MAY.items() if action in actions)
            raise Refused(f"the key of {self.name!r} is a {self.role}'s; this needs the role {need}")


@dataclass
class Access:
    """Decides about each request before anything of it is read; its keys may change meanwhile.

    Attributes:
        keys: whose keys are taken; None where none are asked for.
        role: of whoever asks without keys.
        rate: how often each may ask.
        loopback: whether only this machine is served, so that other names for it are a trick.
    """

    keys: Sequence[ApiKey] | None = None
    role: str = "operator"
    rate: RateLimit | None = None
    loopback: bool = True

    def take_keys(self, keys: Sequence[ApiKey]) -> None:
        """Know these keys from now on, and no others."""
        self.keys = keys

    def admit(self, key: str | None, address: str, now_s: float) -> Caller:
        """Who asks; raises `Unauthenticated` or `RateLimited`."""
        if self.keys is None:
            caller = Caller(address, self.role)
        else:
            try:
                found = whose(self.keys, key)
            except Refused:
                # Who guesses is counted by address.
                self._count(address, now_s)
                raise
            caller = Caller(found.name, found.role)
        self._count(caller.name, now_s)
        return caller

    def _count(self, client: str, now_s: float) -> None:
        if self.rate is not None:
            self.rate.take(client, now_s)

    def check_site(self, host: str, origin: str | None, fetch_site: str | None) -> None:
        """Raise `Refused` for what a page of another site made a browser ask.

        That is a foreign ``Origin`` (RFC 6454) or ``Sec-Fetch-Site``, or, on loopback, a ``Host``
        that some other name was made to stand for.
        """
        if fetch_site in ("cross-site", "same-site") or (
            origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        ):
            raise Refused("requests from pages of other sites are not answered")
        if self.loopback and host and not _names_loopback(host):
            raise Refused(f"Host {host[:80]!r}: this server is on loopback; ask it by 127.0.0.1 or localhost")


@lru_cache(maxsize=64)
def _names_loopback(host: str) -> bool:
    return is_loopback(urlsplit(f"//{host}").hostname or "")


def bearer(authorization: str | None, own: str | None) -> str | None:
    """The key of ``Authorization: Bearer KEY`` (RFC 6750), or of ``X-API-Key``."""
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return key.strip()
    return own
