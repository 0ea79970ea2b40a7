"""What a device's owner says of its sources and sinks, under ``[sources.NAME]`` and ``[sinks.NAME]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from collab.core.decoding import prepare
from collab.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)

MAX_DECLARED: Final = 64
"""Sources, and sinks, of one node."""
MAX_HEADERS: Final = 32


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of one source or sink; unknown names are errors."""


class FolderSettings(Settings, frozen=True, kw_only=True):
    """Of a folder of pictures, arrays and tables."""

    path: Path
    watch: bool = False
    """Whether files that appear later are frames too; else the end is reached."""
    poll_s: Annotated[float, msgspec.Meta(ge=0.05, le=3600)] = 0.5
    """How often a watched folder is looked at."""


class VideoSettings(Settings, frozen=True, kw_only=True):
    """Of a video file."""

    path: Path
    realtime: bool = False
    """Whether frames come at the pace of their time stamps; else as fast as they are taken."""


class CameraSettings(Settings, frozen=True, kw_only=True):
    """Of a camera by Video4Linux."""

    device: Path
    size: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,5}x[0-9]{1,5})?$")] = ""
    """``640x480``; empty takes the camera's own."""
    fps: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """That the camera is asked for; 0 takes its own."""


class RtspSettings(Settings, frozen=True, kw_only=True):
    """Of a camera in the network."""

    url: str
    transport: Literal["tcp", "udp"] = "tcp"
    timeout_s: Annotated[float, msgspec.Meta(ge=0.5, le=60)] = 4.0
    """Silence after which it is taken for lost."""


class TopicSettings(Settings, frozen=True, kw_only=True):
    """Of a topic at an MQTT broker."""

    url: str
    """``mqtt[s]://[USER:PASSWORD@]HOST[:PORT]/TOPIC``; in a filter write # as %23."""
    payload: Literal["auto", "image", "array", "tensor"] = "auto"
    """A picture's file, an .npy or .npz, or the bytes of the plan's one input; auto looks."""
    qos: Literal[0, 1] = 0


class LinesSettings(Settings, frozen=True, kw_only=True):
    """Of a file of JSON lines, which grows."""

    path: Path
    most_bytes: Annotated[int, msgspec.Meta(ge=1 << 16, le=1 << 40)] = 64 << 20
    """Of it; then it becomes PATH.1, in place of the one before."""


class WebhookSettings(Settings, frozen=True, kw_only=True):
    """Of an HTTP server that answers are posted to."""

    url: str
    headers: dict[str, str] = {}
    timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 5.0
    """For one try."""
    tries: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4
    waiting: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 256
    """Answers that may wait; with one more the oldest is lost, and counted."""


def read_settings(values: Mapping[str, Any], kind: type[T], where: str) -> T:
    """Settings of one kind from a table without its ``kind``; raises `ConfigError`."""
    try:
        return msgspec.convert(dict(values), kind, strict=False, dec_hook=_path)
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _path(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    raise TypeError(f"Expected `{kind.__name__}`, got {value!r}")


prepare(
    *(FolderSettings, VideoSettings, CameraSettings, RtspSettings),
    *(TopicSettings, LinesSettings, WebhookSettings),
)
