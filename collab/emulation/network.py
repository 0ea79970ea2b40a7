"""Who is connected with whom: hosts, places between them, links, and the way that each packet takes.  Pure.

A network is a graph of hosts and of *junctions* (base stations, switches, core sites).
Packets take the way with the fewest links, and hosts hand nothing on.  A link that several
ways have in common is one bottleneck for all of them.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from itertools import combinations
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from collab.core.plan import Frozen
from collab.emulation.profile import LinkProfile
from collab.errors import ConfigError

MAX_PLACES: Final = 10_000
"""Hosts of one network; the emulator takes fewer."""
MAX_LINKS: Final = 50_000
MAX_NAME: Final = 63
MAX_MBIT_S: Final = 1e6


class Leg(NamedTuple):
    """One direction of a link, as a part of a way."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} → {self.target}"


class Cell(Frozen, frozen=True, kw_only=True):
    """A rate that the links of several devices share, in place of their profiles' rates."""

    up_mbit_s: float
    down_mbit_s: float
    share: Literal["fair", "fifo"] = "fair"
    """Equal parts for all that send, or first come, first served."""


class NetworkLink(Frozen, frozen=True):
    """A link between two places."""

    one: str
    """Its near end, from which the profile's ``up`` leads: the device of an access link."""
    other: str
    profile: LinkProfile
    cell: str | None = None
    """The cell whose rate it has a share of."""

    @property
    def name(self) -> str:
        """As people and random sources are told."""
        return f"{self.one} – {self.other}"


