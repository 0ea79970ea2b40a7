"""Frames of video files and cameras, by PyAV (FFmpeg).  Needs the extra ``video``."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from collab.errors import BackendError, InputError, LimitExceeded, LinkLost, PeerUnreachable
from collab.streams.frames import Frame
from collab.streams.settings import CameraSettings, RtspSettings, VideoSettings
from collab.streams.sources.base import Source

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

MAX_PIXELS: Final = 64_000_000
"""Of one frame."""
_OPEN_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 10.0
"""Between two frames in real time: time stamps may jump."""


def require_av() -> Any:
    """The module ``av``; raises `BackendError` where it is missing."""
    try:
        import av
    except ImportError as error:
        raise BackendError(
            "PyAV, which reads videos and cameras, is missing: pip install 'collab[video]'"
        ) from error
    return av


class _Decoded:
    """A frame of FFmpeg's, converted when it is used."""

    def __init__(self, frame: VideoFrame, where: str) -> None:
        self._frame = frame
        self._where = where

    def pixels(self) -> NDArray[np.uint8]:
        """See `Picture`."""
        frame = self._frame
        if frame.width * frame.height > MAX_PIXELS:
            raise LimitExceeded(f"{self._where}: {frame.width}x{frame.height} pixels are over {MAX_PIXELS}")
        try:
            made = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        except (ValueError, OSError) as error:
            raise InputError(f"{self._where}: cannot be converted to RGB ({error})") from error
        return made


class VideoSource(Source):
    """Decoded frames of one container, in their order.

    Args:
        url: what FFmpeg opens.
        shown: the same for people, without a password.
        form: FFmpeg's name of the format, where it is not to be guessed.
        options: FFmpeg's.
        path: the file that it is; None for a camera.
        lasts: whether it is a camera; then its end is a loss.
        realtime: whether frames wait for their time stamps.
        silence_s: how long a frame may take.
    """

    def __init__(
        self,
        url: str,
        shown: str,
        *,
        form: str | None = None,
        options: Mapping[str, str] | None = None,
        path: Path | None = None,
        lasts: bool = False,
        realtime: bool = False,
        silence_s: float = _OPEN_S,
    ) -> None:
        self.lasts = lasts
        self._url, self._shown, self._form, self._path = url, shown, form, path
        self._options = dict(options or {})
        self._realtime = realtime
        self._silence_s = silence_s
        self._stopped = Event()
        self._container: Any = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._number = 0
        self._clock: tuple[float, float] | None = None

    def open(self) -> None:
        """Raises as `Source.open`."""
        av = require_av()
        if self._path is not None and not self._path.is_file():
            raise InputError(f"{self._path}: there is no such file")
        timeout = (_OPEN_S, self._silence_s) if self.lasts else None
        try:
            self._container = av.open(self._url, format=self._form, options=self._options, timeout=timeout)
            streams = self._container.streams.video
            if not streams:
                raise InputError(f"{self._shown}: has no pictures")
            stream = streams[0]
            stream.thread_type = "AUTO"
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > MAX_PIXELS:
                raise LimitExceeded(f"{self._shown}: {width}x{height} pixels are over {MAX_PIXELS}")
            self._frames = self._container.decode(stream)
            self._clock = None
        except (OSError, ValueError) as error:
            self.close()
            raise self._unopened(error) from error
        except (InputError, LimitExceeded):
            self.close()
            raise

    def _unopened(self, error: Exception) -> InputError | PeerUnreachable:
        reason = getattr(error, "strerror", None) or type(error).__name__
        if self.lasts:
            return PeerUnreachable(f"{self._shown}: cannot be opened ({reason}); is it there, and free?")
        return InputError(f"{self._shown}: cannot be opened ({reason}); give a video that FFmpeg reads")

    def read(self) -> Frame | None:
        """The next frame; raises as `Source.read`."""
        if self._stopped.is_set():
            return None
        try:
            frame = next(self._frames, None)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            if self.lasts:
                raise LinkLost(f"{self._shown}: gives no more frames ({reason})") from error
            self._frames = iter(())  # a broken file is read as far as it goes
            raise InputError(f"{self._shown}: frame {self._number}: cannot be decoded ({reason})") from error
        if frame is None:
            if self.lasts and not self._stopped.is_set():
                raise LinkLost(f"{self._shown}: has ended")
            return None
        if self._realtime and not self._wait_for(frame.time):
            return None
        number, self._number = self._number, self._number + 1
        name = f"{self._shown}, frame {number}"
        return Frame(name, int(time.time() * 1000), _Decoded(frame, name))

    def _wait_for(self, at_s: float | None) -> bool:
        """Wait until a time stamp's time has come; whether it is still wanted."""
        if at_s is None:
            return not self._stopped.is_set()
        now = time.monotonic()
        if self._clock is None:
            self._clock = (now, at_s)
        begun, first = self._clock
        pause = begun + (at_s - first) - now
        if not -_LONGEST_PAUSE_S <= pause <= _LONGEST_PAUSE_S:
            self._clock, pause = (now, at_s), 0.0
        return not self._stopped.wait(max(0.0, pause))

    def stop(self) -> None:
        """A frame that is waited for still comes, or its silence passes."""
        self._stopped.set()

    def close(self) -> None:
        """Close the container."""
        container, self._container = self._container, None
        self._frames = iter(())
        if container is not None:
            container.close()


def video_file(settings: VideoSettings) -> VideoSource:
    """A file."""
    path = settings.path
    # As a path: FFmpeg must not take its name for an address.
    return VideoSource(f"file:{path.absolute()}", path.name, path=path, realtime=settings.realtime)


def camera(settings: CameraSettings) -> VideoSource:
    """A camera by Video4Linux."""
    options: dict[str, str] = {}
    if settings.size:
        options["video_size"] = settings.size
    if settings.fps:
        options["framerate"] = str(settings.fps)
    device = str(settings.device)
    if not Path(device).is_absolute():
        raise InputError(f"{device}: give the device's whole path, such as /dev/video0")
    return VideoSource(device, device, form="v4l2", options=options, lasts=True)


def rtsp(settings: RtspSettings) -> VideoSource:
    """A camera in the network; raises `InputError` for what is no address of one."""
    shown = shown_url(settings.url)
    try:
        parts = urlsplit(settings.url)
        known = parts.scheme in ("rtsp", "rtsps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or re.search(r"[\x00-\x20\x7f]", settings.url):
        raise InputError(f"{shown!r}: write it as rtsp://HOST[:PORT]/PATH")
    options = {"rtsp_transport": settings.transport, "allowed_media_types": "video"}
    return VideoSource(
        settings.url, shown, form="rtsp", options=options, lasts=True, silence_s=settings.timeout_s
    )


def shown_url(url: str) -> str:
    """An address without user, password and query, for messages."""
    scheme, mark, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path.partition('?')[0]}"[:200]
