"""The only table from names to implementations; builds nodes and clusters."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from collab.coordinator.cluster import Cluster
from collab.core.ids import NodeName, check_name
from collab.link.hello import Identity
from collab.link.link import Handler, LinkConfig
from collab.link.links import Links
from collab.link.mux import MuxLimits
from collab.node.config import NodeConfig
from collab.node.facade import Facade
from collab.node.service import NodeService
from collab.node.store import Store
from collab.runtime.base import Backend
from collab.runtime.litert import LiteRT
from collab.transport.base import Transport
from collab.transport.grpc import GrpcTransport

ENDPOINT_ROOM: Final = 64 * 1024
"""Bytes that an envelope takes beside its largest tensor."""
SMALLEST_LIMIT: Final = 2 << 20
"""Bytes of a message that every node takes, however small its tensors: parts of models must fit."""

BACKENDS: Final[dict[str, Callable[[], Backend]]] = {"litert": LiteRT}


def backends() -> dict[str, Backend]:
    """Back ends by name: ours, and those of the entry point group ``collab.backends``."""
    found = {name: make() for name, make in BACKENDS.items()}
    for point in entry_points(group="collab.backends"):
        found.setdefault(point.name, point.load()())
    return found


def transports(inproc: Transport | None = None, facade: Facade | None = None) -> dict[str, Transport]:
    """Transports by scheme; ``inproc`` is one that others of this process share."""
    table: dict[str, Transport] = {"grpc": GrpcTransport(facade)}
    if inproc is not None:
        table[inproc.scheme] = inproc
    return table


def default_store(name: str) -> Path:
    """Where a node keeps its models unless told otherwise."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "collab" / name


def _link_config(max_tensor_bytes: int) -> LinkConfig:
    limit = max(max_tensor_bytes + ENDPOINT_ROOM, SMALLEST_LIMIT)
    mux = MuxLimits()
    control, _, blobs = mux.message_bytes
    return LinkConfig(mux=MuxLimits(message_bytes=(control, limit, blobs)))


def build_node(config: NodeConfig, inproc: Transport | None = None) -> NodeService:
    """A node that is not yet started; ``inproc`` lets several share one process.

    Raises `StoreError` if the store cannot be used, `UsageError` for a bad name.
    """
    check_name(config.name, "--name")
    store = Store(config.store or default_store(config.name), config.store_bytes)

    def make_links(service: Handler) -> Links:
        assert isinstance(service, NodeService)
        facade = Facade(service)
        service.on_serving = facade.serving
        return Links(
            Identity(NodeName(config.name), "node"),
            transports(inproc, facade),
            service,
            link=_link_config(config.max_tensor_bytes),
            insecure_networks=config.insecure_networks,
        )

    try:
        return NodeService(config, store, backends(), make_links)
    except BaseException:
        store.close()
        raise


def build_cluster(
    *,
    role: str = "operator",
    insecure_networks: bool = False,
    inproc: Transport | None = None,
    name: str | None = None,
) -> Cluster:
    """A coordinator or client that has not dialled anybody yet."""

    def make_links(handler: Handler) -> Links:
        identity = Identity(NodeName(name or f"{role}-{secrets.token_hex(6)}"), role)
        return Links(identity, transports(inproc), handler, insecure_networks=insecure_networks)

    return Cluster(make_links)
