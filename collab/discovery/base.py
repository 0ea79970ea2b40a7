"""What a discovery is: it tells others where this node is, and reports where others are.

What is reported is a hint that anybody on the network may have forged: names, endpoints
and clusters come from strangers.  Who a peer is, the link proves when it is dialled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import msgspec

from collab.core.identity import ROLES, check_cluster
from collab.core.ids import check_name
from collab.errors import InputError, ProtocolError

MAX_ENDPOINTS: Final = 16
"""Endpoints of one sighting; a hello carries no more."""
MAX_ENDPOINT: Final = 240
"""Characters of an endpoint; with its key it fits a TXT string (RFC 6763 6.1: 255 bytes)."""
MAX_SOFTWARE: Final = 64
MAX_INSTANCE: Final = 32
MAX_SOURCE: Final = 300
TTL_S: Final = (1.0, 3600.0)
"""Least and most seconds that a sighting may claim to last."""


class Sighting(msgspec.Struct, frozen=True):
    """What a peer advertises of itself, or an address that somebody gave."""

    name: str = ""
    """Empty where only an address is known."""
    endpoints: tuple[str, ...] = ()
    """Contact addresses, the preferred first."""
    cluster: str = ""
    """Empty for a node without certificates."""
    software: str = ""
    role: str = ""
    how: str = ""
    """The discovery that saw it: ``static``, ``mdns``, ``mqtt``, ``coap``, ``directory``, ``memory``."""
    ttl_s: float = 60.0
    """Seconds after which it counts no more, unless it is reported again."""
    instance: str = ""
    """Random text of one process, the same in all discoveries: tells two of one name apart."""
    source: str = ""
    """Names the record within its discovery; a later one of the same source replaces it."""


Report = Callable[[Sighting], None]
"""Takes a sighting that `checked` let pass; must not block, must not raise."""
Gone = Callable[[str, str], None]
"""Takes ``how`` and ``source`` of a sighting that was withdrawn; must not block, must not raise."""


class Discovery(ABC):
    """One way of finding and being found.

    An instance is started once and stopped once.  The network's state is no error: while it
    cannot work, `trouble` says why, and it keeps trying.
    """

    how: str
    """Its name in `Sighting.how`."""
    trouble: str = ""
    """Why it cannot work at present, with what to do; empty while it works."""

    @abstractmethod
    async def start(self, me: Sighting | None, report: Report, gone: Gone) -> None:
        """Advertise ``me``, if given, and report what others advertise, until `stop`.

        Returns once it is under way, without waiting for answers and within a second or
        two even where the network is silent.  ``report`` and ``gone`` are called on this
        event loop, for one source in the order of what happened; sightings may be lost,
        repeated, late, and may be of ``me``.  A sighting is reported again, or at least
        once more, before its ``ttl_s`` is over if its source still advertises it.
        At most `MAX_ENDPOINTS` endpoints are advertised; what does not fit is left out.

        Raises `UsageError` for settings that can never work.  If it raises or is
        cancelled, `stop` must still be called.
        """

    @abstractmethod
    async def update(self, me: Sighting) -> None:
        """Advertise something else from now on, under the same name; not before `start`.

        Returns when it is handed over, not when others know; of several updates in quick
        succession only the last need be seen.  Never raises for the network's state.  A
        cancelled update may or may not have taken place.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Say good-bye where the network lets it, and end everything; nothing is reported afterwards.

        Takes a bounded time, about two seconds at most.  Safe to repeat and before `start`;
        never raises.  A cancelled stop leaves nothing running, but may say no good-bye.
        """


def checked(sighting: Sighting) -> Sighting:
    """The sighting with all its bounds kept; raises `ProtocolError` for what names nobody.

    Unusable endpoints are left out: one bad address must not hide the good ones.
    """
    try:
        if sighting.name:
            check_name(sighting.name, "discovery: name")
        if sighting.cluster:
            check_cluster(sighting.cluster, "discovery: cluster")
    except InputError as error:
        raise ProtocolError(str(error)) from error
    endpoints = tuple(dict.fromkeys(e for e in sighting.endpoints[: 4 * MAX_ENDPOINTS] if is_endpoint(e)))
    if not endpoints and not sighting.name:
        raise ProtocolError("discovery: neither a name nor an address")
    least, most = TTL_S
    return msgspec.structs.replace(
        sighting,
        endpoints=endpoints[:MAX_ENDPOINTS],
        role=sighting.role if sighting.role in ROLES else "",
        software=printable(sighting.software, MAX_SOFTWARE),
        instance=printable(sighting.instance, MAX_INSTANCE),
        source=sighting.source[:MAX_SOURCE] or sighting.name or endpoints[0],
        # A comparison with what is no number is false.
        ttl_s=min(max(sighting.ttl_s, least), most) if sighting.ttl_s >= 0 else least,
    )


def is_endpoint(text: str) -> bool:
    """Whether a text has the form of an address, ``scheme://place``, fit to be shown."""
    scheme, separator, place = text.partition("://")
    return (
        len(text) <= MAX_ENDPOINT
        and bool(separator and place)
        and text.isascii()
        and text.isprintable()
        and " " not in text
        and scheme.replace("+", "").replace("-", "").isalnum()
    )


def printable(text: str, limit: int) -> str:
    """The first ``limit`` characters of a stranger's text, without what moves a terminal."""
    return "".join(c for c in text[:limit] if c.isascii() and c.isprintable())
