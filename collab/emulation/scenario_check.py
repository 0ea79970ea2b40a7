"""What a scenario must be before anything of it runs: possible, finite, and within the machine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches

from collab.core.codecs import parse_codec
from collab.core.ids import check_name
from collab.core.profile import Profile
from collab.emulation.layout import changes_of, network_of
from collab.emulation.network import MAX_PLACES, Network
from collab.emulation.scenario import (
    MAX_REQUESTS,
    Arrivals,
    Bursts,
    Closed,
    FaultSpec,
    Host,
    PlanChoice,
    Poisson,
    Scenario,
)
from collab.errors import ConfigError, InputError, PlanError

NODE_BYTES = 100_000_000
"""Memory of a node process beside its stages."""


def check_scenario(scenario: Scenario) -> Network:
    """The network of a possible scenario; raises `ConfigError` that names the field and the remedy."""
    _name("name", scenario.name)
    _check_hosts(scenario)
    _at_least("repetitions", scenario.repetitions, 1)
    _not_negative("noise", scenario.noise or 0.0)
    for field in ("message_us", "idle_us", "ns_per_byte", "header_bytes"):
        value = getattr(scenario.stack, field)
        if value is not None:
            _not_negative(f"stack.{field}", value)
    network = network_of(scenario)
    for at, link in enumerate(scenario.links):
        for number, change in enumerate(link.schedule):
            _not_negative(f"links[{at}].schedule[{number}].at_s", change.at_s)
    changes_of(scenario, network)
    _check_cluster(scenario, network)
    _check_plans(scenario)
    _check_workload(scenario)
    for at, fault in enumerate(scenario.faults):
        _check_fault(f"faults[{at}]", fault, scenario, network)
    return network


def check_profile(scenario: Scenario, profile: Profile) -> None:
    """Raise `ConfigError` where a host's device is not in the profile."""
    known = [str(device.name) for device in profile.devices]
    for name, host in scenario.hosts.items():
        device = host.device or name
        # A run that was measured knows each host of a group.
        if device not in known and not set(scenario.groups[name]) <= set(known):
            raise ConfigError(
                f"hosts.{name}.device: the profile has no device {device!r}; {_nearest(device, known)}"
            )


def check_machine(scenario: Scenario, cpus: float, memory_bytes: int, model_bytes: int = 0) -> None:
    """Refuse to emulate what this machine cannot hold, before anything starts.

    Args:
        scenario: what would run.
        cpus: cores of this machine.
        memory_bytes: what is free on it.
        model_bytes: of the model, which every node may load whole.

    Raises:
        ConfigError: too much memory or CPU is needed; says how much, and what to do.
    """
    machines = scenario.machines
    whole = NODE_BYTES + model_bytes
    needed = sum(whole if h.memory_mb is None else min(whole, h.memory_mb * 1e6) for h in machines.values())
    if needed > memory_bytes:
        raise ConfigError(
            f"hosts: {len(machines)} nodes need {needed / 1e6:,.0f} MB of memory, "
            f"{memory_bytes / 1e6:,.0f} MB are free; take fewer hosts, set memory_mb, or use collab simulate"
        )
    quotas = sum(host.cpu or 0.0 for host in machines.values())
    if quotas > cpus:
        raise ConfigError(
            f"hosts: their cpu adds up to {quotas:g} cores, this machine has {cpus:g}; lower cpu, raise "
            "stretch, or use collab simulate"
        )


# --- parts --------------------------------------------------------------------------


def _check_hosts(scenario: Scenario) -> None:
    if not scenario.hosts:
        raise ConfigError("hosts: there is none; add at least one")
    for name, host in scenario.hosts.items():
        _name(f"hosts: {name!r}", name)
        _check_host(f"hosts.{name}", host)
    count = sum(host.count for host in scenario.hosts.values())
    if count > MAX_PLACES:
        raise ConfigError(f"hosts: {count} of them; give at most {MAX_PLACES}")
    machines = scenario.machines
    if len(machines) < count:
        raise ConfigError("hosts: a group's host has the name of another host; rename one")
    for where, names in (("requester", (scenario.requester,)), ("workload.requesters", scenario.requesters)):
        for name in names:
            _known(where, name, (*scenario.hosts, *machines))


