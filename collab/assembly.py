"""The only table from names to implementations; builds nodes and clusters."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from collab.backends import backends
from collab.coordinator.cluster import Cluster
from collab.core.identity import Principal
from collab.core.ids import NodeName, check_name
from collab.discovery.base import Discovery
from collab.errors import ConfigError, Refused, UsageError
from collab.link.hello import Identity
from collab.link.link import Handler, LinkConfig
from collab.link.links import Links
from collab.link.mux import MuxLimits
from collab.node.config import NodeConfig
from collab.node.facade import Facade
from collab.node.service import NodeService
from collab.node.store import Store
from collab.node.training_config import TrainingConfig
from collab.node.training_work import Enrolled, MakeTrainer
from collab.transport.base import Security, Transport, split_host_port
from collab.transport.grpc import GrpcTransport
from collab.transport.inproc import Ends, InprocTransport
from collab.transport.lazy import LazyTransport
from collab.updates.policies.base import MakePolicy
from collab.updates.policy_file import rule_policy

if TYPE_CHECKING:
    from collab.node.coap.oscore import ObjectSecurity
    from collab.node.coap.service import CoapService
    from collab.security.identity import Credentials
    from collab.telemetry.catalogue import Value
    from collab.telemetry.export import Tracer
    from collab.telemetry.scrape import MetricsServer

ENDPOINT_ROOM: Final = 64 * 1024
"""Bytes that an envelope takes beside its largest tensor."""
SMALLEST_LIMIT: Final = 2 << 20
"""Bytes of a message that every node takes, however small its tensors: parts of models must fit."""


Make = TypeVar("Make", bound=Callable[..., object])

POLICIES: Final[dict[str, MakePolicy]] = {"rules": rule_policy}


def policies() -> dict[str, MakePolicy]:
    """Update policies by name: ours, and those of the entry point group ``collab.policies``."""
    return _and_others(POLICIES, "collab.policies")


def _litert_trainer(model: Path, config: TrainingConfig) -> Enrolled:
    from collab.federated.data.sources import open_data
    from collab.federated.trainers.litert import LiteRtEngine
    from collab.federated.trainers.local import Budget, LocalTrainer

    engine = LiteRtEngine(model)
    memory = None if config.memory_mb is None else int(config.memory_mb * 1e6)
    data = open_data(config.data, engine.description)
    trainer = LocalTrainer(engine, data, Budget(config.samples, config.seconds, memory))
    return Enrolled(trainer, trainer.samples)


def _keras_trainer(model: Path, config: TrainingConfig) -> Enrolled:
    from collab.federated.trainers.keras import KerasTrainer
    from collab.federated.trainers.local import Budget

    memory = None if config.memory_mb is None else int(config.memory_mb * 1e6)
    trainer = KerasTrainer(model, config.data, budget=Budget(config.samples, config.seconds, memory))
    return Enrolled(trainer, trainer.samples)


TRAINERS: Final[dict[str, MakeTrainer]] = {"litert": _litert_trainer, "keras": _keras_trainer}


def trainers() -> dict[str, MakeTrainer]:
    """Trainers by name: ours, and those of the entry point group ``collab.trainers``, loaded when used."""
    return _and_others(TRAINERS, "collab.trainers")


def _and_others(ours: dict[str, Make], group: str) -> dict[str, Make]:
    """A table of ours, and what an entry point group adds to it, loaded when used."""
    found = dict(ours)
    for point in entry_points(group=group):
        found.setdefault(point.name, _loaded_later(point))
    return found


def _loaded_later(point: EntryPoint) -> Any:
    return lambda *given: point.load()(*given)


def transports(
    inproc: Transport | None = None,
    facade: Facade | None = None,
    *,
    name: NodeName = NodeName(""),
    security: Security | None = None,
) -> dict[str, Transport]:
    """Transports by scheme; ``inproc`` is one that others of this process share.

    ``name`` is what this end is called where the transport itself has names.
    """

    def mqtt() -> Transport:
        from collab.transport.mqtt.transport import MqttTransport

        return MqttTransport(name, security)

    def coap_tcp() -> Transport:
        from collab.transport.coap.tcp import CoapTcpTransport

        return CoapTcpTransport()

    def coaps_tcp() -> Transport:
        from collab.transport.coap.tcp import CoapTcpTransport

        return CoapTcpTransport(security)

    def coap_udp() -> Transport:
        from collab.transport.coap.udp import CoapUdpTransport

        return CoapUdpTransport()

    over_broker = LazyTransport("mqtt", mqtt, ("mqtt", "mqtt-qos0", "mqtt-qos2"))
    table: dict[str, Transport] = {
        "grpc": GrpcTransport(facade, security),
        "mqtt": over_broker,
        "mqtts": over_broker,
        "coap+tcp": LazyTransport("coap+tcp", coap_tcp),
        "coap+udp": LazyTransport("coap+udp", coap_udp),
    }
    if security is not None:
        table["coaps+tcp"] = LazyTransport("coaps+tcp", coaps_tcp, ("coap+tcp",))
    if inproc is not None:
        table[inproc.scheme] = inproc
    return table


def load_identity(directory: str | Path | None) -> Credentials | None:
    """The key and certificates in a directory; None stays None.

    Raises `Refused` for a key that others can read or a certificate that is not valid,
    `ConfigError` for a directory that holds no identity.
    """
    if directory is None:
        return None
    from collab.security.identity import Credentials

    return Credentials.load(Path(directory).expanduser())


@dataclass(frozen=True)
class DiscoverySettings:
    """What the ways of finding need to know."""

    broker: str | None = None
    directory: str | None = None
    addresses: tuple[str, ...] = ()
    """Given by hand."""
    security: Security | None = None
    loopback_only: bool = False
    """Whether this end serves loopback alone, so that the network need not know of it."""


def _static(settings: DiscoverySettings) -> Discovery:
    from collab.discovery.static import StaticDiscovery

    return StaticDiscovery(settings.addresses)


def _mdns(settings: DiscoverySettings) -> Discovery:
    from collab.discovery.mdns import LOOPBACK, MdnsDiscovery

    return MdnsDiscovery(LOOPBACK if settings.loopback_only else ())


def _mqtt(settings: DiscoverySettings) -> Discovery:
    from collab.discovery.mqtt import MqttDiscovery

    if settings.broker is None:
        raise UsageError("--discovery mqtt: give --broker mqtt://HOST:PORT as well")
    security = settings.security
    if security is None:
        return MqttDiscovery(settings.broker)
    return MqttDiscovery(settings.broker, lambda: security.context(server_side=False, hostname=True))


def _coap(settings: DiscoverySettings) -> Discovery:
    from collab.discovery.coap import CoapDiscovery

    return CoapDiscovery(("lo",) if settings.loopback_only else ())


def _directory(settings: DiscoverySettings) -> Discovery:
    from collab.discovery.directory import DirectoryDiscovery

    if settings.directory is None:
        raise UsageError("--discovery directory: give --directory coap://HOST:PORT as well")
    return DirectoryDiscovery(settings.directory)


DISCOVERIES: Final[dict[str, Callable[[DiscoverySettings], Discovery]]] = {
    "static": _static,
    "mdns": _mdns,
    "mqtt": _mqtt,
    "coap": _coap,
    "directory": _directory,
}


def discoveries(names: Sequence[str], settings: DiscoverySettings) -> list[Discovery]:
    """Ways of finding by name.

    Raises `UsageError` for a name that is not known.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in DISCOVERIES:
            raise UsageError(f"--discovery: {name!r} is not known; use {', '.join(DISCOVERIES)} or none")
    return [DISCOVERIES[name](settings) for name in wanted]