class Network(Frozen, frozen=True):
    """Hosts, junctions and links; wrong ones raise ConfigError when it is made."""

    hosts: tuple[str, ...]
    links: tuple[NetworkLink, ...]
    junctions: tuple[str, ...] = ()
    behind_nat: frozenset[str] = frozenset()
    """Hosts whose addresses nobody can reach unless they have sent something there."""
    cells: dict[str, Cell] = {}  # noqa: RUF012 - msgspec copies it

    def __post_init__(self) -> None:
        _check_names("hosts", self.hosts, ())
        _check_names("junctions", self.junctions, self.hosts)
        if not 1 <= len(self.hosts) <= MAX_PLACES:
            raise ConfigError(f"hosts: there are {len(self.hosts)}; give 1 to {MAX_PLACES}")
        if len(self.links) > MAX_LINKS:
            raise ConfigError(f"links: there are {len(self.links)}; {MAX_LINKS} at most")
        self._check_links()
        for name in sorted(self.behind_nat):
            _known(f"nat: {name!r}", name, self.hosts)
        for name, cell in self.cells.items():
            for field in ("up_mbit_s", "down_mbit_s"):
                if not 0 < getattr(cell, field) <= MAX_MBIT_S:
                    raise ConfigError(f"cells.{name}.{field}: give a number above 0, {MAX_MBIT_S:g} at most")
        self._check_reach()

    def _check_links(self) -> None:
        seen: set[frozenset[str]] = set()
        for index, link in enumerate(self.links):
            for name in (link.one, link.other):
                _known(f"links[{index}]: {name!r}", name, (*self.hosts, *self.junctions))
            if link.cell is not None:
                _known(f"links[{index}].cell: {link.cell!r}", link.cell, tuple(self.cells))
            if link.one == link.other:
                raise ConfigError(
                    f"links[{index}]: joins {link.one!r} with itself; a host reaches itself without"
                )
            pair = frozenset((link.one, link.other))
            if pair in seen:
                raise ConfigError(
                    f"links[{index}]: a second link of {link.one!r} and {link.other!r}; "
                    "give one, or put a junction on one of the ways"
                )
            seen.add(pair)

    def _check_reach(self) -> None:
        if len(self.hosts) == 1:
            return
        neighbours = self._neighbours()
        for host in self.hosts:
            if not neighbours[host]:
                raise ConfigError(f"hosts: {host!r} has no link; join it to a junction or another host")

    def _neighbours(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {name: [] for name in (*self.hosts, *self.junctions)}
        for link in self.links:
            found[link.one].append(link.other)
            found[link.other].append(link.one)
        return found

    def legs(self) -> tuple[Leg, ...]:
        """Both of every link, its ``up`` first."""
        ends = ((link.one, link.other) for link in self.links)
        return tuple(leg for one, other in ends for leg in (Leg(one, other), Leg(other, one)))

    def link(self, one: str, other: str) -> NetworkLink:
        """The link of two places, in whichever order; raises ConfigError if there is none."""
        for link in self.links:
            if {link.one, link.other} == {one, other}:
                return link
        raise ConfigError(f"link: {one!r} and {other!r} have none; name two places that a link joins")

    def changed(self, one: str, other: str, profile: LinkProfile) -> Network:
        """The same network with another profile on one link; raises ConfigError if there is none."""
        old = self.link(one, other)
        new = replace(old, profile=profile)
        return replace(self, links=tuple(new if link is old else link for link in self.links))

    def ways(self) -> dict[tuple[str, str], tuple[Leg, ...]]:
        """The directions that a packet passes, for each ordered pair of hosts that can meet.

        The fewest links; of as short ones that whose links stand first.
        """
        neighbours, hosts = self._neighbours(), set(self.hosts)
        found: dict[tuple[str, str], tuple[Leg, ...]] = {}
        for start in self.hosts:
            reached: dict[str, tuple[Leg, ...]] = {start: ()}
            todo = deque([start])
            while todo:
                place = todo.popleft()
                if place in hosts and place != start:
                    continue
                for neighbour in neighbours[place]:
                    if neighbour not in reached:
                        reached[neighbour] = (*reached[place], Leg(place, neighbour))
                        todo.append(neighbour)
            found |= {
                (start, host): reached[host] for host in self.hosts if host in reached and host != start
            }
        return found

    def check_reachable(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Raise ConfigError naming the first of the pairs that has no way."""
        ways = self.ways()
        for one, other in pairs:
            for name in (one, other):
                _known(repr(name), name, self.hosts)
            if one != other and (one, other) not in ways:
                raise ConfigError(
                    f"links: {one!r} cannot reach {other!r}; join them by a link or a junction "
                    "(hosts hand nothing on)"
                )

    def address(self, host: str) -> IPv4Address:
        """The address that a host itself has; of one behind a NAT only it can be spoken to from there."""
        number = self._number(host)
        return IPv4Address("10.78.0.0") + number if host in self.behind_nat else self.outside(host)

    def outside(self, host: str) -> IPv4Address:
        """The address that others see: a NAT's, where one is in front."""
        return IPv4Address("10.77.0.0") + self._number(host)

    def _number(self, host: str) -> int:
        _known(repr(host), host, self.hosts)
        return self.hosts.index(host) + 1


def _check_names(field: str, names: Sequence[str], taken: Iterable[str]) -> None:
    seen = set(taken)
    for name in names:
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise ConfigError(f"{field}: {name!r} is no name; use 1 to {MAX_NAME} printable characters")
        if name in seen:
            raise ConfigError(f"{field}: {name!r} is listed twice; give every place a name of its own")
        seen.add(name)


def _known(field: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        close = difflib.get_close_matches(name, names, 3, 0.5) or sorted(names)[:5]
        raise ConfigError(f"{field}: is not in the network; did you mean {', '.join(map(repr, close))}?")


def without_service(profile: LinkProfile) -> LinkProfile:
    """The same link with everything lost on it."""
    up, down = (replace(part, loss=1.0, loss_burst=None) for part in (profile.up, profile.down))
    return replace(profile, up=up, down=down)


def star(
    access: Mapping[str, LinkProfile], base: str = "base", nat: Iterable[str] = (), cell: Cell | None = None
) -> Network:
    """Hosts around one base station or switch; with a cell they share its rate."""
    links = tuple(
        NetworkLink(host, base, profile, base if cell else None) for host, profile in access.items()
    )
    return Network(tuple(access), links, (base,), frozenset(nat), {base: cell} if cell else {})


def mesh(
    hosts: Sequence[str], links: Mapping[tuple[str, str], LinkProfile], others: LinkProfile | None = None
) -> Network:
    """Hosts with direct links: those that are listed, and between the other pairs ``others``."""
    made = [NetworkLink(one, other, profile) for (one, other), profile in links.items()]
    if others is not None:
        listed = {frozenset(pair) for pair in links}
        made += [
            NetworkLink(one, other, others)
            for one, other in combinations(hosts, 2)
            if frozenset((one, other)) not in listed
        ]
    return Network(tuple(hosts), tuple(made))


def multi_cell(
    members: Mapping[str, Mapping[str, LinkProfile]],
    backhaul: Mapping[str, LinkProfile],
    core: str = "core",
    nat: Iterable[str] = (),
    cells: Mapping[str, Cell] | None = None,
) -> Network:
    """Hosts around base stations of their own, which a backhaul joins to one core.

    Args:
        members: each base station's hosts, with their access links.
        backhaul: each base station's link to the core.
        core: its name.
        nat: hosts behind a NAT.
        cells: base stations whose hosts share a rate.
    """
    shared = dict(cells or {})
    links: list[NetworkLink] = []
    for base, around in members.items():
        if base not in backhaul:
            raise ConfigError(f"backhaul: {base!r} has none; describe its link to {core!r}")
        links += [
            NetworkLink(host, base, profile, base if base in shared else None)
            for host, profile in around.items()
        ]
    links += [NetworkLink(base, core, profile) for base, profile in backhaul.items()]
    hosts = tuple(host for around in members.values() for host in around)
    return Network(hosts, tuple(links), (*backhaul, core), frozenset(nat), shared)