def _check_host(where: str, host: Host) -> None:
    if not host.stretch >= 1 or not math.isfinite(host.stretch):
        raise ConfigError(
            f"{where}.stretch: {host.stretch:g}; a device can only be made slower, give 1 or more"
        )
    if host.cpu is not None:
        _positive(f"{where}.cpu", host.cpu)
    if host.memory_mb is not None:
        _positive(f"{where}.memory_mb", host.memory_mb)
    _at_least(f"{where}.cores", host.cores, 1)
    _at_least(f"{where}.count", host.count, 1)


def _check_cluster(scenario: Scenario, network: Network) -> None:
    cluster = scenario.cluster
    if not 1 <= cluster.credits <= 4096:
        raise ConfigError(f"cluster.credits: {cluster.credits}; give 1 to 4096")
    _at_least("cluster.attempts", cluster.attempts, 1)
    if cluster.transport.startswith("mqtt"):
        if not cluster.broker:
            raise ConfigError("cluster.broker: MQTT needs one; name the host that it runs on")
        _known("cluster.broker", cluster.broker, network.hosts)
    elif cluster.broker:
        raise ConfigError(f"cluster.broker: {cluster.transport} uses none; leave it out")


def _check_plans(scenario: Scenario) -> None:
    if not scenario.plans:
        raise ConfigError("plans: there is none; add local, offload or an objective")
    names: set[str] = set()
    for at, choice in enumerate(scenario.plans):
        where = f"plans[{at}]"
        name = choice if isinstance(choice, str) else choice.name
        _name(f"{where}.name", name)
        if name in names:
            raise ConfigError(f"{where}.name: {name!r} stands there twice; rename one")
        names.add(name)
        if isinstance(choice, PlanChoice):
            _check_choice(where, choice, scenario)


def _check_choice(where: str, choice: PlanChoice, scenario: Scenario) -> None:
    hosts = {*scenario.hosts, *scenario.machines}
    if (choice.at is None) != (choice.assign is None):
        raise ConfigError(f"{where}: at and assign go together; give both or neither")
    ways = [n for n in ("at", "ensemble", "file") if getattr(choice, n) is not None]
    if len(ways) > 1:
        raise ConfigError(f"{where}: {' and '.join(ways)} exclude each other; keep one")
    _check_assign(where, choice, hosts)
    for name in (*choice.forbid, *((choice.first_on,) if choice.first_on else ())):
        _known(where, name, hosts)
    _check_codecs(where, choice)
    _at_least(f"{where}.max_replicas", choice.max_replicas, 1)
    if not 0 <= choice.escalated <= 1:
        raise ConfigError(f"{where}.escalated: {choice.escalated:g}; give a share from 0 to 1")
    if choice.ensemble is not None:
        _check_ensemble(f"{where}.ensemble", choice, scenario)


def _check_assign(where: str, choice: PlanChoice, hosts: Iterable[str]) -> None:
    if choice.at is None or choice.assign is None:
        return
    stages = len(choice.at) + 1
    if choice.codecs != ("raw",) and len(choice.codecs) != stages + 1:
        raise ConfigError(
            f"{where}.codecs: {len(choice.codecs)} for {stages + 1} edges; with at and assign give one "
            "for each, the input's first and the answer's last"
        )
    if len(choice.assign) != stages:
        raise ConfigError(
            f"{where}.assign: {len(choice.assign)} entries for {stages} stages; give one for each"
        )
    for number, entry in enumerate(choice.assign):
        for name in entry.split("+"):
            _known(f"{where}.assign[{number}]", name.strip(), hosts)


def _check_codecs(where: str, choice: PlanChoice) -> None:
    for number, codec in enumerate(choice.codecs):
        try:
            lossy = not parse_codec(codec).exact
        except PlanError as error:
            raise ConfigError(f"{where}.codecs[{number}]: {error}") from error
        if lossy and choice.codec_error is None:
            raise ConfigError(
                f"{where}.codec_error: {codec!r} loses digits; say how much it may add, such as 0.01"
            )


