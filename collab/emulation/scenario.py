"""A scenario: hosts, links, what runs on them, what goes wrong; for the emulator and the simulator.

Frozen types of the YAML file; unknown fields are errors.  Times are in seconds or ms as
their names say.  What is possible is checked by `collab.emulation.scenario_check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Union

import msgspec

from collab.core.plan import Frozen
from collab.core.profile import Profile
from collab.emulation.network import Cell
from collab.errors import ConfigError

Objective = Literal["latency", "throughput", "memory", "energy", "bytes"]
Transport = Literal["grpc", "mqtt", "mqtt-qos0", "coap+tcp", "coap+udp"]
Baseline = Literal["local", "offload"]
"""The whole model on the requester's host, or on the best other one."""
MAX_REQUESTS: Final = 10_000_000


class Host(Frozen, frozen=True, kw_only=True):
    """One device, or ``count`` equal ones called NAME-0, NAME-1 and so on."""

    device: str = ""
    """Whose times in the profile it has; the host's own name if empty."""
    stretch: float = 1.0
    """Every stage takes so many times as long as there."""
    cpu: float | None = None
    """Cores that it may use at most, such as 0.5; None: no quota."""
    memory_mb: float | None = None
    """Memory limit in 10⁶ bytes; None: what the profile says, and no limit in the emulator."""
    cores: int = 1
    """Stages that compute at a time in the simulator."""
    count: int = 1


LinkLike = Union[str, Mapping[str, Any]]
"""A profile's name, or a mapping whose ``profile`` it changes field by field."""


class Change(Frozen, frozen=True, kw_only=True):
    """A link becomes another at a time; with neither field it is as it was at first."""

    at_s: float
    profile: LinkLike | None = None
    cut: bool = False
    """Nothing passes until the next change."""


class LinkSpec(Frozen, frozen=True, kw_only=True, rename={"source": "from", "target": "to"}):
    """A link in both directions: its profile's ``up`` leads from ``from`` to ``to``.

    An end that is no host is a junction, such as a switch or a base station.  A group's name
    at ``from`` stands for a link of each of its hosts.
    """

    source: str
    target: str
    profile: LinkLike = "ethernet"
    cell: str | None = None
    """One of the scenario's cells, whose rate it has a share of."""
    schedule: tuple[Change, ...] = ()


class Star(Frozen, frozen=True, kw_only=True, tag="star", tag_field="shape"):
    """Every host linked to one base station or switch."""

    profile: LinkLike
    center: str = "base"
    profiles: Mapping[str, LinkLike] = {}
    """Hosts, or groups of them, whose link is of another profile."""
    cell: Cell | None = None
    """A rate that all links share."""


class Mesh(Frozen, frozen=True, kw_only=True, tag="mesh", tag_field="shape"):
    """Every pair of hosts linked directly."""

    profile: LinkLike


class Site(Frozen, frozen=True, kw_only=True):
    """A base station with its hosts."""

    hosts: tuple[str, ...]
    """Hosts, or groups of them."""
    profile: LinkLike
    backhaul: LinkLike = "ethernet"
    """From the base station to the core."""
    cell: Cell | None = None


class Cells(Frozen, frozen=True, kw_only=True, tag="cells", tag_field="shape"):
    """Base stations, joined by a core."""

    sites: Mapping[str, Site]
    core: str = "core"


Topology = Union[Star, Mesh, Cells]


class Cluster(Frozen, frozen=True, kw_only=True):
    """How the nodes talk."""

    transport: Transport = "grpc"
    secured: bool = False
    broker: str = ""
    """The host of the broker; MQTT needs it."""
    credits: int = 64
    """Requests that a plan admits at a time."""
    attempts: int = 3
    """At one request, the first included."""
    hedge: bool = False


class EnsembleSpec(Frozen, frozen=True, kw_only=True):
    """The whole model on each member, merged by a combiner; the simulator asks no more of the members."""

    members: tuple[str, ...]
    node: str
    """Where the combiner runs."""
    quorum: int | None = None
    wait_ms: float = 0.0


class PlanChoice(Frozen, frozen=True, kw_only=True):
    """One plan to run: as the planner has it best, by hand, an ensemble, or from a file."""

    name: str
    objective: Objective = "latency"
    deadline_ms: float | None = None
    max_replicas: int = 1
    max_stages: int | None = None
    first_on: str | None = None
    forbid: tuple[str, ...] = ()
    codecs: tuple[str, ...] = ("raw",)
    """What the planner may choose from; with ``at`` and ``assign`` exactly one for each edge."""
    codec_error: float | None = None
    at: tuple[int, ...] | None = None
    """Exactly these cuts."""
    assign: tuple[str, ...] | None = None
    """Exactly these hosts, one entry a stage; ``+`` joins replicas, a group's name stands for all of it."""
    ensemble: EnsembleSpec | None = None
    file: str | None = None
    """A plan file, from the scenario's folder."""
    escalated: float = 0.5
    """Share of requests of which a cascade's small model is unsure, in the simulator."""


