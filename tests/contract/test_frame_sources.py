"""What every source of frames promises (`collab.streams.sources.base`); a new one joins in `SOURCES`."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paho.mqtt.publish as publish
import pytest

from collab.errors import InputError, PeerUnreachable
from collab.streams.frames import Frame, Payload
from collab.streams.settings import FolderSettings, TopicSettings, VideoSettings
from collab.streams.sources.base import Source
from collab.streams.sources.folder import FolderSource, natural
from collab.streams.sources.memory import MemorySource
from collab.streams.sources.topic import TopicSource
from collab.streams.sources.video import video_file
from tests.mosquitto import mosquitto

COUNT = 12
WITHIN_S = 20.0

Give = Callable[[], None]
"""Has frames come, where they do not by themselves."""


@contextmanager
def memory(folder: Path) -> Iterator[tuple[Source, Give]]:
    yield MemorySource([Frame(str(i), 0, {}) for i in range(COUNT)]), lambda: None


@contextmanager
def files(folder: Path) -> Iterator[tuple[Source, Give]]:
    for i in range(COUNT):
        (folder / f"{i}.npy").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    (folder / ".hidden.npy").write_bytes(b"")
    (folder / "link.npy").symlink_to(folder / "0.npy")
    (folder / "folder.npy").mkdir()
    yield FolderSource(FolderSettings(path=folder)), lambda: None


@contextmanager
def video(folder: Path) -> Iterator[tuple[Source, Give]]:
    path = folder / "clip.mp4"
    write_clip(path, COUNT)
    yield video_file(VideoSettings(path=path)), lambda: None


@contextmanager
def topic(folder: Path) -> Iterator[tuple[Source, Give]]:
    with mosquitto() as broker:
        url = f"mqtt://127.0.0.1:{broker.port}/frames/%23"

        def give() -> None:
            messages = [{"topic": f"frames/{i}", "payload": str(i), "qos": 1} for i in range(COUNT)]
            publish.multiple(messages, port=broker.port)

        yield TopicSource(TopicSettings(url=url, qos=1)), give


SOURCES = {"memory": memory, "folder": files, "video": video, "topic": topic}


def write_clip(path: Path, count: int, rate: int = 25, form: str | None = None) -> None:
    """Frames of growing brightness."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream("mpeg4" if form is None else "libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(count):
            pixels = np.full((48, 64, 3), 20 * i % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(params=SOURCES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """Open, with its frames on their way."""
    with SOURCES[request.param](tmp_path) as (source, give):
        source.open()
        thread = threading.Timer(0.3 if request.param == "topic" else 0.0, give)
        thread.start()
        yield source
        source.stop()
        source.close()
        thread.join()


def read_all(source: Source) -> list[Frame]:
    found: list[Frame] = []
    while len(found) < COUNT:
        frame = source.read()
        assert frame is not None
        found.append(frame)
    return found


def test_frames_come_in_their_order_and_once(opened: Source):
    found = read_all(opened)
    numbers = [int(re.findall(r"[0-9]+", frame.name)[-1]) for frame in found]
    assert numbers == list(range(COUNT))
    if not opened.lasts:
        assert opened.read() is None
        assert opened.read() is None


def test_stopping_ends_a_read_from_another_thread(opened: Source):
    read_all(opened)
    ended = threading.Event()

    def read() -> None:
        assert opened.read() is None
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    opened.stop()
    opened.stop()
    assert ended.wait(WITHIN_S)
    thread.join()


def test_closing_may_be_repeated_and_frames_come_after_opening_again(opened: Source):
    first = opened.read()
    assert first is not None
    if opened.lasts:
        opened.close()
        opened.close()
        opened.open()
        return
    opened.close()
    opened.close()
    opened.open()
    assert opened.read() is not None


def test_digits_count_in_the_order_of_names():
    names = ["10.png", "9.png", "a2.png", "a10.png", "a1.png", "1.png", "b.png"]
    assert sorted(names, key=natural) == ["1.png", "9.png", "10.png", "a1.png", "a2.png", "a10.png", "b.png"]


def test_a_watched_folder_gives_files_that_appear_when_they_are_whole(tmp_path: Path):
    source = FolderSource(FolderSettings(path=tmp_path, watch=True, poll_s=0.05))
    (tmp_path / "1.npy").write_bytes(b"whole")
    source.open()
    first = source.read()
    assert first is not None
    assert first.data == tmp_path / "1.npy"
    growing = threading.Event()

    def write() -> None:
        with (tmp_path / "2.npy").open("wb") as file:
            until = time.monotonic() + 0.4
            while time.monotonic() < until:
                file.write(b"part")
                file.flush()
                time.sleep(0.01)
            growing.set()

    thread = threading.Thread(target=write)
    thread.start()
    second = source.read()
    assert second is not None
    assert second.name == "2.npy"
    assert growing.is_set()
    thread.join()
    source.stop()
    assert source.read() is None


def test_a_video_in_real_time_takes_its_time(tmp_path: Path):
    write_clip(tmp_path / "clip.mp4", 6, rate=20)
    source = video_file(VideoSettings(path=tmp_path / "clip.mp4", realtime=True))
    source.open()
    begun = time.monotonic()
    assert len(list(iter(source.read, None))) == 6
    assert time.monotonic() - begun >= 5 / 20 * 0.9
    source.close()


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="there is no such folder"):
        FolderSource(FolderSettings(path=tmp_path / "none")).open()
    with pytest.raises(PeerUnreachable, match="there is no such folder"):
        FolderSource(FolderSettings(path=tmp_path / "none", watch=True)).open()
    source = TopicSource(TopicSettings(url="mqtt://127.0.0.1:1/topic"))
    with pytest.raises(PeerUnreachable, match="no broker answers"):
        source.open()
    source.close()


def test_messages_are_frames_with_their_bytes():
    with mosquitto() as broker:
        source = TopicSource(TopicSettings(url=f"mqtt://127.0.0.1:{broker.port}/door", payload="tensor"))
        publish.single("door", b"\x00\x01", retain=True, qos=1, port=broker.port)
        source.open()
        frame = source.read()
        assert frame is not None
        assert (frame.name, frame.data) == ("door", Payload(b"\x00\x01", "tensor"))
        source.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://host/t",
        "mqtt://host",
        "mqtt://host/",
        "mqtt://:1/t",
        "mqtt://host:0/t",
        "mqtt://u:secret@host/?x=1",
    ],
)
def test_an_address_without_a_topic_is_refused(url: str):
    with pytest.raises(InputError, match="mqtt://HOST") as caught:
        TopicSource(TopicSettings(url=url))
    assert "secret" not in str(caught.value)