def _check_ensemble(where: str, choice: PlanChoice, scenario: Scenario) -> None:
    spec = choice.ensemble
    assert spec is not None
    if len(spec.members) < 2:
        raise ConfigError(f"{where}.members: {len(spec.members)}; give two hosts at least")
    for name in (*spec.members, spec.node):
        _known(f"{where}", name, scenario.machines)
    if spec.quorum is not None and not 1 <= spec.quorum <= len(spec.members):
        raise ConfigError(f"{where}.quorum: {spec.quorum}; give 1 to {len(spec.members)}")
    _not_negative(f"{where}.wait_ms", spec.wait_ms)


def _check_workload(scenario: Scenario) -> None:
    load = scenario.workload
    if isinstance(load, Arrivals):
        _check_arrivals(load)
    elif (load.requests is None) == (load.duration_s is None):
        raise ConfigError("workload: give requests or duration_s, one of them")
    if load.requests is not None and not 1 <= load.requests <= MAX_REQUESTS:
        raise ConfigError(f"workload.requests: {load.requests}; give 1 to {MAX_REQUESTS:,}")
    if load.duration_s is not None:
        _positive("workload.duration_s", load.duration_s)
    _at_least("workload.warmup", load.warmup, 0)
    if load.requests is not None and load.warmup >= load.requests:
        raise ConfigError(f"workload.warmup: {load.warmup} of {load.requests} requests; leave some to count")
    _positive("workload.deadline_ms", load.deadline_ms)
    if isinstance(load, Closed):
        _at_least("workload.concurrency", load.concurrency, 1)
        _not_negative("workload.think_ms", load.think_ms)
    elif isinstance(load, Poisson):
        _positive("workload.rate", load.rate)
    elif isinstance(load, Bursts):
        _at_least("workload.size", load.size, 1)
        _positive("workload.every_s", load.every_s)


def _check_arrivals(load: Arrivals) -> None:
    if not load.at_s:
        raise ConfigError("workload.at_s: there is no time; give one at least")
    before = 0.0
    for at, when in enumerate(load.at_s):
        if not (math.isfinite(when) and when >= before):
            raise ConfigError(f"workload.at_s[{at}]: {when:g} after {before:g}; give ascending times from 0")
        before = when


def _check_fault(where: str, fault: FaultSpec, scenario: Scenario, network: Network) -> None:
    given = [name for name in ("kill", "stop", "cut") if getattr(fault, name) is not None]
    if len(given) != 1:
        raise ConfigError(
            f"{where}: {' and '.join(given) or 'nothing'} is given; give one of kill, stop and cut"
        )
    _not_negative(f"{where}.at_s", fault.at_s)
    if fault.for_s is not None:
        _positive(f"{where}.for_s", fault.for_s)
    for host in (fault.kill, fault.stop):
        if host is not None:
            _known(f"{where}.{given[0]}", host, scenario.machines)
    if fault.cut is not None:
        pairs = {frozenset((link.one, link.other)) for link in network.links}
        if frozenset(fault.cut) not in pairs:
            raise ConfigError(
                f"{where}.cut: no link joins {fault.cut[0]!r} and {fault.cut[1]!r}; name both ends of one"
            )


# --- values -------------------------------------------------------------------------


def _name(where: str, value: str) -> None:
    try:
        check_name(value, f"{where}:")
    except InputError as error:
        raise ConfigError(str(error)) from None


def _known(where: str, name: str, names: Iterable[str]) -> None:
    known = list(names)
    if name not in known:
        raise ConfigError(f"{where}: there is no host {name!r}; {_nearest(name, known)}")


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 3) or known[:8]
    return f"try {', '.join(near)}"


def _at_least(where: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{where}: {value}; give {least} or more")


def _not_negative(where: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{where}: {value:g}; give 0 or more")


def _positive(where: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{where}: {value:g}; give more than 0")
