"""The part of the table of implementations about sources and sinks, and what runs a node's streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from collab.core.ids import check_name
from collab.errors import ConfigError, InputError, UsageError
from collab.streams.settings import MAX_DECLARED, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collab.client.follow import Follower
    from collab.core.plan import Plan
    from collab.node.service import NodeService
    from collab.node.streaming import NodeStreams
    from collab.security.identity import Credentials
    from collab.streams.broker import MakeContext
    from collab.streams.sinks.base import Sink
    from collab.streams.sources.base import Source

Values = Mapping[str, Any]
"""A table of the settings without its ``kind``."""


@dataclass(frozen=True)
class Kind:
    """One kind of source or sink.

    Attributes:
        make: from its settings and the place they stand at; raises `ConfigError` or `InputError`.
        module: what has to be installed for it.
        extra: what installs that.
    """

    make: Callable[[Values, str, MakeContext | None], Any]
    module: str = ""
    extra: str = ""

    @property
    def lacking(self) -> str:
        """What is missing to use it here."""
        if not self.module or find_spec(self.module) is not None:
            return ""
        return f"{self.module} is missing: pip install 'collab[{self.extra}]'"


def _folder(values: Values, where: str, _: MakeContext | None) -> Source:
    from collab.streams.settings import FolderSettings
    from collab.streams.sources.folder import FolderSource

    return FolderSource(read_settings(values, FolderSettings, where))


def _video(values: Values, where: str, _: MakeContext | None) -> Source:
    from collab.streams.settings import VideoSettings
    from collab.streams.sources.video import video_file

    return video_file(read_settings(values, VideoSettings, where))


def _camera(values: Values, where: str, _: MakeContext | None) -> Source:
    from collab.streams.settings import CameraSettings
    from collab.streams.sources.video import camera

    return camera(read_settings(values, CameraSettings, where))


def _rtsp(values: Values, where: str, _: MakeContext | None) -> Source:
    from collab.streams.settings import RtspSettings
    from collab.streams.sources.video import rtsp

    return rtsp(read_settings(values, RtspSettings, where))


def _topic(values: Values, where: str, context: MakeContext | None) -> Source:
    from collab.streams.settings import TopicSettings
    from collab.streams.sources.topic import TopicSource

    return TopicSource(read_settings(values, TopicSettings, where), context)


def _lines(values: Values, where: str, _: MakeContext | None) -> Sink:
    from collab.streams.settings import LinesSettings
    from collab.streams.sinks.lines import LinesSink

    return LinesSink(read_settings(values, LinesSettings, where))


def _publish(values: Values, where: str, context: MakeContext | None) -> Sink:
    from collab.streams.settings import TopicSettings
    from collab.streams.sinks.topic import TopicSink

    return TopicSink(read_settings(values, TopicSettings, where), context)


def _webhook(values: Values, where: str, _: MakeContext | None) -> Sink:
    from collab.streams.settings import WebhookSettings
    from collab.streams.sinks.webhook import WebhookSink

    return WebhookSink(read_settings(values, WebhookSettings, where))


SOURCES: Final[dict[str, Kind]] = {
    "folder": Kind(_folder),
    "file": Kind(_video, "av", "video"),
    "v4l2": Kind(_camera, "av", "video"),
    "rtsp": Kind(_rtsp, "av", "video"),
    "mqtt": Kind(_topic),
}
SINKS: Final[dict[str, Kind]] = {
    "jsonl": Kind(_lines),
    "mqtt": Kind(_publish),
    "webhook": Kind(_webhook),
}


def kinds(what: str) -> dict[str, Kind]:
    """``sources`` or ``sinks``: ours, and those of the entry points of that name, loaded when used.

    Those are called with the table of the settings, and give a `Source` or a `Sink`.
    """
    found = dict(SOURCES if what == "sources" else SINKS)
    for point in entry_points(group=f"collab.{what}"):
        found.setdefault(point.name, Kind(_loaded_later(point)))
    return found


def _loaded_later(point: EntryPoint) -> Callable[[Values, str, MakeContext | None], Any]:
    return lambda values, _, __: point.load()(dict(values))


def make(what: str, kind: str, values: Values, where: str, context: MakeContext | None = None) -> Any:
    """A source or a sink of one kind.

    Raises:
        ConfigError: its kind or a setting is not known; a package that it needs is missing.
        InputError: a setting cannot be used.
    """
    found = _kind(what, kind, where)
    if found.lacking:
        raise ConfigError(f"{where}: {found.lacking}")
    return _made(found, values, where, context)


def _kind(what: str, kind: str, where: str) -> Kind:
    known = kinds(what)
    if kind not in known:
        raise ConfigError(f"{where}: kind {kind[:40]!r} is not known; give one of {', '.join(sorted(known))}")
    return known[kind]


def _made(kind: Kind, values: Values, where: str, context: MakeContext | None) -> Any:
    try:
        return kind.make(values, where, context)
    except ConfigError:
        raise
    except InputError as error:
        raise ConfigError(f"{where}: {error}") from error


# --- on the command line -----------------------------------------------------------------


def named_source(text: str, *, watch: bool = False, realtime: bool = False) -> Source:
    """``folder:DIR``, ``file:CLIP``, ``v4l2:DEVICE``, ``rtsp://…`` or ``mqtt://HOST/TOPIC``.

    Raises `UsageError`, and what `make` raises.
    """
    kind, _, rest = text.partition(":")
    fields = {"folder": "path", "file": "path", "v4l2": "device"}
    values: dict[str, Any]
    if kind in fields and rest:
        values = {fields[kind]: rest}
        if kind == "folder":
            values["watch"] = watch
        elif kind == "file":
            values["realtime"] = realtime
    elif kind in ("rtsp", "rtsps", "mqtt", "mqtts") and rest.startswith("//"):
        values, kind = {"url": text}, kind.removesuffix("s")
    else:
        raise UsageError(
            f"--source {_shown(text)!r}: give folder:DIR, file:CLIP, v4l2:/dev/videoN, rtsp://HOST/PATH or "
            "mqtt://HOST/TOPIC"
        )
    found = make("sources", kind, values, "--source")
    return found  # type: ignore[no-any-return]


def named_sink(text: str) -> Sink:
    """``jsonl:PATH`` or ``jsonl:-``, ``mqtt://HOST/TOPIC``, ``https://…``; raises `UsageError`."""
    kind, _, rest = text.partition(":")
    place: tuple[str, dict[str, Any]]
    if text == "jsonl:-":
        from collab.streams.sinks.lines import OutputSink

        return OutputSink()
    if kind == "jsonl" and rest:
        place = ("jsonl", {"path": Path(rest)})
    elif kind in ("mqtt", "mqtts") and rest.startswith("//"):
        place = ("mqtt", {"url": text})
    elif kind in ("http", "https") and rest.startswith("//"):
        place = ("webhook", {"url": text})
    else:
        raise UsageError(f"--sink {_shown(text)!r}: give jsonl:PATH, jsonl:-, mqtt://HOST/TOPIC or https://…")
    found = make("sinks", *place, "--sink")
    return found  # type: ignore[no-any-return]


