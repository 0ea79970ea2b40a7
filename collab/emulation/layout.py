"""From a scenario to its network: links between all places, and what becomes of them when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from collab.emulation.network import Cell, Network, NetworkLink
from collab.emulation.profile import LinkProfile
from collab.emulation.profiles import parse_profile
from collab.emulation.scenario import Cells, LinkLike, LinkSpec, Mesh, Scenario, Star
from collab.errors import ConfigError


@dataclass(frozen=True)
class LinkChange:
    """What a link becomes at a time."""

    at_s: float
    link: NetworkLink
    profile: LinkProfile
    cut: bool

    @property
    def text(self) -> str:
        """For plots and reports."""
        return f"{self.link.name}: {'cut' if self.cut else self.profile.name}"


def network_of(scenario: Scenario) -> Network:
    """Hosts, junctions and links of a scenario; raises `ConfigError` for an impossible one."""
    hosts = tuple(scenario.machines)
    found = _links(scenario)
    places = {end: None for link in found for end in (link.one, link.other)}
    junctions = tuple(place for place in places if place not in hosts)
    groups = scenario.groups
    behind = frozenset(host for name in scenario.nat for host in groups.get(name, (name,)))
    return Network(hosts, found, junctions, behind, dict(_cells(scenario)))


def _links(scenario: Scenario) -> tuple[NetworkLink, ...]:
    """Those of the topology, but for pairs that ``links`` names."""
    listed = [
        link for at, spec in enumerate(scenario.links) for link in _listed(f"links[{at}]", scenario, spec)
    ]
    pairs = {frozenset((link.one, link.other)) for link in listed}
    shaped = [link for link in _shaped(scenario) if frozenset((link.one, link.other)) not in pairs]
    return (*shaped, *listed)


def _listed(where: str, scenario: Scenario, spec: LinkSpec) -> Iterator[NetworkLink]:
    profile = read_link(f"{where}.profile", spec.profile)
    for host in scenario.groups.get(spec.source, (spec.source,)):
        yield NetworkLink(host, spec.target, profile, spec.cell)


def _shaped(scenario: Scenario) -> Iterator[NetworkLink]:
    shape, hosts = scenario.topology, tuple(scenario.machines)
    if isinstance(shape, Mesh):
        profile = read_link("topology.profile", shape.profile)
        for one, other in combinations(hosts, 2):
            yield NetworkLink(one, other, profile)
    elif isinstance(shape, Star):
        profile = read_link("topology.profile", shape.profile)
        own = _by_host("topology.profiles", scenario, shape.profiles)
        for host in hosts:
            yield NetworkLink(
                host, shape.center, own.get(host, profile), shape.center if shape.cell else None
            )
    elif isinstance(shape, Cells):
        groups = scenario.groups
        for base, site in shape.sites.items():
            where = f"topology.sites.{base}"
            profile = read_link(f"{where}.profile", site.profile)
            for name in site.hosts:
                if name not in groups and name not in hosts:
                    raise ConfigError(f"{where}.hosts: {name!r} is no host; there are {_few(groups)}")
                for host in groups.get(name, (name,)):
                    yield NetworkLink(host, base, profile, base if site.cell else None)
            yield NetworkLink(base, shape.core, read_link(f"{where}.backhaul", site.backhaul))


def _by_host(where: str, scenario: Scenario, given: Mapping[str, LinkLike]) -> dict[str, LinkProfile]:
    found: dict[str, LinkProfile] = {}
    groups, hosts = scenario.groups, scenario.machines
    for name, like in given.items():
        if name not in groups and name not in hosts:
            raise ConfigError(f"{where}: {name!r} is no host; there are {_few(groups)}")
        found |= dict.fromkeys(groups.get(name, (name,)), read_link(f"{where}.{name}", like))
    return found


def _few(names: Mapping[str, object]) -> str:
    return ", ".join(list(names)[:8]) + (" …" if len(names) > 8 else "")


def _cells(scenario: Scenario) -> Iterator[tuple[str, Cell]]:
    yield from scenario.cells.items()
    shape = scenario.topology
    if isinstance(shape, Star) and shape.cell is not None:
        yield shape.center, shape.cell
    if isinstance(shape, Cells):
        yield from ((base, site.cell) for base, site in shape.sites.items() if site.cell is not None)


def read_link(where: str, like: LinkLike) -> LinkProfile:
    """A link's profile; raises `ConfigError` that begins with the field's path."""
    try:
        return parse_profile(like)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(f"{where}: {text.removeprefix('profile: ')}") from error


def changes_of(scenario: Scenario, network: Network) -> tuple[LinkChange, ...]:
    """Every change of a link in the order of their times."""
    by_pair = {(link.one, link.other): link for link in network.links}
    found: list[LinkChange] = []
    for at, spec in enumerate(scenario.links):
        for number, change in enumerate(spec.schedule):
            where = f"links[{at}].schedule[{number}].profile"
            for host in scenario.groups.get(spec.source, (spec.source,)):
                link = by_pair[host, spec.target]
                profile = link.profile if change.profile is None else read_link(where, change.profile)
                found.append(LinkChange(change.at_s, link, profile, change.cut))
    return tuple(sorted(found, key=lambda change: change.at_s))
