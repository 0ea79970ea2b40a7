"""All settings of a node, with units."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from collab.errors import UsageError
from collab.node.condition_config import ConditionConfig
from collab.node.serving import ServeConfig
from collab.node.training_config import TrainingConfig
from collab.updates.settings import ReleaseSettings

Bytes = Annotated[int, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class RuntimeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stages run on."""

    delegate: str = "auto"
    """``auto``, ``xnnpack``, ``edgetpu``, ``gpu``, ``openvino``, or the path of a delegate's library."""
    first_run: Literal["updates", "all", "off"] = "updates"
    """Whose stages run once in a process of their own before they are loaded: of releases and retrained
    models, of all plans, of none."""
    first_run_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0
    """How long that may take."""


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one node; the command line, ``COLLAB_*`` variables and a TOML file fill it."""

    name: str = ""
    """Empty takes that of the identity's certificate."""
    listen: tuple[str, ...] = ()
    """Addresses to accept links at; none takes a free port: on loopback, or anywhere with an identity."""
    no_listen: bool = False
    """Whether this node only dials out, as behind network address translation."""
    join: tuple[str, ...] = ()
    """Addresses to dial and keep; nodes there hand on links to this one."""
    identity: Path | None = None
    """Directory with the node's key and certificate."""
    insecure: bool = False
    """Whether to go without an identity even where there is one."""
    discovery: tuple[str, ...] = ("mdns",)
    """Ways by which this node finds others and is found: mdns, mqtt, coap, directory, or none."""
    broker: str | None = None
    """MQTT broker at which this node listens and announces itself: ``mqtt://HOST:PORT``."""
    directory: str | None = None
    """CoAP resource directory to register at: ``coap://HOST:PORT``."""
    coap: str | None = None
    """HOST:PORT at which foreign CoAP clients are served."""
    coap_oscore: Path | None = None
    """Directory with an OSCORE context (RFC 8613) for each client that is served without TLS."""
    metrics: str | None = None
    """HOST:PORT at which Prometheus may scrape this node; a port alone is one of loopback."""
    otlp: str | None = None
    """Collector that spans of traced requests are sent to by OTLP over HTTP: ``http://HOST:4318``."""
    store: Path | None = None
    store_bytes: Bytes = 4 << 30
    max_tensor_bytes: Bytes = 64 << 20
    """Most that the tensors of one message may have."""
    insecure_networks: bool = False
    """Whether unencrypted links off loopback are allowed."""
    drain_s: Seconds = 10.0
    """How long requests may finish after SIGTERM."""
    reservation_s: Seconds = 30.0
    """How long a coordinator may take between reserving and committing."""
    retire_s: Seconds = 30.0
    """How long the previous epoch of a plan stays for requests under way."""
    max_epochs: Annotated[int, msgspec.Meta(ge=2)] = 4
    """Epochs of one plan in memory at a time."""
    refuse_hopeless: bool = True
    """Whether work is refused that could not be done before its deadline."""
    max_reports: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    """Answers given while no other node could be reached that wait to be reported; the oldest go first."""
    report_bytes: Bytes = 4 << 20
    """The same in bytes."""
    stretch: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 1.0
    """How many times as long every stage takes as it really does; for experiments only."""
    runtime: RuntimeConfig = RuntimeConfig()
    """What stages run on; a table of its own."""
    training: TrainingConfig = TrainingConfig()
    """Whether and when this node takes part in federated training; a table of its own."""
    condition: ConditionConfig = ConditionConfig()
    """What this node reports of its device and its models; a table of its own."""
    serve_releases: ServeConfig = ServeConfig()
    """Releases that this node gives to others; a table of its own."""
    releases: ReleaseSettings = ReleaseSettings()
    """Releases that this node takes for plans of its own; a table of its own."""
    sources: dict[str, dict[str, Any]] = {}
    """What the streams of plans may take frames from; a table for each, with its ``kind``."""
    sinks: dict[str, dict[str, Any]] = {}
    """Where they may send answers; a table for each, with its ``kind``."""

    def addresses(self, *, secured: bool) -> tuple[str, ...]:
        """Where to listen, with or without an identity; raises `UsageError`."""
        if self.no_listen and self.listen:
            raise UsageError("--no-listen: --listen is given as well; choose one of them")
        listen = self.listen or (() if self.no_listen else ("0.0.0.0:0" if secured else "127.0.0.1:0",))
        return (*listen, self.broker) if self.broker else listen
