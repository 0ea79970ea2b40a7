"""Who looks and who may act; no I/O, the clock and the random source are passed in.

A browser sends no headers of its own with an event stream, so a key is told once, at signing in,
and a cookie of a session stands for it.  Whatever acts carries the session's token besides, which
a page of another site cannot read (OWASP, synchroniser token).
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from collab.errors import Refused
from collab.transport.base import is_loopback

MAX_SESSIONS: Final = 256
SESSION_S: Final = 12 * 3600.0
"""A session ends so long after it began."""
MAX_TRIES: Final = 20
"""Wrong keys from one address within `TRIES_S`."""
TRIES_S: Final = 60.0
MAX_STREAMS: Final = 64
"""Pages that are told of changes at a time; further ones are asked to come later."""
MAX_BODY: Final = 4_096
BODY_S: Final = 10.0
_MAX_ADDRESSES: Final = 1_024

OPERATOR: Final = "operator"


@dataclass(frozen=True)
class Session:
    """Somebody who has signed in."""

    name: str
    role: str
    token: str
    """What their actions carry."""
    until_s: float

    @property
    def acts(self) -> bool:
        """Whether they may act."""
        return self.role == OPERATOR


Who = Callable[[str], tuple[str, str]]
"""Name and role of whose key it is; raises `Refused` for a key that is not known."""


class Sessions:
    """Sessions by the secret of their cookie; the oldest makes room.

    ``who`` is None where no key is asked for: everybody who reaches the page has ``role`` then.
    ``loopback`` says that only this machine is served, so that another name for it is a trick
    (DNS rebinding).
    """

    def __init__(
        self, who: Who | None, secret: Callable[[], str], *, role: str = OPERATOR, loopback: bool = True
    ) -> None:
        self._who = who
        self._secret = secret
        self._role = role
        self._loopback = loopback
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._tries: OrderedDict[str, tuple[float, int]] = OrderedDict()

    @property
    def asks_for_a_key(self) -> bool:
        """Whether people have to sign in."""
        return self._who is not None

    def take_keys(self, who: Who) -> None:
        """Ask for these keys from now on; who signed in by the former ones signs in again."""
        self._who = who
        self._sessions.clear()

    def open(self, address: str, now_s: float) -> tuple[str, Session]:
        """A session for who needs no key: its cookie's secret, and what it is."""
        if self._who is not None:
            raise Refused("give a key")
        return self._begin(address, self._role, now_s)

    def sign_in(self, key: str, address: str, now_s: float) -> tuple[str, Session]:
        """A session for a key; raises `Refused` for a wrong one, or too many of them."""
        if self._who is None:
            return self.open(address, now_s)
        since_s, count = self._tries.get(address, (now_s, 0))
        if now_s - since_s >= TRIES_S:
            since_s, count = now_s, 0
        if count >= MAX_TRIES:
            raise Refused(f"too many wrong keys from {address}; wait {TRIES_S:.0f} s")
        try:
            name, role = self._who(key)
        except Refused:
            self._tries[address] = (since_s, count + 1)
            if len(self._tries) > _MAX_ADDRESSES:
                self._tries.popitem(last=False)
            raise
        return self._begin(name, role, now_s)

    def _begin(self, name: str, role: str, now_s: float) -> tuple[str, Session]:
        if len(self._sessions) >= MAX_SESSIONS:
            self._sessions.popitem(last=False)
        secret = self._secret()
        session = Session(name, role, self._secret(), now_s + SESSION_S)
        self._sessions[secret] = session
        return secret, session

    def of(self, secret: str | None, now_s: float) -> Session | None:
        """Whose cookie it is; None if nobody's, or no longer."""
        session = None if secret is None else self._sessions.get(secret)
        if session is None or now_s >= session.until_s:
            return None
        return session

    def sign_out(self, secret: str | None) -> None:
        """End a session."""
        if secret is not None:
            self._sessions.pop(secret, None)

    def check_site(self, host: str, origin: str | None, fetch_site: str | None) -> None:
        """Raise `Refused` for what a page of another site made a browser ask.

        That is a foreign ``Origin`` (RFC 6454) or ``Sec-Fetch-Site``, or on loopback a foreign ``Host``.
        """
        if self._loopback and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise Refused(f"Host {host[:80]!r}: this page is on loopback; ask for 127.0.0.1 or localhost")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if foreign or fetch_site in ("cross-site", "same-site"):
            raise Refused("requests from pages of other sites are not answered")

    def check_action(self, session: Session, token: str, origin: str | None) -> None:
        """Raise `Refused` unless a session may act, and it was its own page that asked.

        Browsers send ``Origin`` with every POST, so one without is not from the page.
        """
        if origin is None:
            raise Refused("Origin: missing; actions are asked for by the page alone")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), session.token.encode()):
            raise Refused("X-Collab-Token: it is not this session's; load the page again")
        if not session.acts:
            raise Refused(f"{session.name!r} is a {session.role}; this needs the role {OPERATOR}")
