"""Who is there, as all discoveries together say: a table without I/O and with an injected clock.

Sightings of one name and cluster are one peer.  Two processes that claim one name stay two
peers, each marked as a conflict, because their sightings carry different instances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from collab.discovery.base import MAX_ENDPOINTS, Sighting, checked
from collab.errors import ProtocolError

MAX_SIGHTINGS: Final = 2048
"""Sightings kept; beyond them new sources are not taken, so that a flood drives nobody out."""
PREFERENCE: Final = ("inproc", "grpc", "coaps+tcp", "coap+tcp", "coap+udp", "mqtts", "mqtt", "relay")
"""Schemes of endpoints, the best first; direct before brokered, and unknown ones last."""
TRUST: Final = ("static", "memory", "directory", "mdns", "mqtt", "coap")
"""Discoveries by whose word on text counts first where several differ."""


@dataclass(frozen=True)
class Peer:
    """One peer as the discoveries describe it; a hint until a link has proven it."""

    name: str
    """Empty where only addresses are known."""
    cluster: str
    endpoints: tuple[str, ...]
    """United from all sightings, in order of preference."""
    found: tuple[str, ...]
    """Discoveries that see it at present."""
    software: str = ""
    role: str = ""
    instance: str = ""
    conflict: bool = False
    """Whether another process claims the same name in the same cluster."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Tells it apart from all other peers in the roster."""
        return self.cluster, self.name or (self.endpoints[0] if self.endpoints else ""), self.instance


@dataclass(frozen=True)
class Change:
    """What happened to one peer; of ``before`` and ``after`` one may be None."""

    before: Peer | None
    after: Peer | None


@dataclass
class _Held:
    sighting: Sighting
    until_s: float


Subscriber = Callable[[Change], None]


class Roster:
    """Merges sightings into peers.  One thread only; nothing here waits."""

    def __init__(self, now: Callable[[], float], *, instance: str = "", limit: int = MAX_SIGHTINGS) -> None:
        """``now`` gives seconds of a clock that never goes back; ``instance`` is this process's own.

        Sightings of this process itself are not taken.
        """
        self.refused = 0
        """Sightings that were malformed or beyond the limit."""
        self._now = now
        self._own = instance
        self._limit = limit
        self._held: dict[tuple[str, str], _Held] = {}
        self._peers: dict[tuple[str, str, str], Peer] = {}
        self._subscribers: list[Subscriber] = []

    # --- what the discoveries say ----------------------------------------------------

    def report(self, sighting: Sighting) -> None:
        """Take a sighting; what is malformed, beyond the limit or of this process is dropped."""
        try:
            sighting = checked(sighting)
        except ProtocolError:
            self.refused += 1
            return
        key = (sighting.how, sighting.source)
        if self._own and sighting.instance == self._own:
            self.gone(*key)
            return
        if key not in self._held and len(self._held) >= self._limit:
            self._drop_expired()
            if len(self._held) >= self._limit:
                self.refused += 1
                return
        self._supersede(sighting)
        self._held.pop(key, None)
        self._held[key] = _Held(sighting, self._now() + sighting.ttl_s)
        self._recompute()

    def gone(self, how: str, source: str) -> None:
        """A source has said good-bye."""
        if self._held.pop((how, source), None) is not None:
            self._recompute()

    def expire(self) -> float | None:
        """Drop what is over; when the next sighting will be, on the clock given, or None."""
        if self._drop_expired():
            self._recompute()
        return min((held.until_s for held in self._held.values()), default=None)

    # --- who is there ------------------------------------------------------------------

    def peers(self) -> list[Peer]:
        """All peers, by cluster, name and instance; call `expire` first for those that are over."""
        return [self._peers[key] for key in sorted(self._peers)]

    def find(self, name: str) -> list[Peer]:
        """Peers of a name; more than one if clusters or processes share it."""
        return [peer for peer in self.peers() if peer.name == name]

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Have changes told, in order, after they are in the roster; returns what ends it.

        The subscriber must neither raise nor report sightings itself.
        """
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber) if subscriber in self._subscribers else None

    # --- merging -----------------------------------------------------------------------

    def _drop_expired(self) -> bool:
        now = self._now()
        over = [key for key, held in self._held.items() if held.until_s <= now]
        for key in over:
            del self._held[key]
        return bool(over)

    def _supersede(self, new: Sighting) -> None:
        """Forget what a process that has restarted left behind: one place has one owner at a time."""
        if not (new.name and new.instance):
            return
        own = set(new.endpoints)
        for key, held in list(self._held.items()):
            old = held.sighting
            restarted = (
                (old.name, old.cluster) == (new.name, new.cluster)
                and old.instance not in ("", new.instance)
                and not own.isdisjoint(old.endpoints)
            )
            if restarted:
                del self._held[key]

    def _recompute(self) -> None:
        before = self._peers
        self._peers = {peer.key: peer for peer in _merge(held.sighting for held in self._held.values())}
        if not self._subscribers or before == self._peers:
            return
        for key in {**before, **self._peers}:
            change = Change(before.get(key), self._peers.get(key))
            if change.before != change.after:
                for subscriber in tuple(self._subscribers):
                    subscriber(change)


def _merge(sightings: Iterable[Sighting]) -> Iterator[Peer]:
    groups: dict[tuple[str, str], dict[str, list[Sighting]]] = {}
    nameless: list[Sighting] = []
    for sighting in sightings:
        if sighting.name:
            instances = groups.setdefault((sighting.cluster, sighting.name), {})
            instances.setdefault(sighting.instance, []).append(sighting)
        else:
            nameless.append(sighting)
    owners: dict[str, list[Sighting]] = {}
    for instances in groups.values():
        _adopt(instances)
        for group in instances.values():
            for sighting in tuple(group):
                for endpoint in sighting.endpoints:
                    owners.setdefault(endpoint, group)
    for sighting in nameless:
        # An address that somebody gave belongs to whoever advertises it.
        owner = next((owners[e] for e in sighting.endpoints if e in owners), None)
        if owner is None:
            yield _peer([sighting], conflict=False)
        else:
            owner.append(sighting)
    for instances in groups.values():
        for group in instances.values():
            yield _peer(group, conflict=len(instances) > 1)


def _adopt(instances: dict[str, list[Sighting]]) -> None:
    """Sightings that name no process go to the one that shares an endpoint, else to the first."""
    if "" not in instances or len(instances) == 1:
        return
    for sighting in instances.pop(""):
        groups = list(instances.values())
        mine = set(sighting.endpoints)
        sharing = (g for g in groups if any(not mine.isdisjoint(other.endpoints) for other in g))
        next(sharing, groups[0]).append(sighting)


def _peer(group: list[Sighting], *, conflict: bool) -> Peer:
    ordered = sorted(group, key=lambda s: (_rank(TRUST, s.how), s.how, s.source))
    named = next((s for s in ordered if s.name), ordered[0])
    endpoints = dict.fromkeys(endpoint for sighting in ordered for endpoint in sighting.endpoints)
    preferred = sorted(endpoints, key=lambda e: _rank(PREFERENCE, e.partition("://")[0]))
    return Peer(
        name=named.name,
        cluster=named.cluster,
        endpoints=tuple(preferred[:MAX_ENDPOINTS]),
        found=tuple(dict.fromkeys(s.how for s in ordered)),
        software=next((s.software for s in ordered if s.software), ""),
        role=next((s.role for s in ordered if s.role), ""),
        instance=next((s.instance for s in ordered if s.instance), ""),
        conflict=conflict,
    )


def _rank(order: tuple[str, ...], value: str) -> int:
    return order.index(value) if value in order else len(order)
