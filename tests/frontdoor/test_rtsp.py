"""A camera in the network: GStreamer's RTSP server with a video that this test encodes."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from collab.core.tensor import TensorSpec
from collab.errors import LinkLost, PeerUnreachable
from collab.streams.frames import Frame
from collab.streams.outbox import Outbox
from collab.streams.pump import Stream
from collab.streams.reading import FrameReader, Inputs
from collab.streams.settings import RtspSettings
from collab.streams.sinks.memory import MemorySink
from collab.streams.sources.video import VideoSource, rtsp
from collab.transport.aio import timeout
from tests.contract.test_frame_sources import write_clip
from tests.mosquitto import free_port
from tests.unit.streams.test_pump import Given, until

pytestmark = pytest.mark.heavy("frontdoor")

PYTHON = "/usr/bin/python3"
"""The system's, which has GStreamer's bindings."""
SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f"( filesrc location={sys.argv[2]} ! qtdemux ! rtph264pay name=pay0 config-interval=1 )")
server.get_mount_points().add_factory("/front", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""
WITHIN_S = 40.0


@contextmanager
def camera(port: int, clip: Path) -> Iterator[None]:
    """A server whose stream ends with the clip."""
    probe = subprocess.run(
        [PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"],
        capture_output=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip("GStreamer's RTSP server is missing: apt-get install gir1.2-gst-rtsp-server-1.0")
    process = subprocess.Popen(
        [PYTHON, "-c", SERVER, str(port), str(clip)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_clip(path, 50, form="mp4")
    return path


def source(port: int, **settings: object) -> VideoSource:
    return rtsp(RtspSettings(url=f"rtsp://viewer:s3cret@127.0.0.1:{port}/front", timeout_s=2.0, **settings))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_of_a_network_camera_are_read_until_it_ends(clip: Path, transport: str):
    port = free_port()
    with camera(port, clip):
        eye = source(port, transport=transport)
        eye.open()
        found: list[Frame] = []
        with pytest.raises(LinkLost) as caught:
            found.extend(iter(eye.read, None))
        assert "s3cret" not in str(caught.value)
        eye.close()
    assert len(found) > 25
    pixels = found[0].data.pixels()
    assert pixels.shape == (48, 64, 3)
    with pytest.raises(PeerUnreachable, match=r"rtsp://127.0.0.1:\d+/front: cannot be opened"):
        eye.open()


async def test_a_camera_that_goes_is_dialled_again_and_the_stream_goes_on(clip: Path):
    async def ask(inputs: Inputs, deadline_s: float) -> Given:
        return Given({"y": np.zeros(1, np.float32)})

    class Shapes(FrameReader):
        """Takes pictures as they are."""

        def requests(self, frame: Frame) -> list[Inputs]:
            return [{"x": frame.data.pixels()}]

    port = free_port()
    run = Stream(
        "s",
        source(port),
        Shapes((TensorSpec("x", (1,), "float32"),), None),
        ask,
        [Outbox("memory", MemorySink())],
        patient=True,
    )
    task = asyncio.create_task(run.run())
    async with timeout(WITHIN_S):
        await until(lambda: "cannot be opened" in run.trouble)
        for _ in range(2):
            before = run.counts.answered
            with camera(port, clip):
                await until(lambda: run.counts.answered > before + 5)  # noqa: B023 - awaited here
        run.stop()
        await task
    counts = run.counts
    assert counts.captured == counts.answered + counts.dropped
