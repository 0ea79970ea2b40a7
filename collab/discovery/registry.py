"""What a CoAP resource directory remembers (RFC 9176): registrations with lifetimes; no I/O, no clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from collab.discovery.records import MAX_LINK_BYTES, Link, quoted
from collab.errors import InputError, LimitExceeded

MAX_REGISTRATIONS: Final = 1024
MAX_LINKS: Final = 64
"""Links of one registration."""
MAX_TEXT: Final = 255
"""Characters of a target and of each attribute."""
MAX_ATTRIBUTES: Final = 16
LIFETIME_S: Final = (1, 86_400)
"""Least and most; RFC 9176 5 allows up to 4294967295, which outlives every device."""
DEFAULT_LIFETIME_S: Final = 90_000
"""RFC 9176 5; cut to the most of `LIFETIME_S`."""
_KEYS: Final = frozenset({"ep", "d", "lt", "base"})
_LISTS: Final = frozenset({"rt", "if", "rel"})
"""Attributes that hold several values, with spaces between them (RFC 6690 3)."""


@dataclass
class _Registration:
    number: int
    ep: str
    d: str
    base: str
    attributes: dict[str, str]
    links: tuple[Link, ...]
    lifetime_s: int
    until_s: float

    @property
    def own(self) -> dict[str, str]:
        """Attributes by which the endpoint itself is found."""
        return {"ep": self.ep, "d": self.d, **self.attributes}

    def absolute(self) -> Iterator[Link]:
        for target, attributes in self.links:
            yield (f"{self.base}{target}" if target.startswith("/") else target), attributes


class Registry:
    """Registrations by number, and by endpoint and sector; what is over is not found any more."""

    def __init__(self, now: Callable[[], float], limit: int = MAX_REGISTRATIONS) -> None:
        """``now`` gives seconds of a clock that never goes back."""
        self._now = now
        self._limit = limit
        self._numbers = itertools.count(1)
        self._held: dict[int, _Registration] = {}

    def register(self, query: Mapping[str, str], links: Iterable[Link], origin: str) -> int:
        """Take a registration, in place of an earlier one of the same endpoint; its number.

        ``origin`` is the base URI where none is given.  Raises `InputError` for what RFC 9176 5
        forbids and `LimitExceeded` when there are too many.
        """
        ep, sector = _text("ep", query.get("ep", "")), _text("d", query.get("d", ""))
        if not ep:
            raise InputError("registration: ep is missing")
        attributes = {
            _text("name", key): _text(key, value) for key, value in query.items() if key not in _KEYS
        }
        kept = tuple((_text("link", target), dict(said)) for target, said in links)
        sizes = (len(attributes), *(len(said) for _, said in kept))
        if len(kept) > MAX_LINKS or max(sizes) > MAX_ATTRIBUTES:
            raise LimitExceeded(f"registration: over {MAX_LINKS} links or {MAX_ATTRIBUTES} attributes")
        for _, said in kept:
            for key, value in said.items():
                _text("attribute", key)
                _text(key, value)
        lifetime_s = _lifetime(query, DEFAULT_LIFETIME_S)
        self._drop_expired()
        same = next((r.number for r in self._held.values() if (r.ep, r.d) == (ep, sector)), None)
        if same is None and len(self._held) >= self._limit:
            raise LimitExceeded(f"registration: this directory holds {self._limit} already")
        number = next(self._numbers) if same is None else same
        base = _text("base", query.get("base", origin)).rstrip("/")
        until_s = self._now() + lifetime_s
        self._held[number] = _Registration(number, ep, sector, base, attributes, kept, lifetime_s, until_s)
        return number

    def refresh(self, number: int, query: Mapping[str, str]) -> bool:
        """Let a registration last for another lifetime; whether there is one.  Raises `InputError`."""
        self._drop_expired()
        held = self._held.get(number)
        if held is None:
            return False
        held.lifetime_s = _lifetime(query, held.lifetime_s)
        held.until_s = self._now() + held.lifetime_s
        return True

    def remove(self, number: int) -> bool:
        """Forget a registration; whether there was one."""
        return self._held.pop(number, None) is not None

    def resources(self, query: Mapping[str, str]) -> str:
        """Links that a lookup finds (RFC 9176 6.1), as link format; those that do not fit are left out."""
        self._drop_expired()
        found = (
            link
            for held in self._held.values()
            for link in held.absolute()
            if _matches(query, {**held.own, **link[1]}, link[0])
        )
        return _format(_page(found, query))

    def endpoints(self, query: Mapping[str, str]) -> str:
        """Registrations that a lookup finds (RFC 9176 6.4), as link format."""
        self._drop_expired()
        found: list[Link] = []
        for held in self._held.values():
            href = f"/rd/{held.number}"
            links = ({**held.own, **said} for _, said in held.absolute())
            if any(_matches(query, said, href) for said in (held.own, *links)):
                found.append((href, {**held.own, "base": held.base, "rt": "core.rd-ep"}))
        return _format(_page(iter(found), query))

    def _drop_expired(self) -> None:
        now = self._now()
        for number in [number for number, held in self._held.items() if held.until_s <= now]:
            del self._held[number]


def _text(what: str, value: str) -> str:
    if len(value) > MAX_TEXT or not value.isprintable() or ">" in value:
        raise InputError(f"registration: {what} is over {MAX_TEXT} characters or not printable")
    return value


def _lifetime(query: Mapping[str, str], default: int) -> int:
    text = query.get("lt", str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise InputError("registration: lt is no number of seconds")
    least, most = LIFETIME_S
    return min(max(int(text), least), most)


def _matches(query: Mapping[str, str], said: Mapping[str, str], href: str) -> bool:
    """Whether a link has all that is asked for; a value may end in ``*`` (RFC 6690 4.1)."""
    for key, wanted in query.items():
        if key in ("page", "count"):
            continue
        value = href if key == "href" else said.get(key)
        values = [] if value is None else value.split() if key in _LISTS else [value]
        if wanted.endswith("*"):
            if not any(each.startswith(wanted[:-1]) for each in values):
                return False
        elif wanted not in values:
            return False
    return True


def _page(found: Iterator[Link], query: Mapping[str, str]) -> Iterator[Link]:
    """The part of a result that ``page`` and ``count`` name (RFC 9176 6.2); raises `InputError`."""
    texts = query.get("page", "0"), query.get("count", "0")
    if not all(text.isascii() and text.isdigit() and len(text) < 7 for text in texts):
        raise InputError("lookup: page and count are numbers")
    page, count = map(int, texts)
    return itertools.islice(found, page * count, (page + 1) * count) if count else found


def _format(links: Iterator[Link]) -> str:
    parts: list[str] = []
    room = MAX_LINK_BYTES
    for target, said in links:
        part = f"<{target}>" + "".join(f";{key}={quoted(value)}" for key, value in said.items() if value)
        room -= len(part.encode()) + 1
        if room < 0:
            break
        parts.append(part)
    return ",".join(parts)