def _shown(text: str) -> str:
    scheme, mark, rest = text.partition("://")
    return (f"{scheme}://{rest.rpartition('@')[2]}" if mark else text)[:80]


# --- on a node ---------------------------------------------------------------------------


class _Requests:
    """A node's requests through plans, as whatever its stream identity may ask."""

    def __init__(self, cluster: Any, node: str) -> None:
        self._cluster = cluster
        self._node = node

    async def follow(self, plan: Plan) -> Follower:
        from collab.client.follow import Follower, Opened

        cluster = self._cluster

        async def open_plan(current: Plan) -> Opened:
            wanted = sum(s.concurrency for s in current.streams if s.source.node == self._node)
            opened: Opened = await cluster.climb(current, max(1, wanted))
            return opened

        # No part in trials: a new model's plan beside this one has no streams.
        return await Follower(open_plan, cluster.let_go, cluster.successor).start(plan)

    async def unfollow(self, follower: Follower) -> None:
        await follower.close()


@asynccontextmanager
async def node_streams(service: NodeService, security: Credentials | None) -> AsyncIterator[NodeStreams]:
    """What runs the streams of a node's settings, while it is entered.

    Raises `ConfigError` that names the setting that cannot be used.
    """
    from collab.assembly import transports
    from collab.coordinator.cluster import Cluster
    from collab.link.hello import Identity
    from collab.link.link import Handler
    from collab.link.links import Links
    from collab.node.streaming import DeclaredSink, DeclaredSource, NodeStreams, stream_name

    config, context = service.config, None
    if security is not None:

        def context() -> Any:
            return security.context(server_side=False, hostname=True)

    name = stream_name(service.name)

    def make_links(handler: Handler) -> Links:
        return Links(
            Identity(name, "node"),
            transports(name=name, security=security),
            handler,
            security=security,
            insecure_networks=config.insecure_networks,
        )

    # What kinds need is imported, which reads files.
    ways_in = await asyncio.to_thread(_declared, "sources", config.sources, context)
    ways_out = await asyncio.to_thread(_declared, "sinks", config.sinks, context)
    sources = {name: DeclaredSource(*declared) for name, declared in ways_in.items()}
    sinks = {name: DeclaredSink(*declared) for name, declared in ways_out.items()}
    async with Cluster(make_links) as cluster:
        cluster.tracer = service.tally.tracer

        def seen(peer: str) -> Sequence[str]:
            own = tuple(service.endpoints) if peer == service.name else ()
            return (*own, *service.membership.addresses(peer))  # type: ignore[arg-type]

        cluster.links.seen = seen
        async with NodeStreams(service, sources, sinks, _Requests(cluster, service.name)) as streams:
            service.streams = streams
            try:
                yield streams
            finally:
                service.streams = None


def _declared(
    what: str, tables: Mapping[str, Values], context: MakeContext | None
) -> dict[str, tuple[str, Callable[[], Any], str]]:
    """Kind, maker and what is lacking of everything under a table; one of each is made as a check."""
    if len(tables) > MAX_DECLARED:
        raise ConfigError(f"settings: {what}: {len(tables)} of them; at most {MAX_DECLARED}")
    found = {}
    for name, table in tables.items():
        where = f"settings: {what}.{name}"
        try:
            check_name(name, where)
        except InputError as error:
            raise ConfigError(str(error)) from error
        values = dict(table)
        kind_name = values.pop("kind", None)
        if not isinstance(kind_name, str):
            raise ConfigError(f"{where}.kind: is missing; give one of {', '.join(sorted(kinds(what)))}")
        kind = _kind(what, kind_name, where)
        if not kind.lacking:
            _made(kind, values, where, context)
        found[name] = (kind_name, _maker(kind, values, where, context), kind.lacking)
    return found


def _maker(kind: Kind, values: Values, where: str, context: MakeContext | None) -> Callable[[], Any]:
    return lambda: _made(kind, values, where, context)