class _Load(Frozen, frozen=True, kw_only=True):
    requests: int | None = None
    """How many; give this or ``duration_s``."""
    duration_s: float | None = None
    """How long requests arrive."""
    warmup: int = 0
    """First requests that are not counted."""
    deadline_ms: float = 30_000.0
    requesters: tuple[str, ...] = ()
    """Hosts that ask, in turn or (``poisson``) by chance; the scenario's requester if empty."""


class Closed(_Load, frozen=True, kw_only=True, tag="closed", tag_field="kind"):
    """So many at a time; the next starts when one is answered, and ``think_ms`` have passed."""

    concurrency: int = 1
    think_ms: float = 0.0


class Poisson(_Load, frozen=True, kw_only=True, tag="poisson", tag_field="kind"):
    """Independent arrivals, ``rate`` a second in the mean."""

    rate: float


class Bursts(_Load, frozen=True, kw_only=True, tag="bursts", tag_field="kind"):
    """``size`` requests at once, every ``every_s`` seconds."""

    size: int
    every_s: float


class Arrivals(_Load, frozen=True, kw_only=True, tag="trace", tag_field="kind"):
    """Requests at given times."""

    at_s: tuple[float, ...]


Workload = Union[Closed, Poisson, Bursts, Arrivals]


class FaultSpec(Frozen, frozen=True, kw_only=True):
    """Something that goes wrong: exactly one of ``kill``, ``stop`` and ``cut``."""

    at_s: float
    for_s: float | None = None
    """How long; for ever if it is left out."""
    kill: str | None = None
    """A host whose node dies, and is started again afterwards."""
    stop: str | None = None
    """A host whose node is frozen."""
    cut: tuple[str, str] | None = None
    """Two ends of a link that carries nothing."""


class Stack(Frozen, frozen=True, kw_only=True):
    """What a message costs beside the network, where it is not what was calibrated."""

    message_us: float | None = None
    """Of both ends' event loops together."""
    idle_us: float | None = None
    """More of it between processes that have done nothing for long; 0 where ``message_us`` is given."""
    ns_per_byte: float | None = None
    header_bytes: int | None = None
    """Envelope, framing and TLS of one message."""


class Scenario(Frozen, frozen=True, kw_only=True):
    """A whole scenario file."""

    name: str
    hosts: Mapping[str, Host]
    requester: str
    """The host whose client asks, unless the workload names others."""
    plans: tuple[Union[Baseline, PlanChoice], ...]
    workload: Workload
    model: str = ""
    """The model's file, from the scenario's folder; the emulator needs it."""
    profile: Union[str, Profile] = ""
    """What operators cost on the devices: a profile file, or its content; the simulator needs it."""
    topology: Topology | None = None
    links: tuple[LinkSpec, ...] = ()
    """Links beside those of the topology, or in place of them where the ends are the same."""
    cells: Mapping[str, Cell] = {}
    """Rates that links share, by name."""
    nat: tuple[str, ...] = ()
    """Hosts that others cannot reach unless they were spoken to; only the emulator has NATs."""
    cluster: Cluster = Cluster()
    faults: tuple[FaultSpec, ...] = ()
    seed: int = 1
    repetitions: int = 1
    noise: float | None = None
    """Spread of compute times in the simulator: standard deviation of their logarithm; None: as measured."""
    stack: Stack = Stack()

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Hosts by the name in the file: one, or as many as ``count`` says."""
        return {
            name: (name,) if host.count == 1 else tuple(f"{name}-{i}" for i in range(host.count))
            for name, host in self.hosts.items()
        }

    @property
    def machines(self) -> dict[str, Host]:
        """Every host by its own name."""
        return {
            name: msgspec.structs.replace(
                self.hosts[group], count=1, device=self.hosts[group].device or group
            )
            for group, names in self.groups.items()
            for name in names
        }

    @property
    def requesters(self) -> tuple[str, ...]:
        """Hosts that ask."""
        groups = self.groups
        named = self.workload.requesters or (self.requester,)
        return tuple(host for name in named for host in groups.get(name, (name,)))


def convert_scenario(tree: Any) -> Scenario:
    """A scenario from what its YAML file holds, not yet checked; raises `ConfigError`."""
    try:
        return msgspec.convert(tree, Scenario)
    except msgspec.ValidationError as error:
        what, mark, where = str(error).rpartition(" - at `")
        path = where.rstrip("`").removeprefix("$").removeprefix(".") if mark else ""
        raise ConfigError(f"{path or 'scenario'}: {what if mark else error}") from error