def default_store(name: str) -> Path:
    """Where a node keeps its models unless told otherwise."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "collab" / name


def _link_config(max_tensor_bytes: int) -> LinkConfig:
    limit = max(max_tensor_bytes + ENDPOINT_ROOM, SMALLEST_LIMIT)
    mux = MuxLimits()
    control, _, blobs = mux.message_bytes
    return LinkConfig(mux=MuxLimits(message_bytes=(control, limit, blobs)))


def build_node(
    config: NodeConfig, inproc: Transport | None = None, security: Credentials | None = None
) -> NodeService:
    """A node that is not yet started; ``inproc`` lets several share one process.

    Raises `StoreError` if the store cannot be used, `UsageError` for a bad name, `Refused`
    for an identity that is not this node's.
    """
    name = NodeName(_node_name(config, security))
    store = Store(config.store or default_store(name), config.store_bytes)

    def make_links(service: Handler) -> Links:
        assert isinstance(service, NodeService)
        facade = Facade(service)
        service.on_serving = facade.serving
        return Links(
            Identity(name, "node"),
            transports(inproc, facade, name=name, security=security),
            service,
            link=_link_config(config.max_tensor_bytes),
            security=security,
            insecure_networks=config.insecure_networks,
        )

    ways = [way for way in config.discovery if way != "none"]
    ways += ["mqtt"] * bool(config.broker) + ["directory"] * bool(config.directory)
    ways += ["static"] * bool(config.join)
    settings = DiscoverySettings(
        config.broker,
        config.directory,
        config.join,
        security,
        loopback_only=security is None and not config.insecure_networks,
    )
    try:
        return NodeService(
            msgspec.structs.replace(config, name=name),
            store,
            backends(config.stretch, config.runtime),
            make_links,
            security=security,
            make_discoveries=(lambda: discoveries(ways, settings)) if ways else None,
            trainers=trainers() if config.training.data else {},
            first_run=(sys.executable, "-m", "collab.cli.first_run"),
        )
    except BaseException:
        store.close()
        raise


def metrics_server(service: NodeService) -> MetricsServer:
    """What Prometheus scrapes at a node's ``metrics`` setting, not yet entered.

    Raises `ConfigError` where the extra ``metrics`` is not installed, `UsageError` for a bad address.
    """
    from collab.node.metrics import NodeMetrics
    from collab.telemetry.scrape import MetricsServer

    assert service.config.metrics is not None
    tracer = service.tally.tracer
    dropped = None if tracer is None else lambda: tracer.dropped
    return MetricsServer(NodeMetrics(service, dropped).values, *metrics_place(service.config.metrics))


def make_tracer(url: str, about: Mapping[str, str], ratio: float = 1.0) -> Tracer:
    """What sends spans to a collector, from now on; ``ratio`` of the traces that begin here are kept.

    Raises `ConfigError` where the extra ``tracing`` is not installed, `UsageError` for a bad address.
    """
    from collab.telemetry.export import Tracer

    return Tracer(url, about, ratio)


def requester_metrics(
    cluster: Cluster, place: str, also: Callable[[], Sequence[Value]] = tuple
) -> MetricsServer:
    """What Prometheus scrapes of the requests of plans that the cluster will follow, not yet entered.

    ``also`` gives what else is on the page.  Raises as `metrics_server` does.
    """
    from collab.client.metrics import RequesterMetrics
    from collab.telemetry.scrape import MetricsServer

    counted = cluster.metrics = RequesterMetrics()
    return MetricsServer(lambda: [*counted.values(), *also()], *metrics_place(place))


@asynccontextmanager
async def journal_metrics(place: str, read: Callable[[], Iterable[Value]]) -> AsyncIterator[str]:
    """Serve what ``read``, which may block, takes from journals; where it is scraped.

    Raises as `metrics_server` does.
    """
    from collab.coordinator.journal_metrics import Told
    from collab.telemetry.scrape import MetricsServer

    told = Told(read)
    # What writes the page is imported, which reads files.
    server = await asyncio.to_thread(lambda: MetricsServer(told.values, *metrics_place(place)))
    async with server:
        looking = asyncio.ensure_future(told.run())
        try:
            yield server.url
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


def metrics_place(place: str) -> tuple[str, int]:
    """Host and port of ``[HOST:]PORT``; raises `UsageError`, or `ConfigError` without the extra."""
    from collab.telemetry.exposition import require

    require()
    try:
        return split_host_port(place if ":" in place else f"127.0.0.1:{place}")
    except UsageError as error:
        raise UsageError(f"--metrics: {error}; a port alone is one of loopback") from error


def coap_service(service: NodeService, security: Security | None) -> CoapService:
    """What serves foreign CoAP clients at a node's ``coap`` setting, not yet entered.

    Raises `UsageError` for OSCORE contexts where no identity says whose they are,
    `ConfigError` where what OSCORE needs is not installed.
    """
    from collab.node.coap.service import CoapService

    config = service.config
    assert config.coap is not None

    def make_links(handler: Handler) -> Links:
        identity = Identity(NodeName(f"{service.name}~coap"), "node" if security is not None else "client")
        table = transports(name=service.name, security=security)
        return Links(identity, table, handler, security=security, insecure_networks=config.insecure_networks)

    contexts = None
    if config.coap_oscore is not None:
        contexts = _object_security(config.coap_oscore, security)
    return CoapService(service, config.coap, security, config.insecure_networks, make_links, contexts)


def _object_security(directory: Path, security: Security | None) -> ObjectSecurity:
    if security is None:
        raise UsageError("--coap-oscore: contexts name a node of a cluster; give --identity DIR as well")
    try:
        from collab.node.coap.oscore import ObjectSecurity
    except ImportError as error:
        raise ConfigError(
            f"--coap-oscore: {error.name or 'a module'} is missing: pip install 'collab[oscore]'"
        ) from error
    return ObjectSecurity(directory.expanduser(), security.principal)


def _node_name(config: NodeConfig, security: Credentials | None) -> str:
    if security is not None:
        who = security.principal
        if who.role != "node":
            raise Refused(
                f"the identity is {who}'s, which is no node; enrol this one with 'collab cluster "
                "invite NAME' and give it --identity DIR, or use --insecure on loopback"
            )
        if config.name not in ("", who.name):
            raise UsageError(f"--name {config.name!r}: the identity's certificate names {who.name!r}")
        return who.name
    if not config.name:
        raise ConfigError("settings: name is missing; give --name or set it in a file")
    return check_name(config.name, "--name")


def build_cluster(
    *,
    role: str = "operator",
    insecure_networks: bool = False,
    inproc: Transport | None = None,
    name: str | None = None,
    security: Security | None = None,
) -> Cluster:
    """A coordinator or client that has not dialled anybody yet.

    With ``security``, its certificate says who this end is and what it may do.
    """

    def make_links(handler: Handler) -> Links:
        suffix = secrets.token_hex(6)
        own, as_role = NodeName(name or f"{role}-{suffix}"), role
        full = own
        if security is not None:
            own, as_role, _ = security.principal
            full = NodeName(f"{own}~{suffix}")
        if as_role == "node":
            raise Refused(f"the identity is {own!r}, a node's; commands need a client's or an operator's")
        return Links(
            Identity(full, as_role),
            transports(inproc, name=own, security=security),
            handler,
            security=security,
            insecure_networks=insecure_networks,
        )

    return Cluster(make_links)


@asynccontextmanager
async def own_cluster(service: NodeService) -> AsyncIterator[Cluster]:
    """An operator's view of one node, from within its process.

    The link is a pipe that only the two ends hold: nothing that comes from a wire gets its rights.
    """
    cluster_name = "" if service.security is None else service.security.principal.cluster
    ends = Ends(
        dialler=Principal(service.name, "operator", cluster_name),
        listener=Principal(service.name, "node", cluster_name),
    )
    pipe = InprocTransport(ends=ends)
    address = f"{pipe.scheme}://{service.name}"
    listener = await pipe.listen(address, service.links.accept)
    try:
        identity = Identity(NodeName(f"{service.name}~releases"), "operator")
        async with Cluster(lambda handler: Links(identity, {pipe.scheme: pipe}, handler)) as cluster:
            await cluster.reach([address])
            yield cluster
    finally:
        await listener.close()
